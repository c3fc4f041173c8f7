package boot

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// A manifest is the same when it is made twice, and what `run` boots is what
// `boot` would.
func TestManifestAndRun(t *testing.T) {
	s := shape{"vm-6_1", "sockets=1,cores=2,threads=2", "512"}
	ref := testbed.Reference(t, testbed.Test, s.system)
	args := append([]string{"manifest", ref}, s.args("machine")...)
	first := guest.Run(t, args...)
	if first.Status != 0 {
		t.Fatalf("manifest: status %d", first.Status)
	}
	if second := guest.Run(t, args...); second.Console != first.Console {
		t.Errorf("the second manifest differs:\n%s\nthe first:\n%s", second.Console, first.Console)
	}
	file := filepath.Join(t.TempDir(), "vm.json")
	if err := os.WriteFile(file, []byte(first.Console), 0o600); err != nil {
		t.Fatal(err)
	}

	dry := guest.Run(t, "run", file, "--dry-run", "--kvm", "/no/such/kvm")
	dry.Ended(t, 0, "this was a dry run")
	if dry.Console != first.Console {
		t.Errorf("the dry run prints another manifest:\n%s", dry.Console)
	}

	// Without nix in the way: run needs none.
	r := guest.Command{Args: []string{"run", file}, Env: []string{"PATH=/nowhere"}}.Start(t).Wait()
	r.Ended(t, 0, "the guest powered off")
	checkMachine(t, r, s)
}

// The form without a command, on links as nix build makes them.
func TestFiles(t *testing.T) {
	s := shape{"vm-6_12", "2", "1024"}
	dir := t.TempDir()
	ref := testbed.Reference(t, testbed.Test, s.system)
	for _, name := range []string{"kernel", "initialRamdisk", "toplevel"} {
		cmd := exec.Command("nix", "--extra-experimental-features", "nix-command flakes", "build",
			ref+".config.system.build."+name, "--out-link", filepath.Join(dir, name))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v: %s", name, err, out)
		}
	}
	r := guest.Run(t, append([]string{
		"--kernel", filepath.Join(dir, "kernel/bzImage"),
		"--initrd", filepath.Join(dir, "initialRamdisk/initrd"),
		"--rootfs", filepath.Join(dir, "toplevel"),
	}, s.args("machine", "list")...)...)
	r.Ended(t, 0, "the guest powered off")
	checkMachine(t, r, s)
	if got, want := len(strings.Fields(r.Probe(t, "list"))), len(guest.Closure(t, testbed.System(t, testbed.Test, s.system))); got != want {
		t.Errorf("the guest's store has %d paths, the closure %d", got, want)
	}
}

func TestDryRun(t *testing.T) {
	toplevel := testbed.System(t, testbed.Example, "vm")
	r := guest.Boot(t, toplevel, "--dry-run", "--kvm", "/no/such/kvm")
	r.Ended(t, 0, "this was a dry run")
	var m struct {
		Kernel string
		Store  struct{ Toplevel string }
	}
	if err := json.Unmarshal([]byte(r.Console), &m); err != nil {
		t.Fatal(err)
	}
	if m.Store.Toplevel != toplevel || m.Kernel == "" {
		t.Errorf("the manifest has the toplevel %q and the kernel %q", m.Store.Toplevel, m.Kernel)
	}
}

func TestDoctor(t *testing.T) {
	r := guest.Run(t, "doctor", "--json")
	var report struct {
		OK     bool
		Checks []struct {
			Name, Detail string
			OK           bool
		}
	}
	if err := json.Unmarshal([]byte(r.Console), &report); err != nil {
		t.Fatal(err)
	}
	if r.Status != 0 || !report.OK || len(report.Checks) < 5 {
		t.Errorf("status %d: %+v", r.Status, report)
	}
	for _, check := range report.Checks {
		if !check.OK || check.Name == "" || check.Detail == "" {
			t.Errorf("%+v", check)
		}
	}
}
