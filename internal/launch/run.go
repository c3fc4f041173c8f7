package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv"
	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/store/closure"
)

// RunOptions is how a machine is run.
type RunOptions struct {
	Console string        // ConsoleStdio, ConsoleNone, or a file for output
	Timeout time.Duration // from the machine's start; 0 for none
	DryRun  bool          // all but the machine itself
	KVM     string        // the device
}

// run runs the machine of m until it ends and returns the *End.
func (s *Session) run(ctx context.Context, m *manifest.Manifest, o RunOptions) error {
	release, err := pin(m)
	if err != nil {
		return err
	}
	defer release()

	options := hv.Options{
		Manifest: m,
		CacheDir: cacheDir(),
		Log:      s.log,
		KVM:      o.KVM,
		Stage:    s.stages(m),
	}
	if m.Store != nil {
		s.progress.Begin("index")
		index, err := closure.Build(ctx, m.Store.Dir, m.Store.Closure)
		if err != nil {
			return fmt.Errorf("index the closure: %w", err)
		}
		defer index.Close()
		s.log.Debug().Int("nodes", index.Nodes()).Uint64("bytes", index.Size()).Msg("indexed the closure")
		options.Store = index
		if node, ok := index.Resolve(filepath.Join(m.Store.Toplevel, "init")); ok {
			options.InitNode = node
		}
	}
	if o.DryRun {
		s.progress.Done()
		if err := s.print(m); err != nil {
			return err
		}
		return &End{0, "nothing was booted: this was a dry run"}
	}

	s.progress.Begin(hv.StageKernel)
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	if o.Timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, o.Timeout, ofTimeout(o.Timeout))
		defer stop()
	}
	console, err := s.openConsole(o.Console, end)
	if err != nil {
		return err
	}
	options.Input, options.Output = console.in, console.out
	machine, err := hv.New(ctx, options)
	if err != nil {
		err = errors.Join(err, console.close())
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	err = s.guest(ctx, machine, console)
	// The console first: the machine may wait for whoever reads its input.
	if closed := errors.Join(console.close(), machine.Close()); closed != nil {
		s.log.Warn().Err(closed).Msg("the machine leaves something behind")
	}
	return err
}

// guest runs the machine with the terminal attached.
func (s *Session) guest(ctx context.Context, machine *hv.Machine, c *guestConsole) error {
	detach, err := s.attach(c, machine.Resize)
	if err != nil {
		return err
	}
	defer detach()
	outcome, err := machine.Run(ctx)
	if err != nil {
		s.log.Warn().Err(err).Msg("the machine did not end cleanly")
	}
	if cause := context.Cause(ctx); outcome.Reason == hv.Stopped && cause != nil {
		return cause
	}
	return &End{outcome.ExitStatus(), outcome.String()}
}

// stages turns the hypervisor's stages, told when they are reached, into those
// of the progress, told when they begin.
func (s *Session) stages(m *manifest.Manifest) func(string) {
	return func(reached string) {
		switch {
		case reached == hv.StageKernel:
			s.progress.Begin(hv.StageGuest)
		case reached == hv.StageGuest && m.Store != nil:
			s.progress.Begin(hv.StageStore)
		case reached == hv.StageStore:
			s.progress.Begin(hv.StageInit)
		case reached == hv.StageGuest || reached == hv.StageInit:
			s.progress.Done()
		}
	}
}

// pin opens what the manifest names and keeps it open. Nix's garbage collector
// takes what a process has open for alive, and with the toplevel its closure, so
// that a machine run from a manifest needs no root and no Nix.
func pin(m *manifest.Manifest) (release func(), err error) {
	var fds []int
	release = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	named := append([]string{m.Kernel}, m.Initrds...)
	if m.Store != nil {
		named = append(named, m.Store.Toplevel)
	}
	for _, name := range named {
		fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			release()
			return nil, fmt.Errorf("the machine needs %s: %w", name, err)
		}
		fds = append(fds, fd)
	}
	return release, nil
}

// cacheDir returns where decompressed kernels are kept, or "" on a host that
// has no such place.
func cacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "whiterun")
}
