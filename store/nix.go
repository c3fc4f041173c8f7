package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// ErrNoNix is wrapped by the error for a machine without Nix.
var ErrNoNix = errors.New("Nix is not installed, or its programs are not on PATH")

// termination is how long a nix program that was asked to end may take to end
// its builders. Nix 2.8 does not listen while it evaluates.
const termination = time.Second

// Options says how the Nix half works.
type Options struct {
	// Log receives each program run at debug level.
	Log zerolog.Logger
	// Words receives what the nix programs themselves say while they work. What
	// they say when they fail reaches it in any case.
	Words io.Writer
	// Quiet holds their words back until one fails.
	Quiet bool
	// Stage, when set, is called with "evaluate", "build" and "closure" as each
	// begins.
	Stage func(name string)
	// RuntimeDir is where the roots of running machines are; "" chooses.
	RuntimeDir string
}

// Nix runs the nix programs. It is for use by one goroutine.
type Nix struct {
	Options
	dir  string
	runs int
	run  runner
}

// runner runs one program until it ends and returns its standard output; its
// standard error goes to words.
type runner func(ctx context.Context, words io.Writer, program string, args ...string) ([]byte, error)

// New returns a Nix for the host's store.
func New(o Options) *Nix {
	if o.Words == nil {
		o.Words = io.Discard
	}
	if o.Stage == nil {
		o.Stage = func(string) {}
	}
	return &Nix{Options: o, dir: Dir(), run: runProgram}
}

// Runs returns how many programs were run so far.
func (n *Nix) Runs() int { return n.runs }

// call runs one program with its words going straight on, or held back under
// Quiet, and returns its standard output.
func (n *Nix) call(ctx context.Context, program string, args ...string) ([]byte, error) {
	if !n.Quiet {
		return n.logged(ctx, n.Words, program, args...)
	}
	var held bytes.Buffer
	out, err := n.logged(ctx, &held, program, args...)
	if err != nil {
		n.pass(held.Bytes())
	}
	return out, err
}

func (n *Nix) logged(ctx context.Context, words io.Writer, program string, args ...string) ([]byte, error) {
	n.runs++
	start := time.Now()
	out, err := n.run(ctx, words, program, args...)
	n.Log.Debug().Int("run", n.runs).Str("program", program).Strs("arguments", args).
		Dur("ms", time.Since(start)).AnErr("error", err).Msg("ran nix")
	return out, err
}

// pass hands on words that were held back. That they cannot be written must not
// hide the error they explain.
func (n *Nix) pass(words []byte) { _, _ = n.Words.Write(words) }

// runProgram is the real runner. The program gets a session of its own: a
// Ctrl-C on the terminal is ours to hand on, and whatever asks for a password on
// the terminal fails instead of being stopped for ever. It is asked to end when
// this process ends, in whatever way: that signal is sent when the thread ends that
// started the program, so the thread is kept.
func runProgram(ctx context.Context, words io.Writer, program string, args ...string) ([]byte, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = termination

	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		if cmd.Process != nil {
			// Whoever of the group is left did not listen. None is the usual case.
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		return nil, cause
	}
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("run %s: %w", program, ErrNoNix)
	case errors.As(err, &exit):
		return nil, fmt.Errorf("%s ended with %s", program, strings.TrimPrefix(exit.Error(), "exit "))
	case err != nil:
		return nil, fmt.Errorf("run %s: %w", program, err)
	}
	return out.Bytes(), nil
}

// Version returns what the installed Nix calls itself, such as "nix (Nix)
// 2.34.8".
func (n *Nix) Version(ctx context.Context) (string, error) {
	var said bytes.Buffer
	out, err := n.logged(ctx, &said, "nix", "--version")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}
