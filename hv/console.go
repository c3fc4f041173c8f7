package hv

import (
	"bytes"
	"hash/maphash"
	"io"
	"sync"
)

// consoles makes one stream of the guest's two consoles. The serial port is
// shown until the guest writes to hvc0, which is then the console. A kernel
// that has both replays on hvc0 what it has already said on the serial port;
// those lines, and the beginning of the one it was just saying, are not shown
// twice.
type consoles struct {
	out io.Writer

	mu     sync.Mutex
	hvc    bool                // hvc0 has written
	replay bool                // hvc0 may still repeat the serial port
	seen   map[uint64]struct{} // hashes of the serial port's kernel lines
	seed   maphash.Seed
	serial lineBuffer
	held   lineBuffer // the beginning of an hvc0 line during the replay
}

func newConsoles(out io.Writer) *consoles {
	return &consoles{out: out, replay: true, seen: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

// writeSerial takes output of the serial port.
func (c *consoles) writeSerial(p []byte) (int, error) {
	c.mu.Lock()
	show := !c.hvc
	if show {
		c.serial.each(p, func(line []byte) {
			if isKernelLine(line) && len(c.seen) < maxSeenLines {
				c.seen[maphash.Bytes(c.seed, line)] = struct{}{}
			}
		})
	}
	c.mu.Unlock()
	if !show {
		return len(p), nil
	}
	return c.out.Write(p)
}

// writeHVC takes output of hvc0.
func (c *consoles) writeHVC(p []byte) (int, error) {
	c.mu.Lock()
	c.hvc = true
	show := p
	if c.replay {
		show = c.withoutReplay(p)
	}
	c.mu.Unlock()
	if len(show) > 0 {
		if _, err := c.out.Write(show); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// hvcInUse tells whether the guest has written to hvc0.
func (c *consoles) hvcInUse() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hvc
}

// withoutReplay returns what of p, and of what was held back before it, is new.
// The replay is over with the first line that the serial port has not had.
func (c *consoles) withoutReplay(p []byte) []byte {
	for i, b := range p {
		c.held.add(b)
		line := c.held.line()
		repeats := len(line) < 2 || isKernelLine(line)
		if repeats && b == '\n' {
			_, repeats = c.seen[maphash.Bytes(c.seed, line)]
			if repeats {
				c.held.reset()
			}
		}
		if !repeats || c.held.full() {
			c.replay = false
			c.seen = nil
			line = bytes.TrimPrefix(line, c.serial.line())
			return append(bytes.Clone(line), p[i+1:]...)
		}
	}
	return nil
}

// isKernelLine tells whether a line starts as printk's timestamps do.
func isKernelLine(line []byte) bool {
	return len(line) >= 2 && line[0] == '[' && (line[1] == ' ' || line[1] >= '0' && line[1] <= '9')
}

const (
	maxSeenLines  = 16384
	maxLineLength = 1024 // printk's LOG_LINE_MAX, with its prefix
)

// lineBuffer gathers bytes into lines. Lines longer than its size are cut.
type lineBuffer struct {
	buf [maxLineLength]byte
	n   int
}

func (l *lineBuffer) add(b byte) {
	if l.n < len(l.buf) {
		l.buf[l.n] = b
		l.n++
	}
}

func (l *lineBuffer) line() []byte { return l.buf[:l.n] }
func (l *lineBuffer) full() bool   { return l.n == len(l.buf) }
func (l *lineBuffer) reset()       { l.n = 0 }

// each calls f with every line that p completes, its newline included.
func (l *lineBuffer) each(p []byte, f func(line []byte)) {
	for _, b := range p {
		l.add(b)
		if b == '\n' {
			f(l.line())
			l.reset()
		}
	}
}

// writerFunc is a function as an io.Writer.
type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
