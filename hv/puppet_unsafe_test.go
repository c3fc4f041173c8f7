package hv

import "unsafe"

// wordAt returns the first eight bytes of b, guest memory, for sync/atomic.
func wordAt(b []byte) *uint64 { return (*uint64)(unsafe.Pointer(unsafe.SliceData(b[:8]))) }
