package hv

import (
	"bytes"
	"sync"
	"time"

	"github.com/drzln/whiterun/hv/kvm"
)

// A guest without a pvpanic driver tells of a panic on its console only, and
// then spins for ever. Any program in the guest can print the same words, so
// they are taken for a suspicion and the vCPUs are asked for the proof.

const (
	panicStart = "Kernel panic - not syncing"
	panicEnd   = "---[ end Kernel panic"

	// panicTail is more output, in bytes, than follows the first line of a panic.
	panicTail = 32 << 10

	// panicSamples looks at the vCPUs, panicInterval apart: enough for any
	// guest that lives to be seen in user mode or idle once.
	panicSamples  = 10
	panicInterval = 50 * time.Millisecond
)

// panicWatch looks for a kernel's last words in console output.
type panicWatch struct {
	ended func() // called, once, when the kernel has said its last line

	finished chan struct{} // closed when the kernel has said its last line

	mu      sync.Mutex
	message string // the first line of the panic, "" while there is none
	since   int    // bytes of output since message
	over    bool   // finished is closed
}

func newPanicWatch(ended func()) *panicWatch {
	return &panicWatch{ended: ended, finished: make(chan struct{})}
}

// watch passes one stream of console output on to write and reads along.
func (w *panicWatch) watch(write writerFunc) writerFunc {
	lines := &lineBuffer{}
	return func(p []byte) (int, error) {
		w.read(lines, p)
		return write(p)
	}
}

func (w *panicWatch) read(lines *lineBuffer, p []byte) {
	ended := false
	w.mu.Lock()
	if w.since += len(p); w.since > panicTail && !w.over {
		w.message = "" // a kernel that panicked does not go on like this
	}
	lines.each(p, func(line []byte) {
		text := kernelText(line)
		switch {
		case bytes.HasPrefix(text, []byte(panicStart)):
			if w.message == "" {
				w.message, w.since = string(text), 0
			}
		case bytes.HasPrefix(text, []byte(panicEnd)) && w.message != "" && !w.over:
			w.over, ended = true, true
		}
	})
	w.mu.Unlock()
	if ended {
		// In this order: who waits for finished ends the machine, which then
		// waits for what ended begins.
		w.ended()
		close(w.finished)
	}
}

// panic returns the first line of the panic, "" when there has been none.
func (w *panicWatch) panic() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.message
}

// kernelText returns a console line without printk's prefixes ("[    1.234567]",
// "[    T1]") and its end.
func kernelText(line []byte) []byte {
	line = bytes.TrimRight(line, "\r\n")
	for isKernelLine(line) || len(line) > 1 && line[0] == '[' && (line[1] == 'T' || line[1] == 'C') {
		end := bytes.IndexByte(line, ']')
		if end < 0 {
			break
		}
		line = bytes.TrimLeft(line[end+1:], " ")
	}
	return line
}

// confirmPanic reports whether the guest behaves as a panicked kernel does: in
// none of the samples is a vCPU in user mode, and never are all of them idle,
// since the one that panicked spins in the kernel for ever.
func (m *Machine) confirmPanic() bool {
	tick := time.NewTicker(panicInterval)
	defer tick.Stop()
	for range panicSamples {
		select {
		case <-m.done:
			return false
		case <-tick.C:
		}
		if err := m.cpus.pause(); err != nil {
			return false
		}
		alive := m.looksAlive()
		m.cpus.resume()
		if alive {
			return false
		}
	}
	return true
}

// looksAlive samples paused vCPUs.
func (m *Machine) looksAlive() bool {
	idle := 0
	for _, c := range m.cpus.cpus {
		state, err := c.kvm.MPState()
		if err != nil {
			return true
		}
		if state != kvm.MPStateRunnable {
			idle++
			continue
		}
		sregs, err := c.kvm.Sregs()
		if err != nil || sregs.CS.DPL == 3 {
			return true
		}
	}
	return idle == len(m.cpus.cpus)
}
