package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entry returns the one file in a cache.
func entry(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("the cache has %v, %v", files, err)
	}
	return filepath.Join(dir, files[0].Name())
}

func TestCache(t *testing.T) {
	vmlinux := testVMLinux(t)
	dir := filepath.Join(t.TempDir(), "made", "when missing")
	spec := Spec{Kernel: writeFile(t, "bzImage", makeBzImage(t, compress(t, "zstd", vmlinux), nil)), CacheDir: dir}
	load := func(wantCached bool) {
		t.Helper()
		m := newMemory(t, testRAM)
		start, err := Load(t.Context(), m, spec)
		if err != nil || start.CacheErr != nil {
			t.Fatal(err, start.CacheErr)
		}
		if start.Cached != wantCached || start.Entry != testEntry || start.Format != "bzImage (zstd)" {
			t.Errorf("got %+v", start)
		}
		checkPlaced(t, m)
	}
	load(false)
	load(true)
	path := entry(t, dir)
	whole, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(whole, vmlinux) || len(whole) != len(vmlinux)+trailerSize {
		t.Fatalf("the entry is not the vmlinux and its trailer: %d bytes, %v", len(whole), err)
	}
	// Whatever happens to an entry, it is noticed and made again.
	damage := map[string][]byte{"empty": {}, "cut": whole[:len(whole)-1], "half": whole[:len(whole)/2], "longer": append(bytes.Clone(whole), 0)}
	for _, off := range []int{0, 0x20, elfHeaderSize + 24, 300, len(vmlinux) - 1, len(vmlinux), len(vmlinux) + 8, len(whole) - 1} {
		b := bytes.Clone(whole)
		b[off] ^= 0x10
		damage[fmt.Sprintf("byte %d", off)] = b
	}
	for name, b := range damage {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		load(false)
		if again, err := os.ReadFile(entry(t, dir)); err != nil || !bytes.Equal(again, whole) {
			t.Errorf("%s: the entry was not made again", name)
		}
	}
}

func TestDamagedEntryLeavesNothing(t *testing.T) {
	image := testVMLinux(t)
	e, err := parseELF(bytes.NewReader(image), uint64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "entry", append(image, trailer{uint64(len(image)), e.headers, 12345}.encode()...))
	m := newMemory(t, testRAM)
	if got, err := (&cache{path: path}).load(t.Context(), m); got != nil || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	checkZero(t, m, testEntry, uint64(len(testText)))
	checkZero(t, m, testData, uint64(len(testRW)))
}

func TestCacheTooSmallMachine(t *testing.T) {
	dir := t.TempDir()
	kernel := writeFile(t, "bzImage", makeBzImage(t, compress(t, "zstd", testVMLinux(t)), func(p *params) { p.put32(offInitSize, 0) }))
	if _, err := Load(t.Context(), newMemory(t, testRAM), Spec{Kernel: kernel, CacheDir: dir}); err != nil {
		t.Fatal(err)
	}
	// The entry is fine; the machine is not.
	if _, err := Load(t.Context(), newMemory(t, 18<<20), Spec{Kernel: kernel, CacheDir: dir}); !errors.Is(err, ErrMemory) {
		t.Errorf("got %v", err)
	}
	entry(t, dir)
}

// TestUnusableCache has caches that cannot be written: the machine starts, and
// Start says what was wrong.
func TestUnusableCache(t *testing.T) {
	kernel := writeFile(t, "bzImage", makeBzImage(t, compress(t, "zstd", testVMLinux(t)), nil))
	load := func(dir string) Start {
		t.Helper()
		m := newMemory(t, testRAM)
		start, err := Load(t.Context(), m, Spec{Kernel: kernel, CacheDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		checkPlaced(t, m)
		return start
	}
	t.Run("a file", func(t *testing.T) {
		if start := load(kernel + "/below"); start.CacheErr == nil || start.Cached {
			t.Errorf("got %+v", start)
		}
	})
	t.Run("entry cannot be replaced", func(t *testing.T) {
		dir := t.TempDir()
		load(dir)
		path := entry(t, dir)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(path+"/occupied", 0o700); err != nil {
			t.Fatal(err)
		}
		if start := load(dir); start.CacheErr == nil || start.Cached {
			t.Errorf("got %+v", start)
		}
		entry(t, dir) // and no temporary file beside it
	})
	t.Run("read-only", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("root may write everywhere")
		}
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if start := load(dir); !errors.Is(start.CacheErr, fs.ErrPermission) {
			t.Errorf("got %+v", start)
		}
	})
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".vmlinux-1.tmp", ".vmlinux-2.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-2 * staleAfter)
	if err := os.Chtimes(filepath.Join(dir, ".vmlinux-1.tmp"), old, old); err != nil {
		t.Fatal(err)
	}
	f, err := (&cache{dir: dir}).create()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	os.Remove(f.Name())
	if got := entry(t, dir); got != filepath.Join(dir, ".vmlinux-2.tmp") {
		t.Errorf("left: %s", got)
	}
}

// TestFullDisk decompresses onto a disk that is full from the first byte.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	image := makeBzImage(t, compress(t, "zstd", testVMLinux(t)), nil)
	i, err := parseImage(bytes.NewReader(image), uint64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.decompress(t.Context(), full, payloadMax)
	var write writeError
	if !errors.As(err, &write) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, which does not tell a full disk from a bad payload", err)
	}
}

func TestCacheKey(t *testing.T) {
	store := filepath.Join(t.TempDir(), "store")
	const hashName = "0123456789abcdfghijklmnpqrsvwxyz-linux-6.12"
	add := func(path string) string {
		t.Helper()
		path = filepath.Join(store, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("kernel"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inStore := add(hashName + "/bzImage")
	link := filepath.Join(t.TempDir(), "result-kernel")
	if err := os.Symlink(filepath.Dir(inStore), link); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, store, want string }{
		{"in the store", inStore, store, hashName + "%2FbzImage"},
		{"through a link", filepath.Join(link, "bzImage"), store, hashName + "%2FbzImage"},
		{"a file as store path", add("00000000000000000000000000000000-bzImage"), store, "00000000000000000000000000000000-bzImage"},
		{"deep", add(hashName + "/" + strings.Repeat("d/", 90) + "bzImage"), store, "store-"},
		{"not a store path", add("tmp/bzImage"), store, "sha256-"},
		{"bad hash", add("e1111111111111111111111111111111-x/bzImage"), store, "sha256-"},
		{"no store", inStore, "", "sha256-"},
		{"elsewhere", writeFile(t, "bzImage", []byte("kernel")), store, "sha256-"},
	}
	keys := map[string]bool{}
	for _, tt := range tests {
		f, err := os.Open(tt.path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := cacheKey(tt.path, tt.store, f)
		f.Close()
		if err != nil || !strings.HasPrefix(got, tt.want) || strings.Contains(got, "/") || len(got) > 200 {
			t.Errorf("%s: got %s, %v", tt.name, got, err)
		}
		keys[got] = true
	}
	if len(keys) != 4 {
		t.Errorf("the same bytes have %d keys, want three in the store and one by content", len(keys))
	}
}

func TestTrailerGolden(t *testing.T) {
	got := trailer{size: 0x0102030405060708, headers: 0x11121314, segments: 0x21222324}.encode()
	want := []byte("WRVMLNX1" + "\x08\x07\x06\x05\x04\x03\x02\x01" + "\x14\x13\x12\x11" + "\x24\x23\x22\x21")
	if len(got) != trailerSize || !bytes.Equal(got[:24], want) {
		t.Errorf("got % x", got)
	}
}
