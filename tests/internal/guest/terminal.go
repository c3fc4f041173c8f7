package guest

import (
	"io"
	"os"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// Terminal is a pseudo-terminal with somebody who reads all that it shows.
type Terminal struct {
	t      testing.TB
	master *os.File
	tty    *os.File
	shown  *transcript
}

// OpenTerminal opens one for the length of the test.
func OpenTerminal(t testing.TB) *Terminal {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t, master, tty, newTranscript()}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(term.shown, master) // ends with EIO once nobody has the tty
	}()
	t.Cleanup(func() {
		tty.Close()
		master.Close()
		<-read
	})
	return term
}

// Type presses keys.
func (term *Terminal) Type(keys string) {
	term.t.Helper()
	if _, err := io.WriteString(term.master, keys); err != nil {
		term.t.Fatal(err)
	}
}

// Mode returns the terminal's attributes.
func (term *Terminal) Mode() unix.Termios {
	term.t.Helper()
	mode, err := unix.IoctlGetTermios(int(term.tty.Fd()), unix.TCGETS)
	if err != nil {
		term.t.Fatal(err)
	}
	return *mode
}
