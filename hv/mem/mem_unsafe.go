package mem

import "unsafe"

// addressOf returns the host-virtual address of the first byte of b. The
// memory is mapped, not allocated by Go, so the number stays true.
func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
