package leak

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/drzln/whiterun/hv"
	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/store/closure"
)

func TestProcess(t *testing.T) { process(t, 3) }

func TestSoakProcess(t *testing.T) {
	needSoak(t)
	process(t, 200)
}

// process boots n machines one after the other in this process, and compares
// what it holds after the first and after the last.
func process(t *testing.T, n int) {
	text, err := exec.Command(testbed.Whiterun(t), "manifest", testbed.Reference(t, testbed.Example, "vm-6_1"),
		"--mem", "256", "--append", "whiterun.test=poweroff").Output()
	if err != nil {
		t.Fatalf("make a manifest: %v", err)
	}
	m, err := manifest.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	boot(t, m, cache)
	first := held(t)
	var last holdings
	for i := range n {
		boot(t, m, cache)
		last = held(t)
		if i%10 == 9 {
			t.Logf("after %d: %v", i+1, last)
		}
	}
	t.Logf("after the first: %v", first)
	t.Logf("after %d more: %v", n, last)
	// The heap keeps a little of this and that, and the kernel of the process'
	// threads; one machine's memory is 256 MiB, its 9P buffer alone 512 KB.
	if last.files != first.files || last.goroutines > first.goroutines ||
		last.heap > first.heap+1<<20 || last.resident > first.resident+16<<20 || last.mappings > first.mappings+16 {
		t.Errorf("the process grows with its machines")
	}
}

// boot runs one machine to its power-off.
func boot(t *testing.T, m *manifest.Manifest, cache string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	index, err := closure.Build(ctx, m.Store.Dir, m.Store.Closure)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := index.Close(); err != nil {
			t.Error(err)
		}
	}()
	input, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	machine, err := hv.New(ctx, hv.Options{Manifest: m, Store: index, Input: input, Output: &console, CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	outcome, err := machine.Run(ctx)
	typed.Close() // ends the machine's Read
	if err != nil || outcome.Reason != hv.PowerOff {
		t.Errorf("%v, %v\n%s", outcome, err, &console)
	}
	if err := machine.Close(); err != nil {
		t.Error(err)
	}
	// The Read may be under way still: the file closes behind it.
	if err := input.Close(); err != nil {
		t.Error(err)
	}
}

// holdings is what this process has.
type holdings struct {
	files, goroutines, mappings int
	heap, resident              uint64 // bytes
}

func (h holdings) String() string {
	return fmt.Sprintf("%d files, %d goroutines, %d mappings, %d KiB of heap, %d KiB resident",
		h.files, h.goroutines, h.mappings, h.heap>>10, h.resident>>10)
}

// held takes stock when what is on its way out had a moment to go.
func held(t *testing.T) (h holdings) {
	t.Helper()
	for before := -1; before != runtime.NumGoroutine(); time.Sleep(50 * time.Millisecond) {
		before = runtime.NumGoroutine()
	}
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(status), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return holdings{
		files: len(files), goroutines: runtime.NumGoroutine(), mappings: strings.Count(string(maps), "\n"),
		heap: stats.HeapAlloc, resident: pages * uint64(os.Getpagesize()),
	}
}
