package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asWhiterun in the environment makes the test binary be the command.
const asWhiterun = "WHITERUN_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asWhiterun) != "" {
		main()
	}
	os.Exit(m.Run())
}

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
}

// whiterun runs the command in dir with no more of an environment than env.
func whiterun(t *testing.T, dir string, env []string, arguments ...string) result {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	cmd := exec.CommandContext(ctx, self, arguments...)
	cmd.Dir = dir
	cmd.Env = append([]string{asWhiterun + "=1"}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// why returns the last line on standard error, out of its JSON, after a check
// that it states the exit status.
func (r result) why(t *testing.T) string {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(r.stderr, "\n"), "\n")
	var last struct {
		Status  *int   `json:"status"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("%v: the last line is %q", err, lines[len(lines)-1])
	}
	if last.Status == nil || *last.Status != r.status {
		t.Errorf("status is %d, the last line says %q", r.status, lines[len(lines)-1])
	}
	return last.Message
}

// folder makes the files that the commands below are given.
func folder(t *testing.T) string {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"kernel": "k", "initrd": "i", "other.json": "{}", "broken.json": "{",
		"vm.json": `{"version": 1, "name": "vm", "kernel": "` + dir + `/kernel", "initrds": ["` + dir + `/initrd"],
			"commandLine": "console=hvc0", "cpus": {"sockets": 1, "cores": 1, "threads": 1}, "memoryBytes": 268435456}`,
		"gone.json": `{"version": 1, "name": "vm", "kernel": "/no/such/kernel", "commandLine": "",
			"cpus": {"sockets": 1, "cores": 1, "threads": 1}, "memoryBytes": 268435456}`,
		"bad.json": `{"version": 1, "name": "vm", "kernel": "k", "commandLine": "", "cpus": {"sockets": 0, "cores": 1, "threads": 1}, "memoryBytes": 1}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("gone", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBadInput(t *testing.T) {
	dir := folder(t)
	storePath := "/nix/store/" + strings.Repeat("0", 32) + "-not-there"
	for _, c := range []struct {
		arguments string
		status    int
		why       string
	}{
		{"", 2, "there is nothing to boot"},
		{"--bogus", 2, "unknown flag --bogus"},
		{"boot --bogus .#vm", 2, "unknown flag --bogus"},
		{"boot .#vm --dry-run --bogus", 2, "unknown flag --bogus"},
		{"bogus", 2, "unexpected argument bogus"},
		{"boot", 2, `expected "<ref>"`},
		{"boot a b", 2, "unexpected argument b"},
		{"run", 2, `expected "<manifest>"`},
		{"boot .#vm --log-format xml", 2, "--log-format must be one of"},
		{"boot .#vm --log-level loud", 2, "--log-level must be one of"},

		{"--kernel kernel --mem 0", 2, `memory is "0": a machine needs at least 64 MiB`},
		{"--kernel kernel --mem -5", 2, `memory is "-5": there is no negative memory`},
		{"--kernel kernel --mem lots", 2, `memory is "lots": write a number of MiB`},
		{"--kernel kernel --mem 99999999999999", 2, "no machine has more than 64 TiB"},
		{"boot .#vm --mem", 2, "--mem: expected size value"},
		{"boot .#vm --cpus 0", 2, `CPUs are "0": a machine has 1 to 64`},
		{"boot .#vm --cpus -1", 2, `CPUs are "-1": a machine has 1 to 64`},
		{"boot .#vm --cpus 65", 2, `CPUs are "65": a machine has 1 to 64`},
		{"boot .#vm --cpus many", 2, `CPUs are "many": write a number`},
		{"boot .#vm --cpus sockets=9,cores=9", 2, "that makes 81"},
		{"boot .#vm --name a/b", 2, "the machine's name is"},
		{"boot .#vm --timeout soon", 2, `the timeout is "soon": write a duration`},
		{"boot .#vm --timeout 0", 2, `the timeout is "0"`},

		{"--kernel missing --initrd initrd", 125, "--kernel missing: there is no such file"},
		{"--kernel kernel --initrd missing", 125, "--initrd missing: there is no such file"},
		{"--kernel kernel --initrd initrd --rootfs missing", 125, "--rootfs missing: there is no such file"},
		{"--kernel kernel --rootfs dangling", 125, "--rootfs dangling: there is no such file"},
		{"--kernel kernel --rootfs empty", 125, `"empty" is not a reference: it leads to ` + dir + "/empty, which is not in /nix/store"},
		{"--rootfs kernel", 125, "which is not in /nix/store and holds no flake.nix"},

		{"boot vm", 125, `"vm" is not a reference: there is no such file, and a flake is written with its attribute, as in vm#vm`},
		{"boot ./vm", 125, "there is no such file or folder"},
		{"boot empty", 125, "which is not in /nix/store and holds no flake.nix"},
		{"boot dangling", 125, "it is a link to gone, which does not exist"},
		{"boot /etc/passwd", 125, "which is not in /nix/store"},
		{"boot .#vm", 125, "evaluate .#vm: run nix: Nix is not installed"},
		{"manifest .#vm", 125, "Nix is not installed"},
		{"boot " + storePath, 125, "build " + storePath + ": run nix-store: Nix is not installed"},

		{"run missing.json", 125, "read the manifest: stat missing.json: no such file or directory"},
		{"run empty", 125, "read the manifest: empty is not a file"},
		{"run broken.json", 125, "broken.json: the manifest is not valid JSON: line 1"},
		{"run other.json", 125, "other.json: the manifest has no version"},
		{"run gone.json", 125, "the machine needs /no/such/kernel: no such file or directory"},
		{"run bad.json", 125, "$.cpus.sockets: is 0"},
		{"run vm.json --console no/such/folder/file", 125, "open the console's file"},
		{"run vm.json --kvm /no/such/device", 125, "/no/such/device"},
	} {
		runtime := filepath.Join(t.TempDir(), "runtime")
		if err := os.Mkdir(runtime, 0o700); err != nil {
			t.Fatal(err)
		}
		got := whiterun(t, dir, []string{"XDG_RUNTIME_DIR=" + runtime}, strings.Fields(c.arguments)...)
		if why := got.why(t); got.status != c.status || !strings.Contains(why, c.why) {
			t.Errorf("whiterun %s: status %d, %q, want status %d, %q", c.arguments, got.status, why, c.status, c.why)
		}
		if got.stdout != "" {
			t.Errorf("whiterun %s: standard output is the guest's, and got %q", c.arguments, got.stdout)
		}
		if left, err := os.ReadDir(runtime); err != nil || len(left) != 0 {
			t.Errorf("whiterun %s: left %v, %v in the runtime folder", c.arguments, left, err)
		}
	}
}

func TestDryRun(t *testing.T) {
	dir := folder(t)
	first := whiterun(t, dir, nil, "--kernel", "kernel", "--initrd=initrd", "--initrd", "kernel", "--mem", "256", "--cpus", "sockets=1,cores=2,threads=2",
		"--append", "panic=1 a=b,c", "--append=quiet", "--name", "box", "--dry-run", "-q")
	if why := first.why(t); first.status != 0 || why != "nothing was booted: this was a dry run" || strings.Count(first.stderr, "\n") != 1 {
		t.Fatalf("got %+v", first)
	}
	for _, want := range []string{
		`"name": "box"`, `"kernel": "` + dir + `/kernel"`, `"` + dir + `/initrd",`, `"commandLine": "console=ttyS0 console=hvc0 panic=1 a=b,c quiet"`,
		`"cores": 2`, `"threads": 2`, `"memoryBytes": 268435456`,
	} {
		if !strings.Contains(first.stdout, want) {
			t.Errorf("no %s in %s", want, first.stdout)
		}
	}
	// The manifest that is printed is one that runs, and prints the same.
	if err := os.WriteFile(filepath.Join(dir, "again.json"), []byte(first.stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	again := whiterun(t, dir, nil, "run", "again.json", "--dry-run", "--no-reboot", "--console", "-", "--timeout", "5")
	if again.status != 0 || again.stdout != first.stdout {
		t.Errorf("got %+v, want the output %s", again, first.stdout)
	}
}

func TestVersionAndHelp(t *testing.T) {
	if got := whiterun(t, "", nil, "version"); got.status != 0 || !strings.HasPrefix(got.stdout, "whiterun ") || got.stderr != "" {
		t.Errorf("got %+v", got)
	}
	for _, arguments := range [][]string{{"--help"}, {"boot", "--help"}} {
		if got := whiterun(t, "", nil, arguments...); got.status != 0 || !strings.HasPrefix(got.stdout, "Usage: whiterun") || got.stderr != "" {
			t.Errorf("%s: got %+v", arguments, got)
		}
	}
}

func TestDoctor(t *testing.T) {
	got := whiterun(t, "", []string{"XDG_CACHE_HOME=" + t.TempDir()}, "doctor", "--json", "--kvm", "/no/such/device")
	var report struct {
		OK     bool
		Checks []struct {
			Name, Detail string
			OK           bool
		}
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		t.Fatalf("%v: %q", err, got.stdout)
	}
	if got.status != 1 || report.OK || !strings.Contains(got.why(t), "checks failed") {
		t.Errorf("got %+v", got)
	}
	found := map[string]bool{}
	for _, c := range report.Checks {
		found[c.Name] = c.OK
		if c.Detail == "" {
			t.Errorf("%s says nothing", c.Name)
		}
	}
	if ok, have := found["nix"]; ok || !have {
		t.Errorf("without PATH, nix is %v, %v", ok, have)
	}
	if !found["cache"] {
		t.Errorf("the cache is not well: %s", got.stdout)
	}
	table := whiterun(t, "", nil, "doctor", "--kvm", "/no/such/device")
	if table.status != 1 || !strings.Contains(table.stdout, "FAIL  nix") || !strings.Contains(table.stdout, "FAIL  cache") {
		t.Errorf("got %+v", table)
	}
}

// TestSignals ends the command while nix runs, here a script that takes its
// time, and, asked once more, at once.
func TestSignals(t *testing.T) {
	for name, c := range map[string]struct {
		nix     string
		signals []syscall.Signal
		status  int
		why     string
	}{
		"one":    {"exec sleep 60", []syscall.Signal{syscall.SIGTERM}, 143, "ended by SIGTERM"},
		"Ctrl-C": {"exec sleep 60", []syscall.Signal{syscall.SIGINT}, 130, "ended by SIGINT"},
		"two":    {"trap '' TERM; for i in $(seq 50); do sleep 0.1; done", []syscall.Signal{syscall.SIGTERM, syscall.SIGINT}, 130, "ended by SIGINT"},
	} {
		dir := t.TempDir()
		pidFile := filepath.Join(dir, "pid")
		script := "#!/bin/sh\nPATH=/usr/bin:/bin\necho $$ >" + pidFile + ".new; mv " + pidFile + ".new " + pidFile + "\n" + c.nix + "\n"
		if err := os.WriteFile(filepath.Join(dir, "nix"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self, "boot", ".#vm")
		cmd.Env = []string{asWhiterun + "=1", "PATH=" + dir, "XDG_RUNTIME_DIR=" + dir}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		for deadline := time.Now().Add(20 * time.Second); pid == 0 && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			text, _ := os.ReadFile(pidFile)
			pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		start := time.Now()
		for _, number := range c.signals {
			if err := cmd.Process.Signal(number); err != nil {
				t.Error(err)
			}
			time.Sleep(100 * time.Millisecond) // signals that wait together have no order
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
		got := result{status: exit.ExitCode(), stderr: stderr.String()}
		if why := got.why(t); got.status != c.status || why != c.why {
			t.Errorf("%s: status %d, %q, want %d, %q", name, got.status, why, c.status, c.why)
		}
		if len(c.signals) == 1 && syscall.Kill(-pid, 0) == nil {
			t.Errorf("%s: nix lives on", name)
		}
	}
}
