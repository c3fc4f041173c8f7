// Package legacy owns the few parts of a PC that kernels still touch by port
// I/O: a 16550 serial port, the keyboard controller's reset pulse, the ACPI
// reset and sleep registers, and pvpanic.
package legacy

import (
	"io"
	"sync"
)

// Registers of a 16550, as offsets from its base port (PC16550D data sheet).
const (
	uartData            = 0 // RBR, THR; divisor low with DLAB
	uartInterruptEnable = 1 // IER; divisor high with DLAB
	uartInterruptID     = 2 // IIR; FCR when written
	uartLineControl     = 3
	uartModemControl    = 4
	uartLineStatus      = 5
	uartModemStatus     = 6
	uartScratch         = 7
)

const (
	ierReceived    = 1 << 0
	ierTransmitted = 1 << 1

	iirNone        = 0x01
	iirTransmitted = 0x02
	iirReceived    = 0x04
	iirFIFO        = 0xC0

	fcrEnable       = 1 << 0
	fcrClearReceive = 1 << 1

	lcrDivisorLatch = 1 << 7

	mcrLoopback = 1 << 4

	lsrDataReady = 1 << 0
	// The transmitter is always empty: a byte is sent while it is written. A
	// kernel that reads anything else polls for ages before every byte.
	lsrTransmitterEmpty = 0x60

	// Carrier, data set ready and clear to send: somebody listens.
	msrConnected = 0xB0
)

// uartInputSize is how many bytes of input wait for the guest at the most.
const uartInputSize = 256

// UART is a 16550A whose transmitter is infinitely fast. Its methods are safe
// for concurrent use.
type UART struct {
	out io.Writer // where the guest's bytes go; may block
	irq func()    // pulses the interrupt line

	mu          sync.Mutex
	input       []byte // received, not yet read by the guest
	room        chan struct{}
	fifo        bool
	transmitted bool // the "transmitter empty" interrupt is pending
	divisor     [2]byte
	ier         byte
	lcr         byte
	mcr         byte
	scratch     byte
}

// everyByte holds each byte at its own index, so that one can be written
// without allocating a slice for it.
var everyByte = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
	}
	return t
}()

// NewUART returns a serial port that writes to out and calls irq at each rising
// edge of its interrupt line. Errors of out are the owner's to notice: a serial
// line has nobody to report them to.
func NewUART(out io.Writer, irq func()) *UART {
	return &UART{out: out, irq: irq, room: make(chan struct{}, 1), divisor: [2]byte{1, 0}}
}

// In reads register offset, 0 to 7.
func (u *UART) In(offset uint16) byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch offset {
	case uartData:
		if u.lcr&lcrDivisorLatch != 0 {
			return u.divisor[0]
		}
		return u.receive()
	case uartInterruptEnable:
		if u.lcr&lcrDivisorLatch != 0 {
			return u.divisor[1]
		}
		return u.ier
	case uartInterruptID:
		return u.identify()
	case uartLineControl:
		return u.lcr
	case uartModemControl:
		return u.mcr
	case uartLineStatus:
		if len(u.input) > 0 {
			return lsrTransmitterEmpty | lsrDataReady
		}
		return lsrTransmitterEmpty
	case uartModemStatus:
		if u.mcr&mcrLoopback != 0 {
			// Loopback wires the modem's outputs to its inputs: RTS to CTS, DTR
			// to DSR, OUT1 to RI, OUT2 to DCD. Drivers probe for the chip so.
			return u.mcr&0x0C<<4 | u.mcr&0x02<<3 | u.mcr&0x01<<5
		}
		return msrConnected
	case uartScratch:
		return u.scratch
	}
	return 0xFF
}

// Out writes register offset, 0 to 7.
func (u *UART) Out(offset uint16, b byte) {
	if send := u.write(offset, b); send {
		// Outside of the lock: a blocked reader of the console holds up this
		// vCPU, not the input.
		_, _ = u.out.Write(everyByte[b : int(b)+1])
	}
}

func (u *UART) write(offset uint16, b byte) (send bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch offset {
	case uartData:
		switch {
		case u.lcr&lcrDivisorLatch != 0:
			u.divisor[0] = b
			return false
		case u.mcr&mcrLoopback != 0:
			u.enqueue(b)
			return false
		}
		u.transmitted = true
		u.interrupt(ierTransmitted)
		return true
	case uartInterruptEnable:
		if u.lcr&lcrDivisorLatch != 0 {
			u.divisor[1] = b
			return false
		}
		enabled := b &^ u.ier
		u.ier = b & 0x0F
		if enabled&ierTransmitted != 0 {
			// The transmitter is empty already: enabling the interrupt raises it.
			u.transmitted = true
			u.interrupt(ierTransmitted)
		}
		if enabled&ierReceived != 0 && len(u.input) > 0 {
			u.interrupt(ierReceived)
		}
	case uartInterruptID: // FIFO control
		u.fifo = b&fcrEnable != 0
		if b&fcrClearReceive != 0 {
			u.input = u.input[:0]
			u.signalRoom()
		}
	case uartLineControl:
		u.lcr = b
	case uartModemControl:
		u.mcr = b & 0x1F
	case uartScratch:
		u.scratch = b
	}
	return false
}

// identify returns the pending interrupt of the highest priority. Reading it
// acknowledges the transmitter's.
func (u *UART) identify() byte {
	id := byte(iirNone)
	switch {
	case u.ier&ierReceived != 0 && len(u.input) > 0:
		id = iirReceived
	case u.ier&ierTransmitted != 0 && u.transmitted:
		id = iirTransmitted
		u.transmitted = false
	}
	if u.fifo {
		id |= iirFIFO
	}
	return id
}

func (u *UART) receive() byte {
	if len(u.input) == 0 {
		return 0
	}
	b := u.input[0]
	u.input = append(u.input[:0], u.input[1:]...)
	u.signalRoom()
	if len(u.input) > 0 {
		u.interrupt(ierReceived)
	}
	return b
}

func (u *UART) enqueue(b byte) bool {
	if len(u.input) == uartInputSize {
		return false
	}
	u.input = append(u.input, b)
	return true
}

func (u *UART) signalRoom() {
	select {
	case u.room <- struct{}{}:
	default:
	}
}

func (u *UART) interrupt(source byte) {
	if u.ier&source != 0 {
		u.irq()
	}
}

// Input hands bytes to the guest's receiver and returns how many it took; when
// that is not all of them, Room tells when to offer the rest.
func (u *UART) Input(p []byte) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for n < len(p) && u.enqueue(p[n]) {
		n++
	}
	if n > 0 {
		u.interrupt(ierReceived)
	}
	return n
}

// Room receives after the guest read input.
func (u *UART) Room() <-chan struct{} { return u.room }
