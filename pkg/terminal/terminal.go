// Package terminal owns the user's terminal while a guest has it: raw mode and
// its end, the keys that are Whiterun's and not the guest's, and input that can
// be given up waiting for.
package terminal

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// IsTerminal says whether f is a terminal.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// IsForeground says whether f is a terminal and this process may use it: a
// background job that changes a terminal's mode or reads from it is stopped.
func IsForeground(f *os.File) bool {
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// Size returns the terminal's width and height in characters.
func Size(f *os.File) (cols, rows uint16, err error) {
	c, r, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0, fmt.Errorf("get the terminal's size: %w", err)
	}
	return uint16(c), uint16(r), nil
}

// Raw puts the terminal f into raw mode: every key goes to the guest, Ctrl-c
// too, and nothing is echoed. restore brings back the mode of before; it may be
// called again, and from any goroutine.
func Raw(f *os.File) (restore func() error, err error) {
	state, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("put the terminal into raw mode: %w", err)
	}
	return sync.OnceValue(func() error {
		if err := term.Restore(int(f.Fd()), state); err != nil {
			return fmt.Errorf("restore the terminal: %w", err)
		}
		return nil
	}), nil
}
