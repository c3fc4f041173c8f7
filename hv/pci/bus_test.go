package pci_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/pci/pcitest"
)

const (
	windowStart = 4 << 30
	barSize     = 0x8000
	tableAt     = 0x4000
	pbaAt       = 0x5000
	msixAt      = 0x40
	windowAt    = 0x4C // the vendor capability
)

// registers is a model of 32 KiB of plain memory.
type registers [barSize]byte

func (r *registers) ReadBAR(offset uint64, p []byte)  { copy(p, r[offset:]) }
func (r *registers) WriteBAR(offset uint64, p []byte) { copy(r[offset:], p) }

func spec(model pci.Device) pci.Spec {
	return pci.Spec{
		Vendor: 0x1AF4, Device: 0x1043, SubsystemVendor: 0x1AF4, Subsystem: 0x1100, Revision: 1, Class: 0x078000,
		BARSize: barSize, Model: model,
		MSIX:      pci.MSIXSpec{Vectors: 3, Table: tableAt, PBA: pbaAt},
		Doorbells: []pci.Doorbell{{Offset: 0x3000, FD: 7}, {Offset: 0x3004, FD: 8}},
		Capabilities: []pci.Capability{{
			Body: []byte{8, 5, 0, 0, 0, 0}, Writable: []byte{0, 0, 0xFF},
		}},
	}
}

func newBus(t testing.TB, size uint64) (*pcitest.Platform, *pci.Bus) {
	t.Helper()
	platform := pcitest.New()
	bus := pci.New(platform, pci.Window{Start: windowStart, Size: size}, zerolog.Nop())
	t.Cleanup(func() {
		if err := bus.Close(); err != nil {
			t.Error(err)
		}
		if n, m := platform.Doorbells(), platform.Vectors(); n != 0 || m != 0 {
			t.Errorf("%d doorbells and %d vectors left", n, m)
		}
	})
	return platform, bus
}

