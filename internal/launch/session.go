// Package launch joins the halves of Whiterun for one invocation of the command
// line: it evaluates, indexes and runs what the commands ask for, and owns what
// that takes of the process: signals, the terminal, the log and the exit status.
package launch

import (
	"context"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/pkg/progress"
	"github.com/drzln/whiterun/pkg/terminal"
	"github.com/drzln/whiterun/store"
)

// Format says how Whiterun's own words are written.
type Format string

// The formats of the log.
const (
	Auto    Format = "auto" // Console on a terminal, JSON elsewhere
	Console Format = "console"
	JSON    Format = "json"
)

// Options is what all commands have in common.
type Options struct {
	Stdin, Stdout, Stderr *os.File
	Format                Format
	Level                 zerolog.Level
	Quiet                 bool // no stages, and nothing of nix but its failures
}

// Session is one invocation. It is used by one goroutine.
type Session struct {
	Options
	log      zerolog.Logger
	progress *progress.Progress

	cancel  context.CancelCauseFunc
	signals chan os.Signal
	watcher sync.WaitGroup

	mu    sync.Mutex
	undos map[int]func() // what must not be left behind
	next  int
}

// Start begins a session. The context it returns ends with the first signal
// that asks for an end, and its cause is an *End. The caller calls Finish.
func Start(o Options) (*Session, context.Context) {
	onTerminal := terminal.IsTerminal(o.Stderr)
	style := progress.Records
	switch {
	case o.Quiet:
		style = progress.Silent
	case onTerminal && o.Format != JSON:
		style = progress.Line
	}
	s := &Session{
		Options:  o,
		progress: progress.New(o.Stderr, style, func() int { return width(o.Stderr) }),
		signals:  make(chan os.Signal, 4),
		undos:    make(map[int]func()),
	}
	s.log = logger(s.progress, o, onTerminal)
	s.progress.SetLog(s.log)

	ctx, cancel := context.WithCancelCause(context.Background())
	s.cancel = cancel
	// A reader of standard output that goes away is told by the write; the
	// signal would leave the terminal and the root behind.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signal.Notify(s.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	s.watcher.Go(s.watch)
	return s, ctx
}

func logger(out io.Writer, o Options, onTerminal bool) zerolog.Logger {
	if o.Format == Console || o.Format != JSON && onTerminal {
		_, noColor := os.LookupEnv("NO_COLOR")
		out = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly, NoColor: noColor || !onTerminal}
	}
	return zerolog.New(out).Level(o.Level).With().Timestamp().Logger()
}

func width(f *os.File) int {
	cols, _, err := terminal.Size(f)
	if err != nil {
		return 80
	}
	return int(cols)
}

// watch asks for an end with the first signal and ends the process, with
// nothing left behind, with the second.
func (s *Session) watch() {
	asked := false
	for sig := range s.signals {
		number, _ := sig.(syscall.Signal)
		end := ofSignal(number)
		if !asked {
			asked = true
			s.cancel(end)
			continue
		}
		s.undoAll()
		s.progress.Close()
		s.last(end)
		os.Exit(end.Status)
	}
}

// Finish ends the session with what the command returned, says why in one last
// line, and returns the process' exit status.
func (s *Session) Finish(err error) (status int) {
	signal.Stop(s.signals)
	close(s.signals)
	s.watcher.Wait()
	s.cancel(nil)
	s.undoAll()
	s.progress.Close()
	if err == nil {
		return 0
	}
	end := endOf(err)
	s.last(end)
	return end.Status
}

// last writes the last line, which no log level hides.
func (s *Session) last(end *End) {
	log := s.log.Level(min(s.Level, zerolog.InfoLevel))
	event := log.Error()
	if end.Status == 0 {
		event = log.Info()
	}
	event.Int("status", end.Status).Msg(end.Why)
}

// undoLater registers what must not be left behind however the process ends.
// done carries it out, now, once.
func (s *Session) undoLater(undo func()) (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.next
	s.next++
	once := sync.OnceFunc(undo)
	s.undos[key] = once
	return func() {
		once()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.undos, key)
	}
}

// undoAll carries out everything registered, the latest first.
func (s *Session) undoAll() {
	s.mu.Lock()
	undos, last := s.undos, s.next
	s.undos = make(map[int]func())
	s.mu.Unlock()
	for key := last - 1; key >= 0; key-- {
		if undo := undos[key]; undo != nil {
			undo()
		}
	}
}

// nix returns the Nix half with this session's voice.
func (s *Session) nix() *store.Nix {
	return store.New(store.Options{Log: s.log, Words: s.progress, Quiet: s.Quiet, Stage: s.progress.Begin})
}

// hold keeps a system's root until the session lets go of it.
func (s *Session) hold(system *store.System) (release func()) {
	return s.undoLater(func() {
		if err := system.Close(); err != nil {
			s.log.Warn().Err(err).Msg("the system's root is left behind")
		}
	})
}
