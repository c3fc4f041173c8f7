// Package progress tells the stages of a start: on a terminal as one line that
// updates, elsewhere as one log record each. It owns the terminal's lines while
// it does: log and program output goes through it, so that nothing is written
// into the line, and so does the guest's console, whose first byte ends it.
package progress

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Style says how the stages are told.
type Style int

// The ways of telling.
const (
	Silent  Style = iota // not at all
	Records              // a log record when a stage is over
	Line                 // one line that updates
)

// tick is how often the line's running time moves.
const tick = 100 * time.Millisecond

// clearLine takes the cursor to the line's start and erases the line (ECMA-48
// EL).
const clearLine = "\r\x1b[K"

// Progress tells the stages of one start. Its methods may be called from any
// goroutine.
type Progress struct {
	out   io.Writer
	style Style
	log   zerolog.Logger
	width func() int
	now   func() time.Time

	mu      sync.Mutex
	start   time.Time
	done    []string // finished stages with their times
	stage   string   // the one under way, or ""
	since   time.Time
	drawn   bool // the line is on the screen
	frozen  bool // it is not drawn any more
	raw     bool // the terminal does not return the carriage by itself
	midline bool // the guest's last byte was no newline
	stop    chan struct{}
	stopped sync.WaitGroup
}

// New returns a Progress that writes to out, which is a terminal when style is
// Line; width returns how many characters a line of it holds. SetLog gives it
// the logger for Records. The caller closes it.
func New(out io.Writer, style Style, width func() int) *Progress {
	p := &Progress{out: out, style: style, log: zerolog.Nop(), width: width, now: time.Now, stop: make(chan struct{})}
	p.start = p.now()
	if style == Line {
		p.stopped.Go(p.run)
	}
	return p
}

// SetLog sets the logger for Records. It is a call of its own because that
// logger most often writes through p.
func (p *Progress) SetLog(log zerolog.Logger) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = log
}

func (p *Progress) run() {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			p.mu.Lock()
			p.draw()
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

// Begin ends the stage under way and begins the next.
func (p *Progress) Begin(stage string) {
	p.mu.Lock()
	record := p.end()
	p.stage, p.since = stage, p.now()
	p.draw()
	p.mu.Unlock()
	record()
}

// Done ends the stage under way and the line.
func (p *Progress) Done() {
	p.mu.Lock()
	record := p.end()
	p.draw()
	p.freeze()
	p.mu.Unlock()
	record()
}

// Close ends the line where it is, with the stage that is not over. It may be
// called again.
func (p *Progress) Close() {
	p.mu.Lock()
	p.freeze()
	closed := p.style != Line
	p.style = Silent
	p.mu.Unlock()
	if !closed {
		close(p.stop)
		p.stopped.Wait()
	}
}

// end ends the stage under way and returns what writes its record. That is for
// after the lock is given back: the logger may write through p.
func (p *Progress) end() (record func()) {
	if p.stage == "" {
		return func() {}
	}
	name, took, total, log := p.stage, p.now().Sub(p.since), p.now().Sub(p.start), p.log
	p.done = append(p.done, name+" "+short(took))
	p.stage = ""
	if p.style != Records {
		return func() {}
	}
	return func() {
		log.Info().Str("stage", name).Float64("ms", millis(took)).Float64("since_start_ms", millis(total)).Msg("stage is over")
	}
}

// millis returns milliseconds to one digit.
func millis(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond).Microseconds()) / 1000
}

// draw shows the line as it is now, where it is to be shown. Of a line that is
// too long to be overwritten as one it shows the end.
func (p *Progress) draw() {
	if p.style != Line || p.frozen {
		return
	}
	line := []rune(p.line())
	if len(line) == 0 {
		return
	}
	if most := p.width() - 1; len(line) > most && most > 1 {
		line = append([]rune("…"), line[len(line)-most+1:]...)
	}
	p.write(clearLine + string(line))
	p.drawn = true
}

// line returns the stages with their times.
func (p *Progress) line() string {
	line := strings.Join(p.done, " · ")
	if p.stage == "" {
		return line
	}
	if line != "" {
		line += " · "
	}
	return line + p.stage + " " + short(p.now().Sub(p.since)) + "…"
}

// freeze leaves the line on the screen, whole, and draws it no more.
func (p *Progress) freeze() {
	if p.drawn {
		p.write(clearLine + p.line() + "\r\n")
	}
	p.drawn, p.frozen = false, true
}

// write ignores errors: a terminal that went away must not end a machine.
func (p *Progress) write(text string) { _, _ = io.WriteString(p.out, text) }

// Write writes other words, whole lines, above the line that updates.
func (p *Progress) Write(words []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(words) == 0 {
		return 0, nil
	}
	text := words
	if p.raw {
		text = bytes.ReplaceAll(words, []byte("\n"), []byte("\r\n"))
	}
	switch {
	case p.drawn:
		text = append([]byte(clearLine), text...)
		p.drawn = false
	case p.midline && p.raw:
		text = append([]byte("\r\n"), text...)
	case p.midline:
		text = append([]byte("\n"), text...)
	}
	p.midline = false
	if _, err := p.out.Write(text); err != nil {
		return 0, err
	}
	// A line in pieces must not be drawn over.
	if words[len(words)-1] == '\n' {
		p.draw()
	}
	return len(words), nil
}

// SetRaw says whether the terminal is in raw mode, where a newline does not
// return the carriage.
func (p *Progress) SetRaw(raw bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.raw = raw
}

// Console returns a writer of the guest's console to out. When out is the
// terminal that the line is on, the guest's first byte ends the line, and words
// that come later start on a line of their own.
func (p *Progress) Console(out io.Writer, sameTerminal bool) io.Writer {
	if !sameTerminal {
		return out
	}
	return &console{p, out}
}

type console struct {
	progress *Progress
	out      io.Writer
}

func (c *console) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	p := c.progress
	p.mu.Lock()
	p.freeze()
	p.midline = b[len(b)-1] != '\n'
	p.mu.Unlock()
	// Outside the lock: the guest's output may wait for its reader for long.
	return c.out.Write(b)
}

// short writes a duration with the digits that matter: "12 ms", "1.2 s".
func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}