func addFunction(t testing.TB, bus *pci.Bus) *pci.Function {
	t.Helper()
	f, err := bus.AddFunction(spec(new(registers)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func ecam(slot, register int) uint64 { return uint64(slot)<<15 | uint64(register) }

func read(bus *pci.Bus, offset uint64, n int) uint64 {
	p := make([]byte, 8)
	bus.ReadConfig(offset, p[:n])
	return binary.LittleEndian.Uint64(p)
}

func write(bus *pci.Bus, offset uint64, n int, v uint64) {
	bus.WriteConfig(offset, binary.LittleEndian.AppendUint64(nil, v)[:n])
}

func TestHeader(t *testing.T) {
	_, bus := newBus(t, 1<<30)
	f := addFunction(t, bus)
	if f.Slot() != 1 {
		t.Fatalf("slot %d", f.Slot())
	}
	for _, test := range []struct {
		name   string
		offset uint64
		n      int
		want   uint64
	}{
		{"host bridge", ecam(0, 0), 4, 0x0d57_8086},
		{"host bridge class", ecam(0, 8), 4, 0x0600_0000},
		{"host bridge has no capabilities", ecam(0, 6), 2, 0},
		{"identity", ecam(1, 0), 4, 0x1043_1AF4},
		{"class and revision", ecam(1, 8), 4, 0x0780_0001},
		{"command and status", ecam(1, 4), 4, 0x0010_0000},
		{"header type", ecam(1, 0xE), 1, 0},
		{"BAR 0 and 1", ecam(1, 0x10), 8, windowStart | 0xC},
		{"subsystem", ecam(1, 0x2C), 4, 0x1100_1AF4},
		{"capabilities", ecam(1, 0x34), 1, msixAt},
		{"MSI-X", ecam(1, msixAt), 8, tableAt<<32 | 0x0002_4C11},
		{"PBA", ecam(1, msixAt+8), 4, pbaAt},
		{"vendor capability", ecam(1, windowAt), 8, 0x0000_0000_0508_0009},
		{"interrupt pin", ecam(1, 0x3D), 1, 0},
		{"unaligned", ecam(1, 1), 2, 0x431A},
		{"extended space", ecam(1, 0x100), 4, 0},
		{"over the end of the header space", ecam(1, 0xFE), 4, 0},
		{"no such device", ecam(2, 0), 4, 0xFFFF_FFFF},
		{"no such function", ecam(1, 0) + 0x1000, 4, 0xFFFF_FFFF},
		{"from one function into nothing", ecam(1, 0xFFE), 4, 0xFFFF_0000},
		{"no such bus", 1 << 20, 8, ^uint64(0)},
		{"end of ECAM", 256<<20 - 4, 8, ^uint64(0)},
		{"end of addresses", ^uint64(0) - 3, 8, 0x0d57_8086_FFFF_FFFF}, // wraps, harmlessly
	} {
		if got := read(bus, test.offset, test.n); got != test.want {
			t.Errorf("%s: %#x, want %#x", test.name, got, test.want)
		}
	}
	write(bus, ecam(1, 0), 8, ^uint64(0))
	if got := read(bus, ecam(1, 0), 8); got != 0x0010_0546_1043_1AF4 {
		t.Errorf("after ones: %#x", got)
	}
	write(bus, ecam(1, windowAt), 8, ^uint64(0))
	if got := read(bus, ecam(1, windowAt), 8); got != 0x0000_00FF_0508_0009 {
		t.Errorf("capability after ones: %#x", got)
	}
}

func TestPorts(t *testing.T) {
	_, bus := newBus(t, 1<<30)
	addFunction(t, bus)
	put := func(port uint16, n int, v uint32) {
		bus.WritePort(port, binary.LittleEndian.AppendUint32(nil, v)[:n])
	}
	get := func(port uint16, n int) uint32 {
		p := make([]byte, 4)
		bus.ReadPort(port, p[:n])
		return binary.LittleEndian.Uint32(p)
	}
	// What Linux does to find out whether the mechanism is there.
	put(0xCFB, 1, 1)
	put(0xCF8, 4, 0x8000_0000)
	if got := get(0xCF8, 4); got != 0x8000_0000 {
		t.Fatalf("address register: %#x", got)
	}
	if got := get(0xCFC+2, 2); got != 0x0d57 {
		t.Fatalf("host bridge: %#x", got)
	}
	put(0xCF8, 4, 0x8000_0800|0x3C)
	put(0xCFC, 1, 0x5A)
	if got := read(bus, ecam(1, 0x3C), 1); got != 0x5A {
		t.Fatalf("interrupt line: %#x", got)
	}
	if got := get(0xCFF, 2); got != 0xFFFF {
		t.Fatalf("over the data register: %#x", got)
	}
	put(0xCF8, 4, 0x0000_0800)
	if got := get(0xCFC, 4); got != 0xFFFF_FFFF {
		t.Fatalf("disabled: %#x", got)
	}
	put(0xCF8, 4, 0x8001_0000)
	if got := get(0xCFC, 4); got != 0xFFFF_FFFF {
		t.Fatalf("bus 1: %#x", got)
	}
}

func TestBAR(t *testing.T) {
	platform, bus := newBus(t, 1<<30)
	addFunction(t, bus)
	const bar, command = 0x10, 4
	expect := func(what string, base uint64) {
		t.Helper()
		p := []byte{0}
		want := 0
		if base != 0 {
			want = 2
			if fd, _ := platform.Doorbell(base + 0x3000); fd != 7 {
				t.Errorf("%s: doorbell 0 is %d", what, fd)
			}
			if fd, _ := platform.Doorbell(base + 0x3004); fd != 8 {
				t.Errorf("%s: doorbell 1 is %d", what, fd)
			}
			if !bus.MMIORead(base+barSize-1, p) || bus.MMIORead(base+barSize, p) || bus.MMIORead(base-1, p) {
				t.Errorf("%s: does not decode at %#x", what, base)
			}
		} else if bus.MMIORead(windowStart, p) {
			t.Errorf("%s: decodes", what)
		}
		if got := platform.Doorbells(); got != want {
			t.Errorf("%s: %d doorbells", what, got)
		}
	}
	expect("at first", 0)
	write(bus, ecam(1, command), 2, 6)
	expect("enabled", windowStart)
	write(bus, ecam(1, command), 2, 0)
	expect("disabled", 0)
	write(bus, ecam(1, bar), 8, ^uint64(0))
	if got := read(bus, ecam(1, bar), 8); got != ^uint64(barSize-1)|0xC {
		t.Errorf("size: %#x", got)
	}
	write(bus, ecam(1, command), 2, 2)
	expect("at the end of addresses", ^uint64(barSize-1))
	write(bus, ecam(1, bar), 4, 0x1234_5678)
	write(bus, ecam(1, bar+4), 4, 0x77)
	expect("moved in halves", 0x77_1234_0000)
	write(bus, ecam(1, bar), 8, 0)
	if !bus.MMIORead(0, []byte{0}) || platform.Doorbells() != 2 {
		t.Error("at address 0")
	}
	write(bus, ecam(1, bar), 8, windowStart)
	write(bus, ecam(1, command), 1, 2)
	expect("back", windowStart)

	// A second function in the same place: the first one wins, and the second
	// comes back when it moves away.
	addFunction(t, bus)
	write(bus, ecam(2, bar), 8, windowStart)
	write(bus, ecam(2, command), 2, 2)
	expect("under another", windowStart)
	bus.MMIOWrite(windowStart+16, []byte{1, 2})
	write(bus, ecam(1, command), 2, 0)
	p := make([]byte, 2)
	if !bus.MMIORead(windowStart+16, p) || p[0] != 0 {
		t.Errorf("second function reads %v", p)
	}
}

func TestWindow(t *testing.T) {
	_, bus := newBus(t, 2*barSize+1)
	addFunction(t, bus)
	f := addFunction(t, bus)
	if got := read(bus, ecam(f.Slot(), 0x10), 8); got != windowStart+barSize|0xC {
		t.Fatalf("second BAR at %#x", got)
	}
	if _, err := bus.AddFunction(spec(new(registers))); !errors.Is(err, pci.ErrNoSpace) {
		t.Fatalf("third function: %v", err)
	}
	_, bus = newBus(t, 1<<30)
	for range pci.Slots - 1 {
		addFunction(t, bus)
	}
	if _, err := bus.AddFunction(spec(new(registers))); !errors.Is(err, pci.ErrNoSpace) {
		t.Fatalf("33rd slot: %v", err)
	}
	bad := spec(nil)
	bad.BARSize = 0x3000
	_, bus = newBus(t, 1<<30)
	if _, err := bus.AddFunction(bad); err == nil {
		t.Fatal("a BAR of 12 KiB")
	}
	bad = spec(nil)
	bad.MSIX.PBA = bad.MSIX.Table
	if _, err := bus.AddFunction(bad); err == nil {
		t.Fatal("PBA over the table")
	}
}

func TestMSIX(t *testing.T) {
	platform, bus := newBus(t, 1<<30)
	f := addFunction(t, bus)
	write(bus, ecam(1, 4), 2, 2)
	expect := func(what string, want ...pcitest.Message) {
		t.Helper()
		if got := platform.Sent(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: sent %v, want %v", what, got, want)
		}
	}
	entry := func(i int, address uint64, data, control uint32) {
		p := binary.LittleEndian.AppendUint64(nil, address)
		p = binary.LittleEndian.AppendUint32(p, data)
		p = binary.LittleEndian.AppendUint32(p, control)
		for at := 0; at < 16; at += 4 {
			bus.MMIOWrite(windowStart+tableAt+uint64(16*i+at), p[at:at+4])
		}
	}
	control := func(v uint16) { write(bus, ecam(1, msixAt+2), 2, uint64(v)) }
	pending := func() byte {
		p := make([]byte, 8)
		bus.MMIORead(windowStart+pbaAt, p)
		return p[0]
	}

	if f.Interrupt(0) {
		t.Error("enabled at first")
	}
	control(0x8000)
	if !f.Interrupt(0) || pending() != 1 {
		t.Errorf("masked entry: pending %b", pending())
	}
	f.Interrupt(3)
	f.Interrupt(-1)
	expect("masked")
	entry(0, 0xFEE0_1000, 0x41, 0)
	expect("unmasked", pcitest.Message{Address: 0xFEE0_1000, Data: 0x41})
	if pending() != 0 {
		t.Error("still pending")
	}
	f.Interrupt(0)
	f.Interrupt(0)
	expect("twice", pcitest.Message{Address: 0xFEE0_1000, Data: 0x41}, pcitest.Message{Address: 0xFEE0_1000, Data: 0x41})
	if n := platform.Routes(); n != 1 {
		t.Errorf("routed %d times", n)
	}
	control(0xC000)
	f.Interrupt(0)
	entry(1, 0xFEE0_2000, 0x42, 0)
	f.Interrupt(1)
	f.Interrupt(2) // its own mask is still set
	if pending() != 7 {
		t.Errorf("function masked: pending %b", pending())
	}
	bus.MMIOWrite(windowStart+pbaAt, []byte{0}) // read-only
	expect("function masked")
	control(0x8000)
	expect("function unmasked", pcitest.Message{Address: 0xFEE0_1000, Data: 0x41}, pcitest.Message{Address: 0xFEE0_2000, Data: 0x42})
	if pending() != 4 {
		t.Errorf("pending %b", pending())
	}
	entry(0, 0xFEE0_3000, 0x43, 0)
	f.Interrupt(0)
	expect("message changed", pcitest.Message{Address: 0xFEE0_3000, Data: 0x43})
	got := make([]byte, 16)
	bus.MMIORead(windowStart+tableAt, got)
	if want := []byte{0, 0x30, 0xE0, 0xFE, 0, 0, 0, 0, 0x43, 0, 0, 0, 0, 0, 0, 0}; !bytes.Equal(got, want) {
		t.Errorf("entry reads %x", got)
	}
	control(0)
	if f.Interrupt(0) {
		t.Error("still enabled")
	}
	expect("disabled")
}

func TestInterruptAllocations(t *testing.T) {
	bus := pci.New(silent{}, pci.Window{Start: windowStart, Size: 1 << 30}, zerolog.Nop())
	f := addFunction(t, bus)
	write(bus, ecam(1, 4), 2, 2)
	write(bus, ecam(1, msixAt+2), 2, 0x8000)
	bus.MMIOWrite(windowStart+tableAt+12, make([]byte, 4))
	if n := testing.AllocsPerRun(1000, func() { f.Interrupt(0) }); n != 0 {
		t.Fatalf("%v allocations per interrupt", n)
	}
}

// silent is a platform that does nothing.
type silent struct{}

func (silent) AddDoorbell(uint64, int) error    { return nil }
func (silent) RemoveDoorbell(uint64, int) error { return nil }
func (s silent) NewVector() (pci.Vector, error) { return s, nil }
func (silent) Route(uint64, uint32) error       { return nil }
func (silent) Trigger()                         {}
func (silent) Close() error                     { return nil }

// FuzzPCIConfig plays a guest that reads and writes anything anywhere. Each
// operation is an opcode, a length, a 64-bit address and 8 bytes to write.
func FuzzPCIConfig(f *testing.F) {
	const operation = 18
	op := func(code, n byte, at, v uint64) []byte {
		p := binary.LittleEndian.AppendUint64([]byte{code, n}, at)
		return binary.LittleEndian.AppendUint64(p, v)
	}
	f.Add(bytes.Join([][]byte{
		op(1, 2, ecam(1, 4), 2), op(1, 2, ecam(1, msixAt+2), 0x8000), op(3, 4, tableAt+12, 0), op(6, 0, 0, 0),
		op(1, 8, ecam(1, 0x10), ^uint64(0)), op(2, 8, pbaAt-4, 0), op(0, 4, ecam(1, 0xFFE), 0),
	}, nil))
	f.Add(bytes.Join([][]byte{
		op(1, 2, ecam(2, 4), 2), op(1, 8, ecam(2, 0x10), windowStart), op(1, 2, ecam(1, 4), 2),
		op(4, 4, 0xCF8, 0x8000_1000), op(5, 4, 0xCFC, 0), op(3, 8, barSize-4, 1),
	}, nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		platform, bus := newBus(t, 1<<30)
		functions := []*pci.Function{addFunction(t, bus), addFunction(t, bus)}
		for ; len(script) >= operation; script = script[operation:] {
			at, p := binary.LittleEndian.Uint64(script[2:]), bytes.Clone(script[10:][:script[1]%9])
			switch script[0] % 8 {
			case 0:
				bus.ReadConfig(at, p)
			case 1:
				bus.WriteConfig(at, p)
			case 2:
				bus.MMIORead(windowStart+at%(4*barSize), p)
			case 3:
				bus.MMIOWrite(windowStart+at%(4*barSize), p)
			case 4:
				bus.WritePort(uint16(at), p)
			case 5:
				bus.ReadPort(uint16(at), p)
			case 6:
				functions[at%2].Interrupt(int(at % 5))
			case 7:
				bus.MMIORead(at, p)
			}
			if n := platform.Doorbells(); n > 4 {
				t.Fatalf("%d doorbells", n)
			}
		}
		if got := read(bus, ecam(1, 0), 4); got != 0x1043_1AF4 {
			t.Fatalf("identity became %#x", got)
		}
	})
}
