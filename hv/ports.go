package hv

import (
	"github.com/drzln/whiterun/hv/legacy"
	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/x86"
)

// portRange is a run of I/O ports and the device that answers there. An access
// has 1, 2 or 4 bytes and starts in the range, but may end behind it.
type portRange struct {
	first, last uint16
	read, write func(port uint16, p []byte)
}

// ports is the machine's port space. Everything else floats: reads are all
// ones and writes vanish.
type ports []portRange

// access serves one instruction: any number of elements of size bytes, each
// moved to or from port.
func (ps ports) access(write bool, port uint16, size int, data []byte) {
	r := ps.find(port)
	for ; len(data) >= size; data = data[size:] {
		switch element := data[:size]; {
		case r == nil && !write:
			float(element)
		case r == nil:
		case write:
			r.write(port, element)
		default:
			r.read(port, element)
		}
	}
}

// find returns the range that holds port, nil when none does.
func (ps ports) find(port uint16) *portRange {
	for i := range ps {
		if r := &ps[i]; port >= r.first && port <= r.last {
			return r
		}
	}
	return nil
}

// float makes p what a bus reads where nothing drives it.
func float(p []byte) {
	for i := range p {
		p[i] = 0xFF
	}
}

// bytePorts returns the range of a device of n registers of one byte each. A
// wider access reaches the registers behind its port, one after the other.
func bytePorts(first uint16, n int, in func(offset uint16) byte, out func(offset uint16, b byte)) portRange {
	return portRange{
		first: first, last: first + uint16(n) - 1,
		read: func(port uint16, p []byte) {
			float(p)
			for i := 0; i < min(len(p), n-int(port-first)); i++ {
				p[i] = in(port - first + uint16(i))
			}
		},
		write: func(port uint16, p []byte) {
			for i := 0; i < min(len(p), n-int(port-first)); i++ {
				out(port-first+uint16(i), p[i])
			}
		},
	}
}

// newPorts wires the serial port, PCI's configuration mechanism 1, and the
// registers by which a guest ends.
func newPorts(uart *legacy.UART, bus *pci.Bus, power func(legacy.PowerEvent)) ports {
	zero := func(uint16) byte { return 0 }
	floating := func(uint16) byte { return 0xFF }
	return ports{
		bytePorts(x86.COM1Port, 8, uart.In, uart.Out),
		{first: pci.AddressPort, last: pci.DataPort + 3, read: bus.ReadPort, write: bus.WritePort},
		bytePorts(x86.ResetPort, 1, floating, func(_ uint16, b byte) {
			power(legacy.ResetRegister(b, x86.ResetValue))
		}),
		// The sleep control register and, behind it, the status register.
		bytePorts(x86.SleepPort, 2, zero, func(offset uint16, b byte) {
			if offset == 0 {
				power(legacy.Sleep(b, x86.SleepTypeS5))
			}
		}),
		// A status register of zero: no key waits, and the controller takes
		// commands. A kernel that finds no controller still pulses its reset.
		bytePorts(x86.I8042Port, 1, zero, func(_ uint16, b byte) {
			power(legacy.I8042(b))
		}),
		bytePorts(x86.PVPanicPort, 1, func(uint16) byte { return legacy.PVPanicEvents }, func(_ uint16, b byte) {
			power(legacy.PVPanic(b))
		}),
	}
}
