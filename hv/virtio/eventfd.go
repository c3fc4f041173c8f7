package virtio

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// newEvent returns a blocking eventfd with count 0.
func newEvent() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make an eventfd: %w", err)
	}
	return fd, nil
}

// readEvent blocks the calling thread until the eventfd's count is positive
// and sets it to 0. It returns false when there is no such eventfd.
func readEvent(fd int) bool {
	var count [8]byte
	for {
		if _, err := unix.Read(fd, count[:]); err != unix.EINTR {
			return err == nil
		}
	}
}

// writeEvent adds 1 to the eventfd's count.
func writeEvent(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	for {
		if _, err := unix.Write(fd, one[:]); err != unix.EINTR {
			return
		}
	}
}
