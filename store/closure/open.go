package closure

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/pkg/ninep"
)

// resolve is how a path is followed below the store folder: no symbolic link
// is, wherever it stands, and nothing leads out.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Open opens regular file n for reading and returns a host file descriptor
// that the caller closes. A file that is not what was indexed is an error that
// wraps ErrChanged.
func (x *Index) Open(n ninep.Node) (fd int, err error) {
	entry := &x.nodes[n]
	if entry.kind != ninep.Regular {
		return -1, fmt.Errorf("open %s: no regular file", x.Path(n))
	}
	// O_NONBLOCK, so that a named pipe in the file's place is an error and
	// not a wait.
	fd, err = x.openBeneath(x.store, x.relative(n), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", x.Path(n), err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("stat %s: %w", x.Path(n), err)
	}
	switch {
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errors.New("no longer a regular file")
	case uint64(stat.Size) != entry.size:
		err = fmt.Errorf("%d bytes, was %d", stat.Size, entry.size)
	default:
		return fd, nil
	}
	unix.Close(fd)
	return -1, fmt.Errorf("%s %w: %w", x.Path(n), ErrChanged, err)
}

// openBeneath opens path, relative to folder dir and never left by it, with
// O_CLOEXEC and O_NOFOLLOW added to flags.
func (x *Index) openBeneath(dir int, path string, flags int) (fd int, err error) {
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	if len(path) < unix.PathMax && !x.noResolve.Load() {
		fd, err = retry(func() (int, error) {
			return unix.Openat2(dir, path, &unix.OpenHow{Flags: uint64(flags), Resolve: resolve})
		})
		if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return fd, err
		}
		// Before Linux 5.6, or behind a seccomp filter that is older than
		// that. EPERM is no answer to opening a file for reading.
		x.noResolve.Store(true)
	}
	return openStepwise(dir, path, flags)
}

// openStepwise opens path one folder at a time, which is what openat2 does in
// one call, and does for paths of any length.
func openStepwise(dir int, path string, flags int) (fd int, err error) {
	at := dir
	for {
		name, rest, more := strings.Cut(path, "/")
		how := flags
		if more {
			how = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err = retry(func() (int, error) { return unix.Openat(at, name, how, 0) })
		if at != dir {
			unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, path = fd, rest
	}
}

// retry calls open again for as long as a signal interrupts it. openat2 gives
// EAGAIN when a rename elsewhere in the file system kept it from being sure
// that the path leads where it should.
func retry(open func() (int, error)) (fd int, err error) {
	for range 100 {
		if fd, err = open(); err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
	return -1, err
}
