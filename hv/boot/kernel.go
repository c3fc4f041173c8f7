package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

// kernel is a recognised kernel image.
type kernel struct {
	image
	path string
	file *os.File
}

// image is what the first bytes of a kernel file say about it.
type image struct {
	r      io.ReaderAt
	size   uint64  // length of the file in bytes
	format string  // "bzImage" or "vmlinux"
	params *params // holds the setup header
	elf    *elfImage

	// Of a bzImage only: where in the file the protected-mode code and, in it,
	// the payload lie, and how the payload is compressed.
	code        span
	payload     span
	compression string
}

// span is a range of bytes in a file or in guest-physical address space.
type span struct{ start, size uint64 }

func (s span) end() uint64 { return s.start + s.size }

// openKernel opens and recognises the image at path. Its errors name the path.
func openKernel(path string) (*kernel, error) {
	f, size, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	img, err := parseImage(f, size)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("kernel %s: %w", path, err)
	}
	return &kernel{image: img, path: path, file: f}, nil
}

func (k *kernel) close() { k.file.Close() }

var (
	errIsDirectory = errors.New("is a directory, not a file")
	errNotRegular  = errors.New("is not a regular file")
)

// openRegular opens a regular file and returns its length in bytes. Its errors
// do not repeat the path. It does not wait for the writer of a named pipe.
func openRegular(path string) (*os.File, uint64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, bare(err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = bare(err)
	case info.IsDir():
		err = errIsDirectory
	case !info.Mode().IsRegular():
		err = errNotRegular
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, uint64(info.Size()), nil
}

// bare takes the operation and the path out of a file error: the caller has
// said both.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// parseImage recognises the kernel image of size bytes behind r.
func parseImage(r io.ReaderAt, size uint64) (image, error) {
	head := make([]byte, min(size, sniffSize))
	if err := readAt(r, head, 0); err != nil {
		return image{}, fmt.Errorf("read its header: %w", err)
	}
	switch {
	case hasELFMagic(head):
		e, err := parseELF(r, size)
		if err != nil {
			return image{}, err
		}
		return image{r: r, size: size, format: "vmlinux", params: vmlinuxParams(), elf: e}, nil
	case hasSetupHeader(head):
		return parseBzImage(r, size, head)
	}
	return image{}, fmt.Errorf("%w: %s", ErrNotKernel, describe(head))
}

// commandLineMax returns the longest command line in bytes, without the NUL.
func (i *image) commandLineMax() int {
	limit := i.params.u32(offCmdLineSize)
	if limit == 0 {
		limit = defaultCommandLine
	}
	return int(min(limit, x86.CommandLineSize-1))
}

// release returns the first word of a kernel's banner: `uname -r`.
func release(banner string) string {
	word, _, _ := strings.Cut(banner, " ")
	return word
}

// load places the kernel, fills in how to enter it, and returns the
// guest-physical address behind all the memory that it uses before it knows of
// the initrd. Its errors name the path.
func (k *kernel) load(ctx context.Context, m *mem.Memory, s Spec, start *Start) (uint64, error) {
	end, err := k.loadAny(ctx, m, s, start)
	if err != nil && !errors.Is(err, context.Cause(ctx)) {
		return 0, fmt.Errorf("kernel %s: %w", k.path, err)
	}
	return end, err
}

func (k *kernel) loadAny(ctx context.Context, m *mem.Memory, s Spec, start *Start) (uint64, error) {
	if k.elf != nil {
		start.Format, start.Entry = "vmlinux", k.elf.entry
		end, _, err := k.elf.load(ctx, m)
		return end, err
	}
	// Before the hard work: does it fit? Also a kernel that is entered behind
	// its decompressor may count on the room that its header asks for.
	reserved, err := k.reserved(m)
	if err != nil {
		return 0, err
	}
	if decompressible(k.compression) {
		e, err := k.loadPayload(ctx, m, s, start)
		if err == nil {
			start.Format, start.Entry = fmt.Sprintf("bzImage (%s)", k.compression), e.entry
			return max(e.end(), reserved), nil
		}
		// A payload of a kind that the host cannot decompress is nothing wrong;
		// a damaged one is, and the guest could not decompress it either.
		if !errors.Is(err, errUnsupported) {
			return 0, err
		}
	}
	start.Format = "bzImage, decompressing itself"
	start.Entry, err = k.loadCode(ctx, m)
	return reserved, err
}

// copyChunk is how much is read between two looks at the context, in bytes; it
// fits a core's cache, so a checksum behind the read costs no memory traffic.
const copyChunk = 256 << 10

// readInto fills dst from r at offset off, calling seen, when it is not nil,
// with each piece in order.
func readInto(ctx context.Context, dst []byte, r io.ReaderAt, off uint64, seen func([]byte)) error {
	for len(dst) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		piece := dst[:min(len(dst), copyChunk)]
		if err := readAt(r, piece, off); err != nil {
			return err
		}
		if seen != nil {
			seen(piece)
		}
		dst, off = dst[len(piece):], off+uint64(len(piece))
	}
	return nil
}

// readAt fills p from r at offset off. A file that ends early has become
// shorter since it was measured.
func readAt(r io.ReaderAt, p []byte, off uint64) error {
	n, err := r.ReadAt(p, int64(off))
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return fmt.Errorf("%w: it became shorter while it was read", ErrTruncated)
	}
	return bare(err)
}
