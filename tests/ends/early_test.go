package ends

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// flake makes a flake with these outputs, and returns a reference to an
// attribute of it.
func flake(t *testing.T, outputs string) func(attribute string) string {
	t.Helper()
	dir := t.TempDir()
	text := "{ outputs = { self }: rec {\n" + outputs + "\n}; }\n"
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return func(attribute string) string { return "path:" + dir + "#" + attribute }
}

// slow has an attribute that is evaluated, and one that is built, for ever.
const slow = `
	evaluated = let
	  many = builtins.genList (x: x) 1000;
	  often = f: a: builtins.foldl' (a: _: f a) a many;
	in often (often (often (often (x: x + 1)))) 0;
	built = derivation {
	  name = "nixos-system-slow";
	  system = "x86_64-linux";
	  builder = "/bin/sh";
	  args = [ "-c" "while :; do sleep 1; done" ];
	  PATH = "/usr/bin:/bin";
	};
`

// A signal before the guest runs: while nix evaluates, while it builds, while
// the kernel is decompressed.
func TestEarlySignals(t *testing.T) {
	ref := flake(t, slow)
	for _, c := range []struct {
		name, ref string
		stage     string // the one that is over before
		signal    syscall.Signal
		status    int
		why       string
	}{
		{"evaluating", ref("evaluated"), "", syscall.SIGINT, 130, "ended by SIGINT"},
		{"building", ref("built"), "evaluate", syscall.SIGTERM, 143, "ended by SIGTERM"},
		{"decompressing", testbed.System(t, testbed.Test, "vm-6_1"), "index", syscall.SIGTERM, 143, "ended by SIGTERM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cache := t.TempDir()
			p := guest.Command{Args: []string{"boot", c.ref}, Env: []string{"XDG_CACHE_HOME=" + cache}}.Start(t)
			if c.stage != "" {
				p.WaitWords(`"stage":"` + c.stage + `"`)
			}
			time.Sleep(2 * time.Second) // in the middle of the next
			asked := time.Now()
			p.Signal(c.signal)
			r := p.Wait()
			promptly(t, asked)
			r.Ended(t, c.status, c.why)
			if r.Console != "" {
				t.Errorf("a guest ran: %q", r.Console)
			}
			left, err := filepath.Glob(filepath.Join(cache, "whiterun", "*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left in the cache: %q, %v", left, err)
			}
		})
	}
}

// A guest that fills its console faster than it is read waits, and ends when
// it is told to.
func TestStuckReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := guest.Command{Args: boot(t, "vm-6_1", "flood"), Stdout: w}.Start(t)
	w.Close()
	readUntil(t, r, "all work and no play")
	time.Sleep(3 * time.Second) // until the pipe is full, and all rings
	asked := time.Now()
	p.Signal(syscall.SIGTERM)
	result := p.Wait()
	promptly(t, asked)
	result.Ended(t, 143, "ended by SIGTERM")
}

// A guest whose console nobody can read any more has no more use.
func TestReaderGoes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := guest.Command{Args: boot(t, "vm-6_12", "flood"), Stdout: w}.Start(t)
	w.Close()
	readUntil(t, r, "all work and no play")
	asked := time.Now()
	r.Close()
	result := p.Wait()
	promptly(t, asked)
	result.Ended(t, 141, "nobody reads the guest's console any more")
}

// readUntil reads until a text has come.
func readUntil(t *testing.T, r *os.File, text string) {
	t.Helper()
	if err := r.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(all.String(), text) {
		n, err := r.Read(buffer)
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		all.Write(buffer[:n])
	}
}
