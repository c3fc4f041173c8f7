package ninep

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIovecs is the largest number of buffers one preadv takes (IOV_MAX).
const maxIovecs = 1024

// preadv reads from fd at offset into the buffers of vec, at least one, and
// returns the number of bytes read. x/sys' Preadv builds its vector anew for
// every call; this one uses the caller's.
func preadv(fd int, vec []unix.Iovec, offset int64) (int, unix.Errno) {
	// The offset comes as two longs, of which the first holds all of it on a
	// 64-bit machine.
	n, _, errno := unix.Syscall6(unix.SYS_PREADV, uintptr(fd),
		uintptr(unsafe.Pointer(&vec[0])), uintptr(len(vec)), uintptr(offset), 0, 0)
	return int(n), errno
}
