package pci

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
)

// Registers of a type 0 header (PCI Local Bus 3.0 §6.1).
const (
	regVendor          = 0x00
	regDevice          = 0x02
	regCommand         = 0x04
	regStatus          = 0x06
	regRevision        = 0x08 // and the class code in the three bytes behind it
	regCacheLine       = 0x0C
	regBAR0            = 0x10 // and BAR 1, its upper half
	regSubsystemVendor = 0x2C
	regSubsystem       = 0x2E
	regCapabilities    = 0x34
	regInterruptLine   = 0x3C
	regFirstCapability = 0x40

	configSize = 256 // no PCI Express capability, so no extended space

	commandMemory    = 1 << 1
	commandWritable  = commandMemory | 1<<2 | 1<<6 | 1<<8 | 1<<10 // master, parity, SERR, INTx disable
	statusHasCaps    = 1 << 4
	bar64BitPrefetch = 0xC

	capabilityMSIX   = 0x11
	capabilityVendor = 0x09
)

// notDecoding is the base of a BAR that answers nothing; no BAR can be placed
// there, being smaller than a page's alignment.
const notDecoding = ^uint64(0)

// Device is the model behind a function's BAR. Its methods are called by
// several vCPUs at once, with any length and any offset inside the BAR.
type Device interface {
	ReadBAR(offset uint64, p []byte)
	WriteBAR(offset uint64, p []byte)
}

// Spec describes a function. Its BAR is BAR 0: memory, 64-bit, prefetchable.
type Spec struct {
	Vendor, Device             uint16
	SubsystemVendor, Subsystem uint16
	Revision                   uint8
	Class                      uint32 // base class, subclass, interface: 0xBBSSII

	BARSize      uint64 // bytes, a power of two, at least 4096
	Model        Device // answers what is not MSI-X in the BAR
	MSIX         MSIXSpec
	Doorbells    []Doorbell
	Capabilities []Capability
}

// Doorbell is an address in the BAR whose writes signal an eventfd.
type Doorbell struct {
	Offset uint64
	FD     int
}

// Capability is one vendor-specific capability (ID 09h).
type Capability struct {
	// Body is the capability from its third byte on, which is its length; ID
	// and link are the bus's. Writable has ones where the guest can write,
	// nothing when it can nowhere.
	Body, Writable []byte
	// Read, when not nil, brings Body's bytes up to date before the guest
	// reads some of them, beginning at offset from, up to offset to. Write
	// is told after the guest wrote there. Both are called one at a time.
	Read, Write func(body []byte, from, to int)
}

// check finds a programmer's mistakes before a guest does.
func (s *Spec) check() error {
	if s.BARSize < 4096 || bits.OnesCount64(s.BARSize) != 1 {
		return fmt.Errorf("BAR of %d bytes: not a power of two from 4096 on", s.BARSize)
	}
	if err := s.MSIX.check(s.BARSize); err != nil {
		return err
	}
	length := 12
	for _, c := range s.Capabilities {
		length += (len(c.Body) + 2 + 3) &^ 3
	}
	if length > configSize-regFirstCapability {
		return fmt.Errorf("capabilities of %d bytes do not fit configuration space", length)
	}
	return nil
}

// Function is one PCI function: its configuration space, where its BAR
// decodes, and its MSI-X vectors.
type Function struct {
	bus  *Bus
	spec Spec
	slot int
	msix *msix

	// base is where the BAR decodes, or notDecoding; mu guards its changes and
	// all of the rest.
	base        atomic.Uint64
	mu          sync.Mutex
	config      [configSize]byte
	writable    [configSize]byte
	capability  []int // offset of each of spec.Capabilities' bodies
	msixControl int   // offset of the MSI-X message control register
	registered  []bool
	warned      atomic.Bool
}

func newFunction(b *Bus, spec Spec) *Function {
	f := &Function{bus: b, spec: spec, msix: newMSIX(spec.MSIX), registered: make([]bool, len(spec.Doorbells))}
	f.base.Store(notDecoding)
	le := binary.LittleEndian
	le.PutUint16(f.config[regVendor:], spec.Vendor)
	le.PutUint16(f.config[regDevice:], spec.Device)
	le.PutUint32(f.config[regRevision:], spec.Class<<8|uint32(spec.Revision))
	le.PutUint16(f.config[regSubsystemVendor:], spec.SubsystemVendor)
	le.PutUint16(f.config[regSubsystem:], spec.Subsystem)
	le.PutUint16(f.writable[regCommand:], commandWritable)
	f.writable[regCacheLine] = 0xFF
	f.writable[regInterruptLine] = 0xFF
	if spec.BARSize > 0 {
		f.config[regBAR0] = bar64BitPrefetch
		le.PutUint64(f.writable[regBAR0:], ^(spec.BARSize - 1))
	}
	f.addCapabilities()
	return f
}

// addCapabilities lays the list out from regFirstCapability on, MSI-X first.
func (f *Function) addCapabilities() {
	at, link := regFirstCapability, regCapabilities
	add := func(id byte, body, writable []byte) (offset int) {
		f.config[link] = byte(at)
		f.config[at] = id
		offset, link = at+2, at+1
		copy(f.config[offset:], body)
		copy(f.writable[offset:], writable)
		at = (offset + len(body) + 3) &^ 3
		return offset
	}
	if f.spec.MSIX.Vectors > 0 {
		f.msixControl = add(capabilityMSIX, f.spec.MSIX.capability(), []byte{0, 0xC0})
	}
	for _, c := range f.spec.Capabilities {
		f.capability = append(f.capability, add(capabilityVendor, c.Body, c.Writable))
	}
	if at > regFirstCapability {
		binary.LittleEndian.PutUint16(f.config[regStatus:], statusHasCaps)
	}
}

