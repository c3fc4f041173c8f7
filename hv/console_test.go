package hv

import (
	"bytes"
	"strings"
	"testing"
)

func TestConsoles(t *testing.T) {
	const (
		serial = "s"
		hvc    = "h"
	)
	type step struct{ from, text string }
	for _, c := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"serial only", []step{{serial, "[    0.0] a\nlogin: "}}, "[    0.0] a\nlogin: "},
		{"hvc0 only", []step{{hvc, "hello\n"}}, "hello\n"},
		{"the replay is not shown twice", []step{
			{serial, "[    0.0] a\r\n[    0.1] b\r\n"},
			{hvc, "[    0.0] a\r\n[    0.1] b\r\n[    0.2] c\r\n"},
			{serial, "[    0.2] c\r\n"},
			{hvc, "[    0.0] a\r\n"},
		}, "[    0.0] a\r\n[    0.1] b\r\n[    0.2] c\r\n[    0.0] a\r\n"},
		{"the replay in pieces", []step{
			{serial, "[    0.0] a\n"},
			{hvc, "["}, {hvc, "    0.0"}, {hvc, "] a\n$"}, {hvc, " "},
		}, "[    0.0] a\n$ "},
		{"a line that the serial port has begun", []step{
			{serial, "[    0.0] a\n[    0.1] b"},
			{hvc, "[    0.0] a\n[    0.1] b c\n"},
			{serial, " c\n"},
		}, "[    0.0] a\n[    0.1] b c\n"},
		{"a prompt ends the replay", []step{
			{serial, "[    0.0] a\n"},
			{hvc, "$ "}, {hvc, "[    0.0] a\n"},
		}, "[    0.0] a\n$ [    0.0] a\n"},
		{"a serial console that goes on is hidden", []step{
			{serial, "boot\n"}, {hvc, "x\n"}, {serial, "getty\n"},
		}, "boot\nx\n"},
		{"a line without an end", []step{
			{serial, "[    0.0] a\n"}, {hvc, "[ " + strings.Repeat("x", 2*maxLineLength)},
		}, "[    0.0] a\n[ " + strings.Repeat("x", 2*maxLineLength)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			both := newConsoles(&out)
			for _, s := range c.steps {
				write := both.writeSerial
				if s.from == hvc {
					write = both.writeHVC
				}
				if n, err := write([]byte(s.text)); err != nil || n != len(s.text) {
					t.Fatalf("write of %q: %d, %v", s.text, n, err)
				}
			}
			if got := out.String(); got != c.want {
				t.Errorf("shown:\n%q\nwant:\n%q", got, c.want)
			}
		})
	}
}

func FuzzConsoles(f *testing.F) {
	f.Add([]byte("[    0.0] a\n"), []byte("[    0.0] a\n$ "), uint8(3))
	f.Add([]byte("x"), []byte("[\n"), uint8(1))
	f.Fuzz(func(t *testing.T, serial, hvc []byte, cut uint8) {
		var out bytes.Buffer
		both := newConsoles(&out)
		watch := newPanicWatch(func() {})
		write := watch.watch(both.writeHVC)
		_, _ = watch.watch(both.writeSerial)(serial)
		n := min(int(cut), len(hvc))
		_, _ = write(hvc[:n])
		_, _ = write(hvc[n:])
		if out.Len() > len(serial)+len(hvc) {
			t.Errorf("%d bytes came out of %d", out.Len(), len(serial)+len(hvc))
		}
	})
}

func TestPanicWatch(t *testing.T) {
	const end = "[    2.1] ---[ end Kernel panic - not syncing: x ]---\r\n"
	for _, c := range []struct {
		name, text, message string
		ended               bool
	}{
		{"nothing", "hello\n", "", false},
		{"a panic", "[    2.0] Kernel panic - not syncing: sysrq\n" + end, "Kernel panic - not syncing: sysrq", true},
		{"with the caller's thread", "[    2.0][    T1] Kernel panic - not syncing: x\n" + end, "Kernel panic - not syncing: x", true},
		{"without time stamps", "Kernel panic - not syncing: x\n", "Kernel panic - not syncing: x", false},
		{"in the middle of a line", "grep: Kernel panic - not syncing\n" + end, "", false},
		{"an end without a beginning", end, "", false},
		{"long ago", "Kernel panic - not syncing: x\n" + strings.Repeat("still here\n", panicTail/8) + "y\n", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ended := false
			w := newPanicWatch(func() { ended = true })
			write := w.watch(func(p []byte) (int, error) { return len(p), nil })
			for _, line := range strings.SplitAfter(c.text, "\n") {
				_, _ = write([]byte(line))
			}
			if got := w.panic(); got != c.message || ended != c.ended {
				t.Errorf("message %q, ended %t", got, ended)
			}
		})
	}
}
