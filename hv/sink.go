package hv

import (
	"errors"
	"io"
	"sync"
	"time"
)

// sinkSize is how many bytes of console output wait for a slow reader before
// the guest has to.
const sinkSize = 64 << 10

// errSinkClosed is returned for output that came after the machine's end.
var errSinkClosed = errors.New("console is closed")

// sink carries console output from the guest's threads to a writer that may be
// slow or stuck. Nothing is lost while the writer moves: a full sink blocks the
// guest until there is room or the sink is closed.
type sink struct {
	out io.Writer

	mu      sync.Mutex
	changed sync.Cond
	buf     [sinkSize]byte
	head    int // where the next byte is taken
	n       int // bytes that wait
	taken   uint64
	closed  bool // no more output is taken
	done    bool // the drain goroutine has returned
	err     error

	abandoned bool // the reader stood still for too long
}

// newSink returns a sink and starts its drain, which ends after close.
func newSink(out io.Writer) *sink {
	s := &sink{out: out}
	s.changed.L = &s.mu
	go s.drain()
	return s
}

// Write queues p, waiting for room as long as it takes. After close it returns
// errSinkClosed.
func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	written := 0
	for written < len(p) {
		for s.n == sinkSize && !s.closed {
			s.changed.Wait()
		}
		if s.closed {
			return written, errSinkClosed
		}
		tail := (s.head + s.n) % sinkSize
		end := min(sinkSize, tail+sinkSize-s.n)
		c := copy(s.buf[tail:end], p[written:])
		s.n += c
		written += c
		s.changed.Broadcast()
	}
	return written, nil
}

func (s *sink) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.n == 0 && !s.closed {
			s.changed.Wait()
		}
		if s.n == 0 {
			s.done = true
			s.changed.Broadcast()
			return
		}
		chunk := s.buf[s.head:min(sinkSize, s.head+s.n)]
		s.mu.Unlock()
		var err error
		if s.err == nil {
			// The bytes stay queued until they are written: nobody overwrites them.
			_, err = s.out.Write(chunk)
		}
		s.mu.Lock()
		if err != nil {
			s.err = err // a reader that went away: what follows is dropped
		}
		s.head = (s.head + len(chunk)) % sinkSize
		s.n -= len(chunk)
		s.taken += uint64(len(chunk))
		s.changed.Broadcast()
	}
}

// close takes no more output and lets blocked writers go.
func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
}

// abandonWhenStuck closes the sink as soon as its reader has not moved for
// patience although output waits for it, and tells flush. It ends with the
// drain.
func (s *sink) abandonWhenStuck(patience time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.taken
	var check func()
	check = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.done || s.abandoned:
		case s.n > 0 && s.taken == last:
			s.closed, s.abandoned = true, true
			s.changed.Broadcast()
		default:
			last = s.taken
			time.AfterFunc(patience, check)
		}
	}
	time.AfterFunc(patience, check)
}

// flush waits, after close, until everything is written or the sink was
// abandoned. It returns the writer's error, or errConsoleStuck.
func (s *sink) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.done && !s.abandoned {
		s.changed.Wait()
	}
	if s.abandoned {
		return errConsoleStuck
	}
	return s.err
}

// errConsoleStuck is returned by flush when the reader of the console stopped
// reading.
var errConsoleStuck = errors.New("the last of the console's output was not read")
