package virtio

import (
	"sync/atomic"
	"unsafe"
)

// word16 is a little-endian 16-bit field that driver and device share. It is
// reached through the aligned 32-bit word around it, for sync/atomic has no
// 16-bit operations; that word lies in the same page, so in guest memory.
type word16 struct {
	word  *uint32
	shift uint
}

// word16At returns the field in the first two bytes of b, which lies in guest
// memory on an even address.
func word16At(b []byte) word16 {
	p := unsafe.Pointer(unsafe.SliceData(b[:2]))
	odd := uintptr(p) & 3
	return word16{word: (*uint32)(unsafe.Add(p, -int(odd))), shift: uint(odd) * 8}
}

// word32At returns the first four bytes of b, which lies in guest memory on a
// multiple of four.
func word32At(b []byte) *uint32 {
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(b[:4])))
}

func (w word16) load() uint16 { return uint16(atomic.LoadUint32(w.word) >> w.shift) }

// store leaves the other half of the word alone. A driver may see zero for a
// moment, which at worst costs a doorbell: the device looks at the ring after
// the second step.
func (w word16) store(v uint16) {
	atomic.AndUint32(w.word, ^(uint32(0xFFFF) << w.shift))
	atomic.OrUint32(w.word, uint32(v)<<w.shift)
}
