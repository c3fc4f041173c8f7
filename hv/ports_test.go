package hv

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/hv/legacy"
	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/pci/pcitest"
	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/console"
	"github.com/drzln/whiterun/hv/virtio/virtiotest"
	"github.com/drzln/whiterun/hv/x86"
)

// FuzzPorts plays a guest that reads and writes any port in any width, with a
// virtio function behind the PCI ports. Each operation is a direction and
// width, a count of elements, a port, and four bytes that are written.
func FuzzPorts(f *testing.F) {
	const operation = 8
	op := func(code, count byte, port uint16, v uint32) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16([]byte{code, count}, port), v)
	}
	const out8, out16, out32, in8, in32 = 0, 1, 2, 3, 5
	f.Add(bytes.Join([][]byte{op(out8, 1, x86.COM1Port+3, 0x80), op(out16, 1, x86.COM1Port, 12), op(out8, 200, x86.COM1Port, 'x'),
		op(out8, 1, x86.COM1Port+4, 0x1F), op(out32, 9, x86.COM1Port, 1), op(in8, 3, x86.COM1Port, 0), op(in32, 1, x86.COM1Port+6, 0)}, nil))
	f.Add(bytes.Join([][]byte{op(out32, 1, pci.AddressPort, 0x8000_0804), op(out16, 1, pci.DataPort, 7), op(in32, 1, pci.DataPort+2, 0),
		op(out32, 1, pci.AddressPort, 0x8000_0842), op(out32, 4, pci.DataPort, 0xC000_C000)}, nil))
	// The window onto the BAR: bar, offset, length, data.
	f.Add(bytes.Join([][]byte{op(out32, 1, pci.AddressPort, 0x8000_0898), op(out32, 1, pci.DataPort, 0x14),
		op(out32, 1, pci.AddressPort, 0x8000_089C), op(out32, 1, pci.DataPort, 1), op(out32, 1, pci.AddressPort, 0x8000_08A0),
		op(out8, 1, pci.DataPort, 15), op(in32, 1, pci.DataPort, 0)}, nil))
	f.Add(bytes.Join([][]byte{op(out32, 2, x86.ResetPort, 0x3442), op(out16, 1, x86.SleepPort, 0x34), op(in32, 1, x86.SleepPort, 0),
		op(out8, 1, x86.I8042Port, 0xFE), op(out32, 1, x86.PVPanicPort, 3)}, nil))
	f.Fuzz(func(t *testing.T, script []byte) {
		uart := legacy.NewUART(newPanicWatch(func() {}).watch(newConsoles(io.Discard).writeSerial), func() {})
		bus := pci.New(pcitest.New(), pci.Window{Start: 1 << 32, Size: 1 << 30}, zerolog.Nop())
		hvc := console.New(io.Discard)
		function, err := virtio.NewPCI(bus, hvc, virtiotest.NewMemory(t, 64<<10), zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := bus.Close(); err != nil {
				t.Error(err)
			}
			function.Close()
			_ = hvc.Close()
		}()
		var at uint16 // the port of the access under way
		ps := newPorts(uart, bus, func(legacy.PowerEvent) {
			if at != x86.ResetPort && at != x86.SleepPort && at != x86.I8042Port && at != x86.PVPanicPort {
				t.Errorf("an access to port %#x was a power event", at)
			}
		})
		for ; len(script) >= operation; script = script[operation:] {
			at = binary.LittleEndian.Uint16(script[2:])
			size, write := 1<<(script[0]%3), script[0]%6 < 3
			data := bytes.Repeat(script[4:8][:size], int(script[1]))
			ps.access(write, at, size, data)
			if !write && ps.find(at) == nil && bytes.Count(data, []byte{0xFF}) != len(data) {
				t.Errorf("port %#x, where nothing is, reads % x", at, data)
			}
		}
		ps.access(true, pci.AddressPort, 4, []byte{0, 8, 0, 0x80})
		identity := make([]byte, 4)
		if ps.access(false, pci.DataPort, 4, identity); !bytes.Equal(identity, []byte{0xF4, 0x1A, 0x43, 0x10}) {
			t.Errorf("identity became % x", identity)
		}
		status := make([]byte, 1)
		if ps.access(false, x86.COM1Port+5, 1, status); status[0]&0x60 != 0x60 {
			t.Errorf("LSR became %#x", status[0])
		}
	})
}
