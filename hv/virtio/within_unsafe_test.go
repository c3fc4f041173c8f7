package virtio_test

import "unsafe"

// within reports whether part lies wholly in whole.
func within(whole, part []byte) bool {
	start, base := uintptr(unsafe.Pointer(unsafe.SliceData(part))), uintptr(unsafe.Pointer(unsafe.SliceData(whole)))
	return start >= base && start-base+uintptr(len(part)) <= uintptr(len(whole))
}
