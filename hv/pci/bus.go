package pci

import (
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

// Slots is the number of devices on the bus, the host bridge included.
const Slots = 32

// Widths of the ECAM address (PCI Express Base 4.0 §7.2.2): 4 KiB a function,
// 8 functions a device, 32 devices a bus.
const (
	functionShift = 12
	deviceShift   = 15
	functionSize  = 1 << functionShift
)

// ErrNoSpace is wrapped when the bus has no slot, or its window no addresses,
// for one more function.
var ErrNoSpace = errors.New("no space on the PCI bus")

// Window is a range of guest-physical addresses for BARs.
type Window struct {
	Start, Size uint64
}

// Bus is PCI segment 0 with its one bus: a host bridge in slot 0 and single
// functions behind it. Its functions are added before the guest runs; after
// that its methods are safe for concurrent use.
type Bus struct {
	platform  Platform
	window    Window
	log       zerolog.Logger
	used      uint64 // bytes of the window that were given out
	functions [Slots]*Function
	port      portAddress
}

// New returns a bus with the host bridge alone. BARs are placed in window,
// which lies behind all RAM.
func New(platform Platform, window Window, log zerolog.Logger) *Bus {
	b := &Bus{platform: platform, window: window, log: log}
	b.functions[0] = newHostBridge(b)
	return b
}

// newHostBridge returns the function that stands for the way to memory. Linux
// reads its class and asks nothing of it; the identity is the one that
// cloud-hypervisor and Firecracker made known.
func newHostBridge(b *Bus) *Function {
	return newFunction(b, Spec{Vendor: 0x8086, Device: 0x0d57, Class: 0x060000})
}

// AddFunction puts a function into the next free slot and places its BAR, but
// does not let it decode: the driver does that, and a kernel claims a BAR that
// lies in its host bridge's window as firmware left it. Errors wrap
// ErrNoSpace, or say what the platform refused.
func (b *Bus) AddFunction(spec Spec) (*Function, error) {
	slot := 1
	for slot < Slots && b.functions[slot] != nil {
		slot++
	}
	if slot == Slots {
		return nil, fmt.Errorf("%w: all %d slots are taken", ErrNoSpace, Slots)
	}
	if err := spec.check(); err != nil {
		return nil, err
	}
	start := (b.window.Start + b.used + spec.BARSize - 1) &^ (spec.BARSize - 1)
	if start-b.window.Start > b.window.Size || spec.BARSize > b.window.Size-(start-b.window.Start) {
		return nil, fmt.Errorf("%w: a BAR of %d bytes in a window of %d", ErrNoSpace, spec.BARSize, b.window.Size)
	}
	f := newFunction(b, spec)
	if err := f.makeVectors(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	f.placeBAR(start)
	b.used = start - b.window.Start + spec.BARSize
	b.functions[slot] = f
	f.slot = slot
	return f, nil
}

// Close takes back the doorbells and releases the vectors of all functions.
func (b *Bus) Close() error {
	var errs []error
	for _, f := range b.functions {
		if f != nil {
			errs = append(errs, f.close())
		}
	}
	return errors.Join(errs...)
}

// ReadConfig reads configuration space, offset being relative to the start of
// ECAM, in any width and alignment. Where no function is, it reads all ones.
func (b *Bus) ReadConfig(offset uint64, p []byte) {
	b.eachFunction(offset, p, func(f *Function, register int, p []byte) {
		if f == nil {
			fill(p, 0xFF)
			return
		}
		f.readConfig(register, p)
	})
}

// WriteConfig writes configuration space; see ReadConfig.
func (b *Bus) WriteConfig(offset uint64, p []byte) {
	b.eachFunction(offset, p, func(f *Function, register int, p []byte) {
		if f != nil {
			f.writeConfig(register, p)
		}
	})
}

// eachFunction splits an access where it crosses from one function's space
// into the next. f is nil where there is none.
func (b *Bus) eachFunction(offset uint64, p []byte, access func(f *Function, register int, p []byte)) {
	for len(p) > 0 {
		register := int(offset % functionSize)
		n := min(len(p), functionSize-register)
		var f *Function
		if slot := offset >> deviceShift; slot < Slots && offset>>functionShift&7 == 0 {
			f = b.functions[slot]
		}
		access(f, register, p[:n])
		offset, p = offset+uint64(n), p[n:]
	}
}

// MMIORead reads at a guest-physical address; it returns false when no BAR
// decodes it.
func (b *Bus) MMIORead(gpa uint64, p []byte) bool {
	f, offset := b.decode(gpa)
	if f == nil {
		return false
	}
	f.ReadBAR(offset, p)
	return true
}

// MMIOWrite writes at a guest-physical address; it returns false when no BAR
// decodes it.
func (b *Bus) MMIOWrite(gpa uint64, p []byte) bool {
	f, offset := b.decode(gpa)
	if f == nil {
		return false
	}
	f.WriteBAR(offset, p)
	return true
}

// decode returns the function whose BAR holds gpa right now. A guest may put
// BARs over each other: the lowest slot wins. Nor does one over RAM harm, as
// KVM resolves RAM first.
func (b *Bus) decode(gpa uint64) (*Function, uint64) {
	for _, f := range &b.functions {
		if f == nil {
			continue
		}
		if base := f.base.Load(); base != notDecoding && gpa >= base && gpa-base < f.spec.BARSize {
			return f, gpa - base
		}
	}
	return nil, 0
}

func fill(p []byte, v byte) {
	for i := range p {
		p[i] = v
	}
}
