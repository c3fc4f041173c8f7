package legacy

import (
	"bytes"
	"testing"
)

func TestUARTTransmits(t *testing.T) {
	var out bytes.Buffer
	pulses := 0
	u := NewUART(&out, func() { pulses++ })
	for _, b := range []byte("hi") {
		if got := u.In(uartLineStatus); got != 0x60 {
			t.Fatalf("LSR %#x, want 0x60", got)
		}
		u.Out(uartData, b)
	}
	if out.String() != "hi" || pulses != 0 {
		t.Errorf("sent %q with %d interrupts", out.String(), pulses)
	}
	u.Out(uartInterruptEnable, ierTransmitted)
	if pulses != 1 || u.In(uartInterruptID) != iirTransmitted || u.In(uartInterruptID) != iirNone {
		t.Error("enabling the transmitter's interrupt did not raise it once")
	}
}

func TestUARTReceives(t *testing.T) {
	pulses := 0
	u := NewUART(&bytes.Buffer{}, func() { pulses++ })
	u.Out(uartInterruptEnable, ierReceived)
	if n := u.Input([]byte("ab")); n != 2 || pulses != 1 {
		t.Fatalf("took %d bytes with %d interrupts", n, pulses)
	}
	if u.In(uartInterruptID) != iirReceived || u.In(uartLineStatus) != 0x61 {
		t.Error("the receiver does not say that it has data")
	}
	if u.In(uartData) != 'a' || u.In(uartData) != 'b' || u.In(uartLineStatus) != 0x60 {
		t.Error("wrong data")
	}
	select {
	case <-u.Room():
	default:
		t.Error("no word of the room there is now")
	}
	if n := u.Input(make([]byte, 2*uartInputSize)); n != uartInputSize {
		t.Errorf("took %d bytes", n)
	}
}

// The probe of Linux' 8250 driver: scratch and IER keep what they are given,
// loopback wires the modem's lines back, FCR shows a 16550A.
func TestUARTLooksLikeA16550A(t *testing.T) {
	u := NewUART(&bytes.Buffer{}, func() {})
	for _, v := range []byte{0x00, 0x0F} {
		if u.Out(uartInterruptEnable, v); u.In(uartInterruptEnable) != v {
			t.Errorf("IER does not keep %#x", v)
		}
	}
	u.Out(uartInterruptEnable, 0)
	if u.Out(uartModemControl, mcrLoopback|0x0A); u.In(uartModemStatus)&0xF0 != 0x90 {
		t.Errorf("MSR in loopback: %#x", u.In(uartModemStatus))
	}
	u.Out(uartModemControl, 0)
	if u.Out(uartInterruptID, fcrEnable); u.In(uartInterruptID) != iirFIFO|iirNone {
		t.Errorf("IIR with FIFO: %#x", u.In(uartInterruptID))
	}
	u.Out(uartLineControl, lcrDivisorLatch)
	u.Out(uartData, 0x12)
	u.Out(uartInterruptEnable, 0x34)
	if u.In(uartData) != 0x12 || u.In(uartInterruptEnable) != 0x34 {
		t.Error("the divisor is not kept")
	}
	if u.Out(uartScratch, 0x5A); u.In(uartScratch) != 0x5A {
		t.Error("the scratch register is not kept")
	}
}

func TestUARTDoesNotAllocate(t *testing.T) {
	u := NewUART(discard{}, func() {})
	if n := testing.AllocsPerRun(1000, func() { u.Out(uartData, 'x'); u.In(uartLineStatus) }); n != 0 {
		t.Errorf("%v allocations per byte", n)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestPower(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want PowerEvent
	}{
		{"S5", Sleep(5<<2|0x20, 5), PowerOff},
		{"S5 without SLP_EN", Sleep(5<<2, 5), PowerNone},
		{"another state", Sleep(3<<2|0x20, 5), PowerNone},
		{"reset register", ResetRegister(0x42, 0x42), Reset},
		{"reset register, another value", ResetRegister(0, 0x42), PowerNone},
		{"i8042 pulse", I8042(0xFE), Reset},
		{"i8042 command", I8042(0xAA), PowerNone},
		{"pvpanic", PVPanic(1), Panicked},
		{"pvpanic, crash kernel", PVPanic(2), CrashLoaded},
		{"pvpanic, nothing", PVPanic(0x80), PowerNone},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}
