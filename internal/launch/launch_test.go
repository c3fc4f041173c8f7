package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/pkg/manifest"
)

// newSession starts a session on files, with its standard error returned by said.
func newSession(t *testing.T, o Options) (s *Session, ctx context.Context, said func() string) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.File {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	if o.Stdin == nil {
		o.Stdin = open("stdin")
	}
	if o.Stdout == nil {
		o.Stdout = open("stdout")
	}
	if o.Stderr == nil {
		o.Stderr = open("stderr")
	}
	s, ctx = Start(o)
	return s, ctx, func() string {
		text, err := os.ReadFile(o.Stderr.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func TestFinish(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		said   string
	}{
		"nothing":      {nil, 0, ""},
		"power-off":    {&End{0, "the guest powered off"}, 0, `{"level":"info","status":0,"message":"the guest powered off"}`},
		"reboot":       {&End{133, "again"}, 133, `{"level":"error","status":133,"message":"again"}`},
		"wrapped":      {fmt.Errorf("build it: %w", ofSignal(syscall.SIGINT)), 130, `{"level":"error","status":130,"message":"ended by SIGINT"}`},
		"timeout":      {ofTimeout(90 * time.Second), 124, `{"level":"error","status":124,"message":"the machine was ended: it ran for the 1m30s that --timeout gives it"}`},
		"quit":         {errQuit, 0, `{"level":"info","status":0,"message":"ended by Ctrl-a x"}`},
		"unread":       {errUnread, 141, `{"level":"error","status":141,`},
		"usage":        {Usage("no %s", "way"), 2, `{"level":"error","status":2,"message":"no way"}`},
		"anything":     {errors.New("broken"), 125, `{"level":"error","status":125,"message":"broken"}`},
		"two problems": {manifest.Problems{{Path: "$.a", What: "is 1"}, {Path: "$.b", What: "is 2"}}, 125, `"message":"the manifest has 2 problems\n  $.a: is 1\n  $.b: is 2"`},
	} {
		// The last line is written at every level.
		s, ctx, said := newSession(t, Options{Format: JSON, Level: zerolog.ErrorLevel})
		if status := s.Finish(c.err); status != c.status {
			t.Errorf("%s: status %d, want %d", name, status, c.status)
		}
		if context.Cause(ctx) == nil {
			t.Errorf("%s: the context goes on", name)
		}
		line := said()
		before, rest, _ := strings.Cut(line, `"time":"`)
		_, after, _ := strings.Cut(rest, `",`)
		if line = before + after; !strings.Contains(line, c.said) || c.said == "" && line != "" {
			t.Errorf("%s: said %q, want %q", name, line, c.said)
		}
	}
}

func TestSignalsEndTheContext(t *testing.T) {
	for _, number := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		s, ctx, _ := newSession(t, Options{})
		if err := syscall.Kill(os.Getpid(), number); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%v is not heard", number)
		}
		if status := s.Finish(context.Cause(ctx)); status != 128+int(number) {
			t.Errorf("%v: status %d", number, status)
		}
	}
}

func TestUndo(t *testing.T) {
	s, _, _ := newSession(t, Options{})
	var did []string
	first := s.undoLater(func() { did = append(did, "first") })
	second := s.undoLater(func() { did = append(did, "second") })
	s.undoLater(func() { did = append(did, "third") })
	second()
	second()
	s.undoAll()
	first()
	s.Finish(nil)
	if want := []string{"second", "third", "first"}; !slices.Equal(did, want) {
		t.Errorf("did %v, want %v", did, want)
	}
}

func TestTerminalIsGivenAndTakenBack(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("needs a pseudo-terminal:", err)
	}
	defer master.Close()
	defer tty.Close()
	go io.Copy(io.Discard, master)
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	mode := func() unix.Termios {
		m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *m
	}
	before := mode()
	s, _, _ := newSession(t, Options{Stdin: tty, Stdout: tty})
	sizes := make(chan [2]uint16, 8)
	for _, takeBack := range []func(detach func()){
		func(detach func()) { detach() },
		func(detach func()) { s.undoAll(); detach() }, // the second signal
	} {
		detach, err := s.attach(&guestConsole{tty: tty}, func(cols, rows uint16) { sizes <- [2]uint16{cols, rows} })
		if err != nil {
			t.Fatal(err)
		}
		if mode() == before {
			t.Error("the terminal is not in raw mode")
		}
		if size := <-sizes; size != [2]uint16{101, 33} {
			t.Errorf("got the size %v", size)
		}
		takeBack(detach)
		if after := mode(); after != before {
			t.Errorf("taken back with %+v, was %+v", after, before)
		}
	}
	// A terminal of which this process is not the foreground is not read.
	c, err := s.openConsole(ConsoleStdio, func(error) {})
	if err != nil || c.in != nil || c.tty != nil {
		t.Errorf("got %+v, %v", c, err)
	}
	s.Finish(nil)
}

func TestConsoleChoices(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s, _, _ := newSession(t, Options{Stdout: w})
	defer s.Finish(nil)

	none, err := s.openConsole(ConsoleNone, nil)
	if err != nil || none.in != nil || none.out != nil || none.close() != nil {
		t.Errorf("none: got %+v, %v", none, err)
	}

	name := filepath.Join(t.TempDir(), "console")
	file, err := s.openConsole(name, nil)
	if err != nil || file.in != nil {
		t.Fatalf("file: got %+v, %v", file, err)
	}
	io.WriteString(file.out, "hello")
	if err := file.close(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "hello" {
		t.Errorf("file: got %q, %v", text, err)
	}

	var mu sync.Mutex
	var ended []error
	stdio, err := s.openConsole(ConsoleStdio, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		ended = append(ended, err)
	})
	if err != nil || stdio.tty != nil {
		t.Fatalf("stdio: got %+v, %v", stdio, err)
	}
	if _, err := stdio.in.Read(make([]byte, 1)); err != io.EOF || len(ended) != 0 {
		t.Errorf("at the end of input: %v, ended %v", err, ended)
	}
	io.WriteString(stdio.out, "x")
	buf := make([]byte, 8)
	if n, err := r.Read(buf); err != nil || !bytes.Equal(buf[:n], []byte("x")) {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	r.Close()
	if _, err := io.WriteString(stdio.out, "y"); err == nil || len(ended) != 1 || ended[0] != error(errUnread) {
		t.Errorf("without a reader: %v, ended %v", err, ended)
	}
	if err := stdio.close(); err != nil {
		t.Error(err)
	}
}

func TestPin(t *testing.T) {
	dir := t.TempDir()
	m := &manifest.Manifest{Kernel: dir, Initrds: []string{dir}, Store: &manifest.Store{Toplevel: dir}}
	open := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := open()
	release, err := pin(m)
	if err != nil {
		t.Fatal(err)
	}
	if got := open(); got != before+3 {
		t.Errorf("%d files are open, want %d", got, before+3)
	}
	release()
	m.Store.Toplevel = filepath.Join(dir, "gone")
	if _, err := pin(m); err == nil || !strings.Contains(err.Error(), "the machine needs "+dir+"/gone") {
		t.Errorf("got %v", err)
	}
	if got := open(); got != before {
		t.Errorf("%d files are open, want %d", got, before)
	}
}

func TestParseTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "5m": 5 * time.Minute, "7": 7 * time.Second, "1.5": 1500 * time.Millisecond, "200ms": 200 * time.Millisecond} {
		if got, err := ParseTimeout(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1s", "soon", "5 m"} {
		if got, err := ParseTimeout(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
}
