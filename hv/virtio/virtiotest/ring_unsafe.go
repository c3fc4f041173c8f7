package virtiotest

import (
	"sync/atomic"
	"unsafe"
)

// Fields both sides share are accessed through the aligned word around them,
// as the device does it: the race detector then sees what orders the two.

func word(b []byte) (p *uint32, shift uint) {
	address := unsafe.Pointer(unsafe.SliceData(b[:2]))
	odd := uintptr(address) & 3
	return (*uint32)(unsafe.Add(address, -int(odd))), uint(odd) * 8
}

func load16(b []byte) uint16 {
	p, shift := word(b)
	return uint16(atomic.LoadUint32(p) >> shift)
}

func store16(b []byte, v uint16) {
	p, shift := word(b)
	for {
		old := atomic.LoadUint32(p)
		if atomic.CompareAndSwapUint32(p, old, old&^(0xFFFF<<shift)|uint32(v)<<shift) {
			return
		}
	}
}
