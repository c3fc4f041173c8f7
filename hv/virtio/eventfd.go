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
// and sets it to 0, count being where the kernel stores what it was. It
// returns false when there is no such eventfd.
func readEvent(fd int, count *[8]byte) bool {
	for {
		if _, err := unix.Read(fd, count[:]); err != unix.EINTR {
			return err == nil
		}
	}
}

var eventOne = binary.NativeEndian.AppendUint64(nil, 1)

// writeEvent adds 1 to the eventfd's count.
func writeEvent(fd int) {
	for {
		if _, err := unix.Write(fd, eventOne); err != unix.EINTR {
			return
		}
	}
}
