// Package ends ends machines in every way there is, and starts them with input
// that cannot work: each has its exit status, its sentence, and leaves nothing.
package ends

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// boot returns the arguments that boot the test system and have it run probes.
func boot(t *testing.T, system, probes string, args ...string) []string {
	t.Helper()
	return append([]string{"boot", testbed.System(t, testbed.Test, system), "--mem", "256", "--append", "whiterun.test=" + probes}, args...)
}

// What the guest does to itself.
func TestGuestEnds(t *testing.T) {
	for _, c := range []struct {
		system, probe string
		args          []string
		status        int
		why           string
	}{
		{"vm-6_1", "poweroff", nil, 0, "the guest powered off"},
		{"vm-6_12", "reboot", []string{"--no-reboot"}, 133, "the guest asked for a reboot"},
		{"vm-6_1", "panic", nil, 134, "the guest's kernel panicked"},
		{"vm-6_12", "panic", []string{"--cpus", "2"}, 134, "the guest's kernel panicked"},
		// Without pvpanic, the console tells; on the second the others are stopped.
		{"vm-6_1", "panic-silent", nil, 134, "the guest's kernel panicked: Kernel panic - not syncing: sysrq triggered crash"},
		{"vm-6_12", "panic-silent", []string{"--cpus", "2"}, 134, "the guest's kernel panicked: Kernel panic - not syncing: sysrq triggered crash"},
		{"vm-6_12", "triple-fault", nil, 135, "triple-faulted"},
	} {
		t.Run(c.system+","+c.probe, func(t *testing.T) {
			r := guest.Run(t, boot(t, c.system, c.probe, c.args...)...)
			r.Ended(t, c.status, c.why)
			if !strings.Contains(r.Console, "--- "+c.probe+" begins") {
				t.Errorf("the guest did not get to its %s", c.probe)
			}
		})
	}
}

// Words are not enough: a guest that prints a panic's and lives, lives on.
func TestPretendedPanic(t *testing.T) {
	r := guest.Run(t, boot(t, "vm-6_1", "pretend-panic,poweroff", "--cpus", "2")...)
	r.Ended(t, 0, "the guest powered off")
	if got := r.Probe(t, "pretend-panic"); !strings.Contains(got, "still here\n") || strings.Count(got, "---[ end Kernel panic - not syncing: pretended ]---") != 2 {
		t.Errorf("the guest said %q", got)
	}
}

func TestTimeout(t *testing.T) {
	for _, probe := range []string{"sleep", "spin"} {
		t.Run(probe, func(t *testing.T) {
			// However slow this machine is, the guest gets to its probe in the end.
			for timeout := 20 * time.Second; timeout < 10*time.Minute; timeout *= 2 {
				r := guest.Run(t, boot(t, "vm-6_12", probe, "--cpus", "2", "--timeout", timeout.String())...)
				r.Ended(t, 124, "it ran for the "+timeout.String()+" that --timeout gives it")
				if t.Failed() || strings.Contains(r.Console, "--- "+probe+" begins") {
					return
				}
			}
			t.Error("the guest never got to its probe")
		})
	}
}

// What is done to the guest from outside, which it has no part in.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name, probe string
		args        []string
		signals     []syscall.Signal
		status      int
		why         string
	}{
		{"SIGTERM, idle", "sleep", nil, []syscall.Signal{syscall.SIGTERM}, 143, "ended by SIGTERM"},
		{"SIGINT, busy", "spin", []string{"--cpus", "2"}, []syscall.Signal{syscall.SIGINT}, 130, "ended by SIGINT"},
		{"twice, busy", "spin", []string{"--cpus", "2"}, []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, 143, "ended by SIGTERM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := guest.Command{Args: boot(t, "vm-6_12", c.probe, c.args...)}.Start(t)
			p.WaitConsole("--- " + c.probe + " begins")
			time.Sleep(time.Second) // spinning
			asked := time.Now()
			for _, signal := range c.signals {
				p.Signal(signal)
			}
			r := p.Wait()
			r.Ended(t, c.status, c.why)
			promptly(t, asked)
		})
	}
}

// promptly fails the test when it has taken too long since a signal: a second
// is promised, and the outer machine's second is a long one.
func promptly(t *testing.T, asked time.Time) {
	t.Helper()
	if took := time.Since(asked); took > 10*time.Second {
		t.Errorf("it took %v to end", took)
	} else {
		t.Logf("ended within %v", took.Round(time.Millisecond))
	}
}
