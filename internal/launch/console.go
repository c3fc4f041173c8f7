package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/drzln/whiterun/pkg/terminal"
)

// The choices of RunOptions.Console that are not the name of a file.
const (
	ConsoleStdio = "-"
	ConsoleNone  = "none"
)

// sane undoes what a guest that ended in the middle may have left of a terminal:
// colours, a hidden cursor, no line wrap (ECMA-48 SGR; DEC modes 25 and 7).
const sane = "\x1b[0m\x1b[?25h\x1b[?7h"

// guestConsole is the host's side of the guest's console.
type guestConsole struct {
	in  io.Reader // nil for none
	out io.Writer // nil for none
	tty *os.File  // the terminal to put into raw mode; nil for none

	input *terminal.Input
	file  *os.File
}

// openConsole opens what choice names. end is called when the console is a
// reason to end the machine.
func (s *Session) openConsole(choice string, end context.CancelCauseFunc) (*guestConsole, error) {
	switch choice {
	case ConsoleNone:
		return new(guestConsole), nil
	case ConsoleStdio:
		return s.openStdio(end)
	default:
		file, err := os.OpenFile(choice, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the console's file: %w", err)
		}
		return &guestConsole{file: file, out: file}, nil
	}
}

// openStdio makes standard input and output the guest's console.
func (s *Session) openStdio(end context.CancelCauseFunc) (*guestConsole, error) {
	c := new(guestConsole)
	outTerminal := terminal.IsTerminal(s.Stdout)
	stdout := &watchedWriter{s.Stdout, func() { end(errUnread) }}
	c.out = s.progress.Console(stdout, outTerminal && terminal.IsTerminal(s.Stderr))
	inTerminal := terminal.IsTerminal(s.Stdin)
	if inTerminal && !terminal.IsForeground(s.Stdin) {
		return c, nil // a background job has no keyboard
	}
	input, err := terminal.NewInput(s.Stdin)
	if err != nil {
		return nil, err
	}
	c.input, c.in = input, input
	if inTerminal && outTerminal {
		c.tty = s.Stdin
		c.in = terminal.NewKeys(input, func(a terminal.Action) {
			switch a {
			case terminal.Quit:
				end(errQuit)
			case terminal.Help:
				// Lines that are lost with the terminal are no loss.
				_, _ = io.WriteString(s.progress, terminal.HelpText)
			}
		})
	}
	return c, nil
}

// attach gives the terminal, if there is one, to the guest until detach: raw
// mode, and its size now and whenever it changes.
func (s *Session) attach(c *guestConsole, resize func(cols, rows uint16)) (detach func(), err error) {
	if c.tty == nil {
		return func() {}, nil
	}
	restore, err := terminal.Raw(c.tty)
	if err != nil {
		return nil, err
	}
	s.progress.SetRaw(true)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	changed <- syscall.SIGWINCH
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for range changed {
			if cols, rows, err := terminal.Size(c.tty); err == nil && cols > 0 && rows > 0 {
				resize(cols, rows)
			}
		}
	}()
	back := s.undoLater(func() {
		_, _ = io.WriteString(s.Stdout, sane)
		if err := restore(); err != nil {
			s.log.Warn().Err(err).Msg("the terminal is left in raw mode")
		}
		s.progress.SetRaw(false)
	})
	return func() {
		signal.Stop(changed)
		close(changed)
		<-watched
		back()
	}, nil
}

// close ends input that is waited for and closes what was opened.
func (c *guestConsole) close() error {
	var err error
	if c.input != nil {
		err = c.input.Close()
	}
	if c.file != nil {
		err = errors.Join(err, c.file.Close())
	}
	return err
}

// watchedWriter tells when the reader of what is written has gone.
type watchedWriter struct {
	out  io.Writer
	gone func()
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		w.gone()
	}
	return n, err
}
