// Package leak boots real kernels again and again and looks for what stays: in
// the host after each whiterun, and in one process after each of its machines.
package leak

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

func needSoak(t *testing.T) {
	t.Helper()
	if os.Getenv("WHITERUN_SOAK") == "" {
		t.Skip("takes long: make soak runs it")
	}
}

func TestBoots(t *testing.T) { boots(t, 50) }

func TestSoakBoots(t *testing.T) {
	needSoak(t)
	boots(t, 500)
}

// boots runs whiterun n times, each of which must leave nothing behind, and
// then looks for what all of them have together.
func boots(t *testing.T, n int) {
	reference := testbed.Reference(t, testbed.Example, "vm-6_1")
	before := remains(t)
	for i := range n {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			r := guest.Boot(t, reference, "--mem", "256", "--append", "whiterun.test=poweroff", "--log-level", "debug")
			r.Ended(t, 0, "the guest powered off")
			checkCounters(t, r.Words)
		})
	}
	after := remains(t)
	kernels := 0
	for _, what := range slices.Sorted(maps.Keys(after)) {
		switch {
		case before[what]:
		case strings.HasPrefix(what, "cached "):
			kernels++
		default:
			t.Errorf("after %d boots there is %s", n, what)
		}
	}
	if kernels > 1 {
		t.Errorf("%d boots of one kernel left %d files in the cache", n, kernels)
	}
	t.Logf("%d boots: %d roots, files and processes before, %d after, %d of them the cached kernel", n, len(before), len(after), kernels)
}

// checkCounters looks for what a run cost, which the log tells at its end.
func checkCounters(t *testing.T, words string) {
	t.Helper()
	var exits, chains uint64
	var requests string
	for line := range strings.Lines(words) {
		var record struct {
			Message  string          `json:"message"`
			IO, MMIO uint64          // of the vCPU exits
			Device   string          // of a virtqueue
			Requests json.RawMessage // a number for a virtqueue, words for 9P
		}
		if json.Unmarshal([]byte(line), &record) != nil {
			continue // the words of others
		}
		switch record.Message {
		case "vCPU exits":
			exits = min(record.IO, record.MMIO)
		case "virtqueue":
			if n, err := strconv.ParseUint(string(record.Requests), 10, 64); err == nil && record.Device == "store" {
				chains = n
			}
		case "9P":
			requests = string(record.Requests)
		}
	}
	if exits < 20 || chains < 20 || !strings.Contains(requests, "walk ") || !strings.Contains(requests, "bytes read ") {
		t.Errorf("the log tells of %d exits, %d requests of the store's queue, and of 9P %q:\n%s", exits, chains, requests, words)
	}
}

// remains lists what a whiterun could leave behind, each with a word for what
// it is.
func remains(t *testing.T) map[string]bool {
	t.Helper()
	all := make(map[string]bool)
	roots, err := exec.Command("nix-store", "--gc", "--print-roots").Output()
	if err != nil {
		t.Fatalf("list the garbage collector's roots: %v", err)
	}
	for line := range strings.Lines(string(roots)) {
		if !strings.Contains(line, "/proc/") { // of what runs right now, this test above all
			all["root "+strings.TrimSpace(line)] = true
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	for word, pattern := range map[string]string{
		"temporary": filepath.Join(os.TempDir(), "*"),
		"runtime":   "/run/whiterun/*",
		"cached":    filepath.Join(cache, "whiterun", "*"),
		"hidden":    filepath.Join(cache, "whiterun", ".*"),
	} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			all[word+" "+name] = true
		}
	}
	for _, name := range processes(t) {
		all["process "+name] = true
	}
	return all
}

// processes returns the command lines of whiterun and nix.
func processes(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		program, _, _ := strings.Cut(string(line), "\x00")
		if base := filepath.Base(program); strings.HasPrefix(base, "whiterun") || strings.HasPrefix(base, "nix") {
			names = append(names, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return names
}
