package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl passes a plain number.
func ioctl(fd int, request uint, arg uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), arg)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// ioctlPtrN passes a pointer to a structure that the kernel reads or writes
// during the call only, and returns the ioctl's result.
func ioctlPtrN[T any](fd int, request uint, arg *T) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(arg)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func ioctlPtr[T any](fd int, request uint, arg *T) error {
	_, err := ioctlPtrN(fd, request, arg)
	return err
}

// hostAddress returns the host-virtual address of mapped memory, which Go's
// collector neither moves nor frees.
func hostAddress(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// runView lays struct kvm_run over the head of its page, which is runSize
// bytes at least (System.check).
func runView(page []byte) *kvmRun { return (*kvmRun)(unsafe.Pointer(unsafe.SliceData(page))) }
