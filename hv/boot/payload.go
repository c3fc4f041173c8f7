package boot

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/mem"
)

const (
	// payloadMax is the longest vmlinux that is decompressed, in bytes; the
	// largest distribution kernels have less than 100 MiB.
	payloadMax = 512 << 20
	// windowMax is the largest history a decoder may keep, in bytes. Kernels
	// are built with up to 128 MiB.
	windowMax = 128 << 20
	// sizeField is the length in bytes of the decompressed size, which the
	// kernel's build appends to every payload. (gzip ends in it anyway.)
	sizeField = 4
)

// errUnsupported is returned for a payload that only the kernel itself can
// decompress.
var errUnsupported = errors.New("a payload that the host cannot decompress")

// compressions are the formats that kernels are built with, by their first
// bytes (Linux scripts/Makefile.lib).
var compressions = []struct{ magic, name string }{
	{"\x28\xb5\x2f\xfd", "zstd"},
	{"\x1f\x8b\x08", "gzip"},
	{"\xfd7zXZ\x00", "xz"},
	{"\x02\x21\x4c\x18", "lz4"}, // the legacy frame
	{"BZh", "bzip2"},
	{"\x5d\x00\x00", "lzma"},
	{"\x89LZO", "lzo"},
}

// compressionOf names the format of a payload that begins with magic.
func compressionOf(magic []byte) string {
	for _, c := range compressions {
		if bytes.HasPrefix(magic, []byte(c.magic)) {
			return c.name
		}
	}
	return "unknown"
}

// decompressible tells whether decoder knows the format.
func decompressible(compression string) bool {
	switch compression {
	case "zstd", "gzip", "xz", "lz4":
		return true
	}
	return false
}

// decoder returns a reader of what the payload r decompresses to. Close ends
// whatever it started.
func decoder(compression string, r io.Reader) (io.ReadCloser, error) {
	switch compression {
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(windowMax), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "gzip":
		return gzip.NewReader(r)
	case "xz":
		d, err := xz.NewReader(r, windowMax)
		return io.NopCloser(d), err
	case "lz4":
		return io.NopCloser(&lz4Reader{r: r}), nil
	}
	return nil, errUnsupported
}

// payloadReader returns the compressed bytes of the payload, without the
// appended size, and that size.
func (i *image) payloadReader() (r io.Reader, size uint64, err error) {
	if i.payload.size < sizeField {
		return nil, 0, fmt.Errorf("%w: its payload has %d bytes", ErrDamaged, i.payload.size)
	}
	var tail [sizeField]byte
	if err := readAt(i.r, tail[:], i.payload.end()-sizeField); err != nil {
		return nil, 0, err
	}
	compressed := i.payload.size
	if i.compression != "gzip" {
		compressed -= sizeField
	}
	return io.NewSectionReader(i.r, int64(i.payload.start), int64(compressed)),
		uint64(binary.LittleEndian.Uint32(tail[:])), nil
}

// writeError tells a full disk from a damaged payload.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// decompress writes the payload to w and returns its length in bytes, which is
// at most limit. It never writes more than the image says its payload has, and
// looks at ctx between pieces.
func (i *image) decompress(ctx context.Context, w io.Writer, limit uint64) (uint64, error) {
	compressed, size, err := i.payloadReader()
	if err != nil {
		return 0, err
	}
	if size > limit {
		return 0, fmt.Errorf("%w: its payload is said to decompress to %d MiB, and Whiterun allows %d",
			ErrDamaged, size>>20, limit>>20)
	}
	d, err := decoder(i.compression, compressed)
	if err != nil {
		return 0, i.decodeError(err)
	}
	defer d.Close()
	var written uint64
	buffer := make([]byte, copyChunk)
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, err := d.Read(buffer)
		if written += uint64(n); written > size {
			return 0, fmt.Errorf("%w: its %s payload is longer than the %d bytes it is said to have", ErrDamaged, i.compression, size)
		}
		if _, err := w.Write(buffer[:n]); err != nil {
			return 0, writeError{err}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, i.decodeError(err)
		}
	}
	if written != size {
		return 0, fmt.Errorf("%w: its %s payload has %d bytes instead of %d", ErrDamaged, i.compression, written, size)
	}
	return size, nil
}

