package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drzln/whiterun/pkg/manifest"
)

// realNix is a real Nix on a store of its own, in folders of the test.
type realNix struct {
	*Nix
	words *bytes.Buffer
	dir   string // holds everything
	flake string // the path of testdata/flake, copied
}

func newRealNix(t *testing.T) *realNix {
	t.Helper()
	for _, program := range []string{"nix", "nix-store"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("needs a real Nix:", err)
		}
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, sub := range map[string]string{
		"NIX_STORE_DIR": "store", "NIX_STATE_DIR": "state", "NIX_LOG_DIR": "log", "NIX_CONF_DIR": "conf",
		"XDG_CACHE_HOME": "cache", "XDG_RUNTIME_DIR": "runtime", "HOME": "home",
	} {
		t.Setenv(name, filepath.Join(dir, sub))
	}
	t.Setenv("NIX_REMOTE", "")
	t.Setenv("NIX_CONFIG", "build-users-group =\nsandbox = false\nsubstituters =\nflake-registry =\n")
	for _, sub := range []string{"runtime", "home"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// Store paths are read-only folders, which t.TempDir cannot remove unless it
	// is root.
	t.Cleanup(func() {
		filepath.WalkDir(filepath.Join(dir, "store"), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	flake := filepath.Join(dir, "flake")
	if err := os.CopyFS(flake, os.DirFS("testdata/flake")); err != nil {
		t.Fatal(err)
	}
	words := new(bytes.Buffer)
	return &realNix{New(Options{Words: words}), words, dir, flake}
}

// leftovers returns what is in the folders that must be empty when no machine
// lives.
func (n *realNix) leftovers(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"runtime/*", "runtime/*/*", "state/gcroots/auto/*"} {
		names, err := filepath.Glob(filepath.Join(n.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names...)
	}
	return all
}

func TestRealSystem(t *testing.T) {
	n := newRealNix(t)
	var stages []string
	n.Stage = func(name string) { stages = append(stages, name) }
	ctx := t.Context()

	s, err := n.System(ctx, "path:"+n.flake+"#nixosConfigurations.vm")
	if err != nil {
		t.Fatalf("%v\n%s", err, n.words)
	}
	if s.Name != "vm" || s.Toplevel.Name() != "nixos-system-vm-26.05.1" {
		t.Errorf("got system %q, toplevel %s", s.Name, s.Toplevel)
	}
	if len(s.Closure) != 4 || !slices.Contains(s.Closure, s.Toplevel) {
		t.Errorf("got closure %v", s.Closure)
	}
	if want := []string{"evaluate", "build", "closure"}; !slices.Equal(stages, want) {
		t.Errorf("got stages %v, want %v", stages, want)
	}
	if n.Runs() != 3 {
		t.Errorf("ran nix %d times, want 3", n.Runs())
	}
	if !strings.Contains(n.words.String(), "building the toplevel") {
		t.Errorf("the builder's words are missing from %q", n.words)
	}

	// The root holds while the machine lives, and no longer.
	if out, err := exec.Command("nix-store", "--gc", "--print-live").Output(); err != nil || !strings.Contains(string(out), s.Toplevel.String()) {
		t.Errorf("%v: the toplevel is not live in %s", err, out)
	}
	m, err := Machine{CPUs: manifest.CPUs{Sockets: 1, Cores: 1, Threads: 1}, MemoryBytes: 256 * manifest.MiB}.Manifest(s)
	if err != nil {
		t.Fatal(err)
	}
	want := "loglevel=4 net.ifnames=0 console=ttyS0 console=hvc0 init=/nix/store/" + s.Toplevel.Base + "/init"
	if m.CommandLine != want || m.Name != "vm" || filepath.Base(m.Kernel) != "bzImage" || len(m.Initrds) != 1 {
		t.Errorf("got manifest %+v, want the command line %s", m, want)
	}
	toplevel := s.Toplevel.String()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left := n.leftovers(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	// The same system by every other kind of reference.
	link := filepath.Join(n.dir, "result")
	if err := os.Symlink(toplevel, link); err != nil {
		t.Fatal(err)
	}
	first, _ := m.Encode()
	for _, ref := range []string{
		"path:" + n.flake + "#vm", n.flake + "#nixosConfigurations.vm.config.system.build.toplevel", n.flake, "path:" + n.flake,
		"path:" + n.flake + "#toplevel", "path:" + n.flake + "#nixosConfigurations.vm.config", "path:" + n.flake + "#classic",
		toplevel, toplevel + "/init", link,
	} {
		s, err := n.System(ctx, ref)
		if err != nil {
			t.Errorf("%s: %v\n%s", ref, err, n.words)
			continue
		}
		m, err := Machine{Name: "vm", CPUs: m.CPUs, MemoryBytes: m.MemoryBytes}.Manifest(s)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
		} else if again, _ := m.Encode(); !bytes.Equal(first, again) {
			t.Errorf("%s: the manifest differs:\n%s\n%s", ref, first, again)
		}
		s.Close()
	}

	// A link may come from a derivation whose files say it all.
	old, err := n.System(ctx, "path:"+n.flake+"#old")
	if err != nil {
		t.Fatal(err)
	}
	if old.Boot.Label != "" || !slices.Equal(old.Boot.Params, []string{"from=file"}) || filepath.Base(old.Boot.Kernel) != "bzImage" {
		t.Errorf("got %+v", old.Boot)
	}
	old.Close()
	if left := n.leftovers(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRealRefusals(t *testing.T) {
	n := newRealNix(t)
	empty := filepath.Join(n.dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	flake := "path:" + n.flake
	for ref, want := range map[string]string{
		flake + "#string":                  flake + "#string is not a system: it is a string",
		flake + "#number":                  "is not a system: it is an integer",
		flake + "#function":                "is not a system: it is a function",
		flake + "#set":                     "is not a system: it is a set with the attributes a, b, c",
		flake + "#empty":                   "is not a system: it is an empty set",
		flake + "#hello":                   "is not a system: it is a derivation named hello that holds no kernel",
		flake + "#container":               "cannot be booted: its toplevel holds no kernel, as that of a container",
		flake + "#nope":                    "names nothing: the flake " + flake + " has no attribute nope and no nixosConfigurations.nope",
		flake + "#nixosConfigurations.bad": "has no attribute nixosConfigurations.bad",
		flake + "#broken":                  "cannot be evaluated: nix ended with status 1",
		flake + "#fails":                   "cannot be built: nix-store ended with status",
		"path:" + empty + "#vm":            "is not a reference: there is no flake at path:" + empty,
		filepath.Join(n.dir, "store", strings.Repeat("0", 32)+"-gone"): "is not in the store, and nix cannot fetch it",
	} {
		n.words.Reset()
		s, err := n.System(t.Context(), ref)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want an error with %q\n%s", ref, s, err, want, n.words)
		}
		if left := n.leftovers(t); len(left) != 0 {
			t.Errorf("%s: left behind: %v", ref, left)
		}
	}
	// Nix's own explanation is passed on whole, under Quiet too.
	for _, quiet := range []bool{false, true} {
		n.Quiet = quiet
		for _, c := range []struct{ attr, want string }{{"broken", "this configuration is broken"}, {"fails", "the builder gave up"}} {
			n.words.Reset()
			if _, err := n.System(t.Context(), flake+"#"+c.attr); err == nil || strings.Count(n.words.String(), c.want) < 1 {
				t.Errorf("%s, quiet %v: %v: nix's words %q lack %q", c.attr, quiet, err, n.words, c.want)
			}
		}
	}
	n.words.Reset()
	s, err := n.System(t.Context(), flake+"#vm")
	if err != nil || n.words.Len() != 0 {
		t.Errorf("%v: quiet, yet nix said %q", err, n.words)
	} else {
		s.Close()
	}
}

func TestRealCancel(t *testing.T) {
	n := newRealNix(t)
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(10 * time.Millisecond) {
			if slowBuilder() != "" {
				break
			}
		}
		cancel(stop)
	}()
	start := time.Now()
	_, err := n.System(ctx, "path:"+n.flake+"#slow")
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause", err)
	}
	if took := time.Since(start); took > 25*time.Second {
		t.Errorf("took %v", took)
	}
	for start := time.Now(); slowBuilder() != "" && time.Since(start) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
	}
	if left := slowBuilder(); left != "" {
		t.Errorf("a builder lives on: %s", left)
	}
	if left := n.leftovers(t); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// slowBuilder returns the command line of a process of the test flake's slow
// builder, or "". Its sleep has a length that nothing else has.
func slowBuilder() string {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, _ := os.ReadFile(name)
		if bytes.HasPrefix(line, []byte("sleep\x00987.25")) {
			return fmt.Sprintf("%s: %q", name, line)
		}
	}
	return ""
}
