package terminal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Input reads a file, such as standard input, that the runtime's poller does
// not know, so that a Read which waits ends with Close. The file's own mode is
// left alone: it is shared with other processes.
type Input struct {
	file *os.File
	wake int // eventfd

	mu     sync.Mutex // held by a Read
	closed bool
}

// NewInput returns an Input of f. The caller closes both.
func NewInput(f *os.File) (*Input, error) {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an event for console input: %w", err)
	}
	return &Input{file: f, wake: wake}, nil
}

// Read waits for input and returns some, or io.EOF at the end of the file and
// after Close.
func (in *Input) Read(p []byte) (int, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed || len(p) == 0 {
		return 0, io.EOF
	}
	ready := []unix.PollFd{{Fd: int32(in.file.Fd()), Events: unix.POLLIN}, {Fd: int32(in.wake), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for console input: %w", err)
		}
		switch {
		case ready[1].Revents != 0:
			return 0, io.EOF
		case ready[0].Revents == 0:
			continue
		}
		n, err := unix.Read(int(in.file.Fd()), p)
		switch {
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EIO) || n == 0 && err == nil:
			// EIO: the terminal hung up.
			return 0, io.EOF
		case err != nil:
			return 0, fmt.Errorf("read console input: %w", err)
		}
		return n, nil
	}
}

// Close ends a Read that waits and every later one. It returns once no Read is
// under way. It is called once.
func (in *Input) Close() error {
	if _, err := unix.Write(in.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return fmt.Errorf("end console input: %w", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	if err := unix.Close(in.wake); err != nil {
		return fmt.Errorf("end console input: %w", err)
	}
	return nil
}
