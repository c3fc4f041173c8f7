package boot

import (
	"strings"
	"syscall"
	"testing"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// On a terminal the keys are the guest's, Ctrl-a x ends it, and the terminal is
// afterwards what it was, however the machine ends.
func TestTerminal(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(*guest.Terminal, *guest.Process)
		status int
		why    string
	}{
		{"Ctrl-a x", func(term *guest.Terminal, _ *guest.Process) { term.Type("\x01x") }, 0, "ended by Ctrl-a x"},
		{"SIGTERM", func(_ *guest.Terminal, p *guest.Process) { p.Signal(syscall.SIGTERM) }, 143, "ended by SIGTERM"},
		{"panic", func(term *guest.Terminal, _ *guest.Process) { term.Type("echo c >/proc/sysrq-trigger\r") }, 134, "the guest's kernel panicked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			term := guest.OpenTerminal(t)
			before := term.Mode()
			p := guest.Command{
				Args:     []string{"boot", testbed.System(t, testbed.Example, "vm-6_12"), "--append", "whiterun.test=shell"},
				Terminal: term,
			}.Start(t)
			p.WaitConsole("--- shell begins")
			p.WaitConsole("# ")
			if term.Mode() == before {
				t.Error("the terminal is not in raw mode")
			}
			// The guest's terminal echoes the question; the answer is its own.
			term.Type("echo $((6 * 7)) answers\r")
			p.WaitConsole("42 answers")
			// Ctrl-c is a key of the guest's.
			term.Type("echo $((1 + 1)) long naps; sleep 1000\r")
			p.WaitConsole("2 long naps")
			term.Type("\x03")
			p.WaitConsole("^C")
			term.Type("echo $((7 * 7)) goes on\r")
			p.WaitConsole("49 goes on")
			c.end(term, p)
			r := p.Wait()
			if r.Status != c.status || !strings.Contains(r.Console, c.why) {
				t.Errorf("status %d, want %d and %q", r.Status, c.status, c.why)
			}
			if after := term.Mode(); after != before {
				t.Errorf("the terminal is left as %+v, was %+v", after, before)
			}
		})
	}
}
