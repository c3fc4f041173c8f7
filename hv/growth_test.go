package hv

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// holdings is what a process has that a machine could leave behind.
type holdings struct {
	files      int // open file descriptors
	goroutines int
	mappings   int    // of KVM and of machine memory: shared, or as large as no other
	heap       uint64 // bytes that live
	temporary  int    // entries of the folder for temporary files
}

// ownTemporary gives the test a folder for temporary files that nobody else uses.
func ownTemporary(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
}

// held takes stock when what is on its way out had a moment to go.
func held(t testing.TB) holdings {
	t.Helper()
	var h, before holdings
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		h.files, h.goroutines = count(t, "/proc/self/fd"), runtime.NumGoroutine()
		if h == before || time.Now().After(deadline) {
			break
		}
		before = h
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var kind string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &kind); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "kvm") || kind == "rw-p" && strings.Contains(line, " 00:00 0 ") && to-from == tinyMapping {
			h.mappings++
		}
	}
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	h.heap = stats.HeapAlloc
	h.temporary = count(t, os.TempDir())
	return h
}

// tinyMapping is what hv/mem maps for a tiny machine.
const tinyMapping = 64<<20 + 2<<20

func count(t testing.TB, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// sameAs fails the test when now is more than before. The heap may grow by
// spare bytes: pools and caches of the runtime and the standard library.
func (now holdings) sameAs(t testing.TB, before holdings, spare uint64) {
	t.Helper()
	if now.files != before.files || now.goroutines > before.goroutines || now.mappings != before.mappings ||
		now.temporary != before.temporary || now.heap > before.heap+spare {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		t.Errorf("held %+v before, %+v after\n%s", before, now, stacks)
	}
}
