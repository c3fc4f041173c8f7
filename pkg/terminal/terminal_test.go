package terminal

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestInputEndsWithClose(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	in, err := NewInput(r)
	if err != nil {
		t.Fatal(err)
	}
	w.WriteString("hello")
	buf := make([]byte, 16)
	if n, err := in.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	ended := make(chan error)
	go func() {
		_, err := in.Read(buf)
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond) // most often the Read waits by now; either way it must end
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if err != io.EOF {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("a Read outlives Close")
	}
	if _, err := in.Read(buf); err != io.EOF {
		t.Errorf("after Close: %v", err)
	}
}

func TestInputOfOtherFiles(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	in, err := NewInput(null)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

func TestRawIsRestored(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("needs a pseudo-terminal:", err)
	}
	defer master.Close()
	defer tty.Close()
	if !IsTerminal(tty) {
		t.Fatal("a pseudo-terminal is no terminal")
	}
	mode := func() unix.Termios {
		m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *m
	}
	before := mode()
	restore, err := Raw(tty)
	if err != nil {
		t.Fatal(err)
	}
	if raw := mode(); raw.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 || raw.Oflag&unix.OPOST != 0 {
		t.Errorf("the raw mode is %+v", raw)
	}
	for range 2 {
		if err := restore(); err != nil {
			t.Error(err)
		}
		if after := mode(); after != before {
			t.Errorf("restored to %+v, was %+v", after, before)
		}
	}
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	if cols, rows, err := Size(tty); err != nil || cols != 101 || rows != 33 {
		t.Errorf("got %d×%d, %v", cols, rows, err)
	}
	if IsForeground(tty) {
		t.Error("somebody else's terminal is in the foreground")
	}
}

func TestWhatIsNoTerminal(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if IsTerminal(f) || IsForeground(f) {
		t.Error("a file is a terminal")
	}
	if _, err := Raw(f); err == nil {
		t.Error("a file went into raw mode")
	}
	if _, _, err := Size(f); err == nil {
		t.Error("a file has a size in characters")
	}
}
