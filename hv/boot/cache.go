package boot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/drzln/whiterun/hv/mem"
)

// A cache entry is CacheDir/vmlinux-KEY: the decompressed vmlinux, byte for
// byte, and a trailer behind it, all numbers little-endian:
//
//	0   8  trailerMagic
//	8   8  length of the vmlinux in bytes
//	16  4  CRC-32C of its ELF header and program headers
//	20  4  CRC-32C of its segments' bytes, in ascending order of address
//	24  4  CRC-32C of the 24 bytes before
//
// The first checksum is compared before anything is placed, the second while
// the segments pass through the cache on their way into guest memory: checking
// costs no second read. Bytes that are in neither are never used.
const (
	trailerMagic = "WRVMLNX1"
	trailerSize  = 28
	tempPattern  = ".vmlinux-*.tmp"
	staleAfter   = time.Hour
)

type trailer struct {
	size     uint64
	headers  uint32
	segments uint32
}

func (t trailer) encode() []byte {
	b := append(make([]byte, 0, trailerSize), trailerMagic...)
	b = binary.LittleEndian.AppendUint64(b, t.size)
	b = binary.LittleEndian.AppendUint32(b, t.headers)
	b = binary.LittleEndian.AppendUint32(b, t.segments)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readTrailer returns the trailer of the cache entry of size bytes behind r,
// and whether it is whole.
func readTrailer(r io.ReaderAt, size uint64) (trailer, bool) {
	if size < trailerSize {
		return trailer{}, false
	}
	b := make([]byte, trailerSize)
	if err := readAt(r, b, size-trailerSize); err != nil {
		return trailer{}, false
	}
	t := trailer{
		size:     binary.LittleEndian.Uint64(b[8:]),
		headers:  binary.LittleEndian.Uint32(b[16:]),
		segments: binary.LittleEndian.Uint32(b[20:]),
	}
	return t, t.size == size-trailerSize && string(b) == string(t.encode())
}

// parseEntry returns the vmlinux in the cache entry of size bytes behind r and
// the checksum that its segments must have, or false when it is damaged.
func parseEntry(r io.ReaderAt, size uint64) (*elfImage, uint32, bool) {
	t, ok := readTrailer(r, size)
	if !ok {
		return nil, 0, false
	}
	e, err := parseELF(r, t.size)
	if err != nil || e.headers != t.headers {
		return nil, 0, false
	}
	return e, t.segments, true
}

// cache is the place of one kernel in the cache.
type cache struct {
	dir  string
	path string
}

// openCache returns where the cache keeps what the bzImage file decompresses
// to, or nil when there is no cache or, with an error, none for this file.
func openCache(s Spec, file *os.File) (*cache, error) {
	if s.CacheDir == "" {
		return nil, nil
	}
	key, err := cacheKey(s.Kernel, s.StoreDir, file)
	if err != nil {
		return nil, err
	}
	return &cache{dir: s.CacheDir, path: filepath.Join(s.CacheDir, "vmlinux-"+key)}, nil
}

// cacheKey returns a file name for the contents of the kernel at path, open as
// file: where it is in the store when that is where it is, else its SHA-256.
func cacheKey(path, storeDir string, file *os.File) (string, error) {
	if key, ok := storeKey(path, storeDir); ok {
		return key, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(file, 0, 1<<62)); err != nil {
		return "", fmt.Errorf("hash the kernel for the cache: %w", err)
	}
	return "sha256-" + hex.EncodeToString(h.Sum(nil)), nil
}

// storeKey returns the store path's hash-name and the path within it as one
// file name, or false when path does not lead into a store path.
func storeKey(path, storeDir string) (string, bool) {
	if storeDir == "" {
		return "", false
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", false
	}
	if real, err = filepath.Abs(real); err != nil {
		return "", false
	}
	rel, err := filepath.Rel(storeDir, real)
	if err != nil || !isStorePath(rel) {
		return "", false
	}
	key := url.PathEscape(rel) // "/" becomes "%2F": two paths never share a name
	if len(key) > 200 {
		sum := sha256.Sum256([]byte(rel))
		key = "store-" + hex.EncodeToString(sum[:])
	}
	return key, true
}

// isStorePath tells whether rel, relative to the store, begins with 32 digits
// of Nix' base 32 and a dash: other files there, temporary ones, do change.
func isStorePath(rel string) bool {
	const hashLength = 32
	if len(rel) <= hashLength+1 || rel[hashLength] != '-' {
		return false
	}
	return strings.Trim(rel[:hashLength], "0123456789abcdfghijklmnpqrsvwxyz") == ""
}

// load places the cached kernel. It returns nil when the entry is missing or
// damaged; guest memory is then as zero as before.
func (c *cache) load(ctx context.Context, m *mem.Memory) (*elfImage, error) {
	f, size, err := openRegular(c.path)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	e, want, ok := parseEntry(f, size)
	if !ok {
		return nil, nil
	}
	_, sum, err := e.load(ctx, m)
	switch {
	case errors.Is(err, ErrMemory) || ctx.Err() != nil:
		return nil, err
	case err != nil:
		return nil, nil
	case sum != want:
		e.unload(m)
		return nil, nil
	}
	return e, nil
}

// fillCache decompresses the payload into the cache entry and places it. It
// returns nil, with the reason in start, when the folder takes no file of that
// size. Others see the whole entry or none.
func (k *kernel) fillCache(ctx context.Context, m *mem.Memory, c *cache, start *Start) (*elfImage, error) {
	f, err := c.create()
	if err != nil {
		start.CacheErr = err
		return nil, nil
	}
	defer f.Close()
	e, t, err := k.loadThrough(ctx, m, f)
	if err == nil {
		if start.CacheErr = c.publish(f, t); start.CacheErr == nil {
			return e, nil
		}
	}
	os.Remove(f.Name())
	var full writeError
	if errors.As(err, &full) {
		start.CacheErr = fmt.Errorf("kernel cache: %w", full.error)
		return nil, nil
	}
	return e, err
}

// create returns a temporary file beside the entry.
func (c *cache) create() (*os.File, error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	c.sweep()
	f, err := os.CreateTemp(c.dir, tempPattern)
	if err != nil {
		return nil, fmt.Errorf("kernel cache: %w", err)
	}
	return f, nil
}

// sweep removes what killed processes have left behind: no decompression takes
// as long as staleAfter.
func (c *cache) sweep() {
	left, _ := filepath.Glob(filepath.Join(c.dir, tempPattern))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > staleAfter {
			os.Remove(path)
		}
	}
}

// publish completes f and gives it the entry's name.
func (c *cache) publish(f *os.File, t trailer) error {
	if _, err := f.Write(t.encode()); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	if err := os.Rename(f.Name(), c.path); err != nil {
		return fmt.Errorf("kernel cache: %w", err)
	}
	return nil
}
