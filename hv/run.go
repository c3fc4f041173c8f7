package hv

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/legacy"
	"github.com/drzln/whiterun/hv/x86"
)

// flushPatience is how long, after the machine's end, a console reader may
// stand still before what it has not read is given up.
const flushPatience = 500 * time.Millisecond

// Run runs the machine until the guest ends it or ctx is done, which makes the
// outcome Stopped; it returns within a second of either, and later only while a
// slow reader still takes the last of the guest's console. A machine runs once.
// The error is what went wrong in Whiterun besides, such as console output that
// nobody read.
func (m *Machine) Run(ctx context.Context) (Outcome, error) {
	inputCtx, stopInput := context.WithCancel(ctx)
	defer stopInput()
	if m.options.Input != nil {
		go m.pumpInput(inputCtx)
	}
	m.options.Stage(StageGuest)
	m.cpus.start()
	outcome := Outcome{Reason: Stopped}
	select {
	case <-m.done:
		outcome = m.outcome
	case <-ctx.Done():
		m.end(outcome)
	}
	err := m.finish(outcome.Reason == Stopped)
	m.endInput(stopInput)
	m.logCounters()
	return outcome, err
}

// finish ends the vCPUs, then the devices, then the console. When the guest
// ended by itself, what it said is waited for while its reader moves.
func (m *Machine) finish(stopped bool) error {
	// The sink first: a vCPU or a device that waits for the reader of the
	// console must not be waited for when that one is stuck.
	m.cpus.end()
	m.sink.abandonWhenStuck(flushPatience)
	if stopped {
		m.sink.close()
	}
	m.cpus.stop()
	for _, d := range m.devices {
		d.function.Reset()
	}
	m.watchers.Wait()
	err := m.hvc.Close()
	m.sink.close()
	if err = errors.Join(err, m.sink.flush()); err != nil {
		return fmt.Errorf("write the guest's console: %w", err)
	}
	return nil
}

// Pause takes every vCPU out of the guest and returns when all rest. Each
// successful Pause wants a Resume.
func (m *Machine) Pause() error { return m.cpus.pause() }

// Resume ends a Pause.
func (m *Machine) Resume() { m.cpus.resume() }

// Resize tells the guest the size of the terminal behind hvc0.
func (m *Machine) Resize(cols, rows uint16) { m.hvc.Resize(cols, rows) }

// end records how the guest ended, once, and lets Run go on. It does not wait.
func (m *Machine) end(o Outcome) {
	m.ending.Do(func() {
		m.outcome = o
		m.cpus.end()
		close(m.done)
	})
}

// exit serves one exit of a vCPU, on its thread.
func (m *Machine) exit(c *vcpu) {
	switch reason := c.kvm.Exit(); reason {
	case kvm.ExitIO:
		m.cpus.exits.io.Add(1)
		io, err := c.kvm.IO()
		if err != nil {
			m.end(Outcome{KVMError, err.Error()})
			return
		}
		m.ports.access(io.Write, io.Port, io.Size, io.Data)
	case kvm.ExitMMIO:
		m.cpus.exits.mmio.Add(1)
		m.mmio(c.kvm.MMIO())
	case kvm.ExitShutdown:
		m.endAfterPanic(Outcome{TripleFault, c.describe()})
	case kvm.ExitInternalError:
		m.end(Outcome{KVMError, c.kvm.InternalError() + ", " + c.describe()})
	case kvm.ExitFailEntry, kvm.ExitUnknown:
		m.end(Outcome{KVMError, fmt.Sprintf("%s, hardware reason %#x, %s", reason, c.kvm.HardwareReason(), c.describe())})
	case kvm.ExitIntr, kvm.ExitIRQWindow:
		m.cpus.exits.other.Add(1)
	default:
		m.end(Outcome{KVMError, fmt.Sprintf("unexpected exit (%s), %s", reason, c.describe())})
	}
}

