package boot

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drzln/whiterun/internal/testbed"
)

// kernelsEnv lists kernel images, separated as in PATH, for the tests that want
// real ones. Without it they take the testbed's.
const kernelsEnv = "WHITERUN_TEST_KERNELS"

func realKernels(t testing.TB) []string {
	t.Helper()
	if kernels := filepath.SplitList(os.Getenv(kernelsEnv)); len(kernels) > 0 {
		return kernels
	}
	return testbed.Kernels(t)
}

func TestRealKernels(t *testing.T) {
	for _, path := range realKernels(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			info, err := Inspect(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", info)
			spec := Spec{Kernel: path, CacheDir: t.TempDir()}
			load := func() Start {
				t.Helper()
				m := newMemory(t, 512<<20)
				begin := time.Now()
				start, err := Load(t.Context(), m, spec)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%+v after %s", start, time.Since(begin))
				return start
			}
			first, second := load(), load()
			if info.Format == "bzImage" && decompressible(info.Payload) {
				if first.Cached || !second.Cached || first.Entry != second.Entry {
					t.Errorf("first %+v, then %+v", first, second)
				}
				// What was cached is a plain vmlinux behind its trailer.
				spec = Spec{Kernel: entry(t, spec.CacheDir)}
				if plain := load(); plain.Entry != first.Entry || plain.KernelVersion != info.Version {
					t.Errorf("as vmlinux: %+v", plain)
				}
			}
		})
	}
}
