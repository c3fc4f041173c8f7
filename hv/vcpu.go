package hv

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/kvm"
)

// kickSignal takes a vCPU thread out of KVM_RUN. The Go runtime handles it on
// every thread already, as its preemption signal, and expects spurious ones.
const kickSignal = unix.SIGURG

// rekick is how long a kick may stay unanswered before it is sent again. One
// is enough unless the thread was just then on its way into a blocking system
// call of a device.
const rekick = 10 * time.Millisecond

// exits counts why the vCPUs left the guest.
type exits struct {
	io, mmio, interrupted, other atomic.Uint64
}

// vcpu is one virtual CPU and the thread that runs it.
type vcpu struct {
	kvm   *kvm.VCPU
	index int
	tid   atomic.Int32 // 0 while no thread runs it
}

// command is what the vCPU threads are told to do.
type command int

const (
	cmdRun command = iota
	cmdPause
	cmdStop
)

// cpuSet is the vCPUs of a machine and the one command they all obey:
//
//	        Pause           Stop
//	running ──────▶ paused ──────▶ stopped
//	   ▲     Resume   │               ▲
//	   └──────────────┘               │
//	   └──────────────────────────────┘
//
// A thread reads the command between two runs of its vCPU. A command is given
// in this order: the word, then immediate_exit, then the signal. A thread that
// was interrupted clears immediate_exit first and reads the word after, so
// that no command is ever lost between the two.
type cpuSet struct {
	cpus   []*vcpu
	exits  exits
	handle func(*vcpu) // serves an exit of a vCPU, on its thread
	failed func(*vcpu, error)

	mu      sync.Mutex
	changed sync.Cond // command, parked or live changed
	command command
	pauses  int // callers that want the machine paused
	parked  int // threads that wait for the end of a pause
	live    int // threads that have not returned
	started bool
}

func newCPUSet(cpus []*vcpu, handle func(*vcpu), failed func(*vcpu, error)) *cpuSet {
	s := &cpuSet{cpus: cpus, handle: handle, failed: failed}
	s.changed.L = &s.mu
	return s
}

// start lets every vCPU run on a thread of its own.
func (s *cpuSet) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.command == cmdStop {
		return
	}
	s.started = true
	s.live = len(s.cpus)
	for _, c := range s.cpus {
		go s.run(c)
	}
}

func (s *cpuSet) run(c *vcpu) {
	// Locked for life: KVM wants a vCPU to stay on its thread, and the kick
	// needs a thread to signal. The thread ends with the goroutine, for it is
	// never unlocked.
	runtime.LockOSThread()
	c.tid.Store(int32(unix.Gettid()))
	defer s.leave(c)
	for s.mayRun(c) {
		switch errno := c.kvm.Run(); errno {
		case 0:
			s.handle(c)
		case unix.EINTR:
			s.exits.interrupted.Add(1)
			c.kvm.ClearExit()
		case unix.EAGAIN:
			// An application processor that met INIT or SIPI while it waited.
		default:
			s.failed(c, errno)
			return
		}
	}
}

// mayRun waits while the machine is paused and tells whether to go on.
func (s *cpuSet) mayRun(c *vcpu) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.command == cmdPause {
		c.kvm.ClockPaused()
		s.parked++
		s.changed.Broadcast()
		for s.command == cmdPause {
			s.changed.Wait()
		}
		s.parked--
	}
	return s.command == cmdRun
}

func (s *cpuSet) leave(c *vcpu) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.tid.Store(0)
	s.live--
	s.changed.Broadcast()
}

// errNotRunning is returned for a pause of a machine whose vCPUs have ended.
var errNotRunning = errors.New("the machine is not running")

// pause takes every vCPU out of the guest and returns when all of them rest.
// Pauses nest: each one that succeeds wants a resume.
func (s *cpuSet) pause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started || s.command == cmdStop {
		return errNotRunning
	}
	s.pauses++
	s.command = cmdPause
	s.await(func() bool { return s.command != cmdPause || s.parked >= s.live })
	if s.command == cmdStop || s.live == 0 {
		return errNotRunning
	}
	return nil
}

// resume ends one pause; with the last one the vCPUs go on.
func (s *cpuSet) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pauses > 0 {
		s.pauses--
	}
	if s.command == cmdPause && s.pauses == 0 {
		s.command = cmdRun
		s.changed.Broadcast()
	}
}

// end tells every vCPU thread to end and does not wait: a vCPU's own thread may
// call it.
func (s *cpuSet) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.command = cmdStop
	s.changed.Broadcast()
}

// stop ends every vCPU thread and returns when the last one is gone.
func (s *cpuSet) stop() {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.await(func() bool { return s.live == 0 })
}

// await kicks the vCPU threads until done, which is called with mu held, says
// that they have obeyed.
func (s *cpuSet) await(done func() bool) {
	for !done() {
		for _, c := range s.cpus {
			c.kick()
		}
		// The timer wakes this goroutine too, to kick again.
		again := time.AfterFunc(rekick, s.changed.Broadcast)
		s.changed.Wait()
		again.Stop()
	}
}

// kick makes the vCPU's thread leave the guest.
func (c *vcpu) kick() {
	tid := c.tid.Load()
	if tid == 0 {
		return
	}
	c.kvm.RequestExit()
	// ESRCH means that the thread has just ended, which is what was wanted.
	_ = unix.Tgkill(unix.Getpid(), int(tid), kickSignal)
}

// describe returns where a vCPU stands, for messages.
func (c *vcpu) describe() string {
	regs, err := c.kvm.Regs()
	if err != nil {
		return fmt.Sprintf("vCPU %d", c.index)
	}
	return fmt.Sprintf("vCPU %d at RIP %#x", c.index, regs.RIP)
}
