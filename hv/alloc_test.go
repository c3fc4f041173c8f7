//go:build !race

package hv

import (
	"runtime"
	"testing"

	"github.com/drzln/whiterun/hv/x86"
)

// The path of an exit, from the vCPU to the device and back, allocates nothing;
// nor does that of an interrupt.
func TestExitDoesNotAllocate(t *testing.T) {
	const bar = 0xC000_0000
	config := uint64(x86.ECAMStart + 1<<15)
	prepare := code{}.
		raw(0x66, 0xBA, 0xF8, 0x0C, 0xB8, 0, 8, 0, 0x80, 0xEF). // mov dx, 0xCF8; mov eax, 0x8000_0800; out dx, eax
		rbx(config + 0x10).store(bar).rbx(config + 0x14).store(0).rbx(config + 4).store(6)
	for _, c := range []struct {
		name string
		code code
	}{
		{"a byte for the serial port", code{}.out(x86.COM1Port, 'x')},
		{"a line for the serial port", code{}.out(x86.COM1Port, '\n')},
		{"the serial port's status", code{}.raw(0x66, 0xBA, 0xFD, 0x03, 0xEC)},
		{"a port where nothing is", code{}.out(0x80, 1)},
		{"the PCI ports", code{}.raw(0x66, 0xBA, 0xFC, 0x0C, 0xED)},
		{"reading ECAM", code{}.rbx(config).raw(0x8B, 0x03)},
		{"writing ECAM", code{}.rbx(config + 0x3C).store(9)},
		{"reading a BAR", code{}.rbx(bar).raw(0x8B, 0x03)},
		{"writing a BAR", code{}.rbx(bar).store(1)},
		{"the MSI-X table", code{}.rbx(bar + barTable).store(0xFEE0_0000)},
		{"an address where nothing is", code{}.rbx(0xD000_0000).raw(0x8B, 0x03)},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := append(prepare, c.code...)
			whole = whole.raw(0xEB, byte(-len(c.code)-2)) // jmp to c.code
			m := tinyMachine(t, whole, nil)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cpu := m.cpus.cpus[0]
			step := func() {
				if errno := cpu.kvm.Run(); errno != 0 {
					cpu.kvm.ClearExit() // a signal of the runtime's own
					return
				}
				m.exit(cpu)
			}
			for range 20 {
				step()
			}
			if n := testing.AllocsPerRun(200, step); n != 0 {
				t.Errorf("%v allocations per exit", n)
			}
			select {
			case <-m.done:
				t.Errorf("the guest ended: %v", m.outcome)
			default:
			}
		})
	}
}

func TestInterruptDoesNotAllocate(t *testing.T) {
	m := tinyMachine(t, code{}.spin(), nil)
	v, err := m.irqs.NewVector()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := v.Route(0xFEE0_0000, 0x40); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, v.Trigger); n != 0 {
		t.Errorf("%v allocations per interrupt", n)
	}
	com1, err := newLine(m.vm, x86.PowerButtonIRQ)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := com1.Close(); err != nil {
			t.Error(err)
		}
	}()
	if n := testing.AllocsPerRun(1000, com1.Pulse); n != 0 {
		t.Errorf("%v allocations per pulse", n)
	}
}

// Console output passes the panic watch, the choice of what is shown, and the
// sink.
func TestConsoleOutputDoesNotAllocate(t *testing.T) {
	s := newSink(writerFunc(func(p []byte) (int, error) { return len(p), nil }))
	defer s.close()
	shown, watch := newConsoles(s), newPanicWatch(func() {})
	serial, hvc := watch.watch(shown.writeSerial), watch.watch(shown.writeHVC)
	line := []byte("[    1.234567] a line as kernels print them\r\n")
	for _, c := range []struct {
		name  string
		write writerFunc
	}{{"serial", serial}, {"hvc0", hvc}, {"serial behind hvc0", serial}} {
		_, _ = c.write([]byte("what is made once\n")) // as is the end of the replay
		if n := testing.AllocsPerRun(1000, func() { _, _ = c.write(line) }); n != 0 {
			t.Errorf("%s: %v allocations per line", c.name, n)
		}
	}
}