// makeVectors asks the platform for the function's interrupt vectors.
func (f *Function) makeVectors() error {
	for i := range f.msix.vectors {
		v, err := f.bus.platform.NewVector()
		if err != nil {
			return fmt.Errorf("make interrupt vector %d of %d: %w", i, len(f.msix.vectors), err)
		}
		f.msix.vectors[i].Vector = v
	}
	return nil
}

func (f *Function) placeBAR(start uint64) {
	binary.LittleEndian.PutUint64(f.config[regBAR0:], start|bar64BitPrefetch)
}

// close takes back what the function has of the platform.
func (f *Function) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decodeAt(notDecoding)
	return f.msix.close()
}

// Slot returns the function's device number.
func (f *Function) Slot() int { return f.slot }

// Interrupt sends interrupt vector i, or marks it pending while it is masked.
// It returns false, and does nothing, when the guest has MSI-X off. A vector
// the function does not have is dropped.
func (f *Function) Interrupt(i int) bool {
	enabled, err := f.msix.trigger(i)
	if err != nil {
		f.warn(err, "interrupt message refused")
	}
	return enabled
}

// warn logs the first thing that the platform refused; a guest can make it
// refuse things without end.
func (f *Function) warn(err error, what string) {
	log := f.bus.log.Debug()
	if f.warned.CompareAndSwap(false, true) {
		log = f.bus.log.Warn()
	}
	log.Err(err).Int("slot", f.slot).Msg(what)
}

func (f *Function) readConfig(register int, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(p)
	if register >= configSize {
		return
	}
	f.eachCapability(register, len(p), func(c *Capability, body []byte, from, to int) {
		if c.Read != nil {
			c.Read(body, from, to)
		}
	})
	copy(p, f.config[register:])
}

func (f *Function) writeConfig(register int, p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if register >= configSize {
		return
	}
	end := min(register+len(p), configSize)
	for i := register; i < end; i++ {
		f.config[i] = f.config[i]&^f.writable[i] | p[i-register]&f.writable[i]
	}
	touches := func(at, n int) bool { return register < at+n && at < end }
	if touches(regCommand, 2) || touches(regBAR0, 8) {
		f.decodeAt(f.wantedBase())
	}
	if f.msixControl != 0 && touches(f.msixControl, 2) {
		f.msixChanged(f.msix.setControl(binary.LittleEndian.Uint16(f.config[f.msixControl:])))
	}
	f.eachCapability(register, end-register, func(c *Capability, body []byte, from, to int) {
		if c.Write != nil {
			c.Write(body, from, to)
		}
	})
}

// eachCapability calls visit for the capabilities of which an access of n
// bytes touches something, from and to being offsets in the body.
func (f *Function) eachCapability(register, n int, visit func(c *Capability, body []byte, from, to int)) {
	for i, at := range f.capability {
		c := &f.spec.Capabilities[i]
		from, to := max(register, at), min(register+n, at+len(c.Body))
		if from < to {
			visit(c, f.config[at:at+len(c.Body)], from-at, to-at)
		}
	}
}

// wantedBase returns where the registers say that the BAR decodes.
func (f *Function) wantedBase() uint64 {
	if f.spec.BARSize == 0 || f.config[regCommand]&commandMemory == 0 {
		return notDecoding
	}
	return binary.LittleEndian.Uint64(f.config[regBAR0:]) &^ (f.spec.BARSize - 1)
}

// decodeAt moves the BAR and its doorbells. A doorbell that the platform
// refuses, as two at one address, is no error: the write then comes to
// WriteBAR.
func (f *Function) decodeAt(base uint64) {
	old := f.base.Load()
	if old == base {
		return
	}
	for i, d := range f.spec.Doorbells {
		if f.registered[i] {
			f.registered[i] = false
			if err := f.bus.platform.RemoveDoorbell(old+d.Offset, d.FD); err != nil {
				f.warn(err, "doorbell not taken back")
			}
		}
	}
	f.base.Store(base)
	if base == notDecoding {
		return
	}
	for i, d := range f.spec.Doorbells {
		if err := f.bus.platform.AddDoorbell(base+d.Offset, d.FD); err != nil {
			f.warn(err, "doorbell refused, its writes take the long way")
			continue
		}
		f.registered[i] = true
	}
}

// ReadBAR reads at offset into the BAR. What lies behind its end reads all
// ones.
func (f *Function) ReadBAR(offset uint64, p []byte) {
	fill(p, 0xFF)
	f.eachRegion(offset, p, f.msix.read, f.spec.Model.ReadBAR)
}

// WriteBAR writes at offset into the BAR.
func (f *Function) WriteBAR(offset uint64, p []byte) {
	f.eachRegion(offset, p, func(offset uint64, p []byte) { f.msixChanged(f.msix.write(offset, p)) }, f.spec.Model.WriteBAR)
}

func (f *Function) msixChanged(err error) {
	if err != nil {
		f.warn(err, "interrupt message refused")
	}
}

// eachRegion splits an access between the pages of MSI-X and the model's.
func (f *Function) eachRegion(offset uint64, p []byte, toMSIX, toModel func(offset uint64, p []byte)) {
	for len(p) > 0 && offset < f.spec.BARSize {
		n := min(uint64(len(p)), f.spec.BARSize-offset, msixPage-offset%msixPage)
		if f.spec.MSIX.owns(offset) {
			toMSIX(offset, p[:n])
		} else {
			toModel(offset, p[:n])
		}
		offset, p = offset+n, p[n:]
	}
}
