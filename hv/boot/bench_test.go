package boot

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/drzln/whiterun/hv/mem"
)

// benchmarkKernels are the real kernels, or else a synthetic one of 32 MiB.
func benchmarkKernels(b *testing.B) []string {
	if os.Getenv(kernelsEnv) != "" {
		return realKernels(b)
	}
	text := bytes.Repeat(testText, 32<<20/len(testText))
	image := makeELF(b, testEntry, elfSegment{testEntry, uint64(len(text)), text})
	return []string{writeFile(b, "synthetic", makeBzImage(b, compress(b, "zstd", image), nil))}
}

// BenchmarkLoadCached is a start with the kernel in the cache, into memory that
// was never touched.
func BenchmarkLoadCached(b *testing.B) {
	for _, path := range benchmarkKernels(b) {
		b.Run(filepath.Base(path), func(b *testing.B) {
			// As if the kernel were in a store: no hash of the file.
			store := b.TempDir()
			linked := filepath.Join(store, "00000000000000000000000000000000-kernel")
			data, err := os.ReadFile(path)
			if err != nil {
				b.Fatal(err)
			}
			if err := os.WriteFile(linked, data, 0o600); err != nil {
				b.Fatal(err)
			}
			spec := Spec{Kernel: linked, CacheDir: b.TempDir(), StoreDir: store}
			load := func() {
				m, err := mem.New(512 << 20)
				if err != nil {
					b.Fatal(err)
				}
				defer m.Close()
				if _, err := Load(context.Background(), m, spec); err != nil {
					b.Fatal(err)
				}
			}
			load()
			for b.Loop() {
				load()
			}
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	for _, path := range benchmarkKernels(b) {
		b.Run(filepath.Base(path), func(b *testing.B) {
			k, err := openKernel(path)
			if err != nil {
				b.Fatal(err)
			}
			defer k.close()
			for b.Loop() {
				n, err := k.decompress(context.Background(), io.Discard, payloadMax)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(n))
			}
		})
	}
}