// mmio serves an access to an address that is not RAM. What nobody claims
// floats.
func (m *Machine) mmio(a kvm.MMIO) {
	if a.GPA >= x86.ECAMStart && a.GPA < x86.ECAMStart+x86.ECAMSize {
		if a.Write {
			m.bus.WriteConfig(a.GPA-x86.ECAMStart, a.Data)
		} else {
			m.bus.ReadConfig(a.GPA-x86.ECAMStart, a.Data)
		}
		return
	}
	if a.Write {
		m.bus.MMIOWrite(a.GPA, a.Data)
		return
	}
	if !m.bus.MMIORead(a.GPA, a.Data) {
		float(a.Data)
	}
}

// power ends the machine as a guest's write to a power register asks for.
func (m *Machine) power(event legacy.PowerEvent) {
	switch event {
	case legacy.PowerOff:
		m.end(Outcome{Reason: PowerOff})
	case legacy.Reset:
		m.endAfterPanic(Outcome{Reason: Reboot})
	case legacy.Panicked:
		// pvpanic speaks before the console does: let the kernel print the rest.
		m.panicked.Do(func() { m.watchers.Go(m.endPanicked) })
	case legacy.CrashLoaded:
		m.crashed.Do(func() { m.log.Info().Msg("the guest's kernel panicked and its crash kernel took over") })
	}
}

// endAfterPanic ends the machine with o, or with Panic when the console has
// shown one: a kernel with panic=SECONDS resets the machine after it.
func (m *Machine) endAfterPanic(o Outcome) {
	if message := m.watch.panic(); message != "" {
		o = Outcome{Panic, message}
	}
	m.end(o)
}

// endPanicked ends the machine after a panic that is beyond doubt, when the
// kernel has said its last line or had a second for it.
func (m *Machine) endPanicked() {
	select {
	case <-m.watch.finished:
	case <-m.done:
	case <-time.After(time.Second):
	}
	m.end(Outcome{Panic, m.watch.panic()})
}

// suspectPanic is called when the console shows the end of a panic.
func (m *Machine) suspectPanic() {
	m.watchers.Go(func() {
		if m.confirmPanic() {
			m.end(Outcome{Panic, m.watch.panic()})
		}
	})
}

// pumpInput carries console input to the console that the guest uses.
func (m *Machine) pumpInput(ctx context.Context) {
	buf := make([]byte, 1024)
	for {
		n, err := m.options.Input.Read(buf)
		if inErr := m.input(ctx, buf[:n]); err != nil || inErr != nil {
			if err != nil && ctx.Err() == nil {
				m.log.Debug().Err(err).Msg("console input ended")
			}
			return
		}
	}
}

// endInput returns when no input is on its way to a device, and none will be.
func (m *Machine) endInput(stop context.CancelFunc) {
	stop()
	m.delivery.Lock()
	defer m.delivery.Unlock()
}

// input hands p to hvc0 once the guest has written there, else to the serial
// port, and waits until all of it is taken. After ctx it touches nothing of the
// machine, which is closed while a Read still blocks.
func (m *Machine) input(ctx context.Context, p []byte) error {
	m.delivery.Lock()
	defer m.delivery.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for len(p) > 0 {
		if m.shown.hvcInUse() {
			_, err := m.hvc.Input(ctx, p)
			return err
		}
		p = p[m.uart.Input(p):]
		if len(p) == 0 {
			return nil
		}
		select {
		case <-m.uart.Room():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// logCounters tells, at debug level, what the run cost and where it ended.
func (m *Machine) logCounters() {
	e := &m.cpus.exits
	m.log.Debug().Uint64("io", e.io.Load()).Uint64("mmio", e.mmio.Load()).
		Uint64("interrupted", e.interrupted.Load()).Uint64("other", e.other.Load()).Msg("vCPU exits")
	for _, c := range m.cpus.cpus {
		m.log.Debug().Msg(c.describe())
	}
	for _, d := range m.devices {
		for i, q := range d.function.Stats() {
			m.log.Debug().Str("device", d.name).Int("queue", i).Uint64("requests", q.Chains).
				Uint64("kicks", q.Kicks).Uint64("interrupts", q.Interrupts).Msg("virtqueue")
		}
	}
	if m.server != nil {
		m.log.Debug().Stringer("requests", m.server.Stats()).Msg("9P")
	}
}