// decodeError tells what a decoder cannot do from what nobody can.
func (i *image) decodeError(err error) error {
	for _, limit := range []error{
		xz.ErrMemlimit, xz.ErrOptions, xz.ErrUnsupportedCheck,
		zstd.ErrWindowSizeExceeded, zstd.ErrUnknownDictionary,
	} {
		if errors.Is(err, limit) {
			return fmt.Errorf("%w: %w", errUnsupported, err)
		}
	}
	return fmt.Errorf("%w: its %s payload does not decompress: %w", ErrDamaged, i.compression, err)
}

// loadPayload places the vmlinux inside a bzImage, from the cache when it is
// there. A payload is always decompressed into a file, the next cache entry or
// anonymous memory, and read from it into place: both ways are one, and
// neither leaves a copy in the host's heap.
func (k *kernel) loadPayload(ctx context.Context, m *mem.Memory, s Spec, start *Start) (*elfImage, error) {
	c, err := openCache(s, k.file)
	start.CacheErr = err
	if c != nil {
		e, err := c.load(ctx, m)
		if e != nil || err != nil {
			start.Cached = e != nil
			return e, err
		}
		e, err = k.fillCache(ctx, m, c, start)
		if e != nil || err != nil {
			return e, err
		}
	}
	fd, err := unix.MemfdCreate("vmlinux", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the decompressed kernel: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vmlinux")
	defer f.Close()
	e, _, err := k.loadThrough(ctx, m, f)
	return e, err
}

// loadThrough decompresses the payload into f and places the vmlinux that it
// is. It returns what the cache's trailer says of it.
func (k *kernel) loadThrough(ctx context.Context, m *mem.Memory, f *os.File) (*elfImage, trailer, error) {
	size, err := k.decompress(ctx, f, payloadMax)
	if err != nil {
		return nil, trailer{}, err
	}
	e, err := parseELF(f, size)
	if err != nil {
		return nil, trailer{}, fmt.Errorf("its %s payload: %w", k.compression, err)
	}
	_, sum, err := e.load(ctx, m)
	if err != nil {
		return nil, trailer{}, err
	}
	return e, trailer{size: size, headers: e.headers, segments: sum}, nil
}

// lz4Reader decompresses a legacy LZ4 frame: a magic number, then blocks of a
// 32-bit length and that many bytes, each 8 MiB when decompressed, the last one
// shorter (LZ4 Frame Format Description 1.6.3, "Legacy frame"). The frame ends
// with its source.
type lz4Reader struct {
	r     io.Reader
	begun bool
	in    []byte
	out   []byte // a whole block
	ready []byte // what of it has not been read yet
}

const (
	lz4BlockSize = 8 << 20
	lz4Magic     = 0x184C_2102
)

var errLZ4Block = errors.New("an lz4 block has an impossible length")

// Read implements io.Reader.
func (l *lz4Reader) Read(p []byte) (int, error) {
	for len(l.ready) == 0 {
		if err := l.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.ready)
	l.ready = l.ready[n:]
	return n, nil
}

// next decompresses the next block. The magic number between two frames put
// one behind the other counts as an empty block.
func (l *lz4Reader) next() error {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return err // io.EOF between blocks is the end
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == lz4Magic {
		l.begun = true
		return nil
	}
	if !l.begun || n == 0 || int(n) > lz4.CompressBlockBound(lz4BlockSize) {
		return errLZ4Block
	}
	if l.out == nil {
		l.in, l.out = make([]byte, lz4.CompressBlockBound(lz4BlockSize)), make([]byte, lz4BlockSize)
	}
	if _, err := io.ReadFull(l.r, l.in[:n]); err != nil {
		return io.ErrUnexpectedEOF
	}
	size, err := lz4.UncompressBlock(l.in[:n], l.out)
	if err != nil {
		return err
	}
	l.ready = l.out[:size]
	return nil
}
