package aml

import (
	"encoding/binary"
	"slices"
)

// Resource is the encoding of one resource descriptor (ACPI 6.5 §6.4).
type Resource []byte

// Resources returns a resource template: the value of a _CRS.
func Resources(descriptors ...Resource) Term {
	// An end tag with checksum 0 is taken as correct.
	return Buffer(append(slices.Concat(descriptors...), 0x79, 0))
}

// IOPorts returns n I/O ports from port on, decoded with 16 bits (§6.4.2.5).
func IOPorts(port uint16, n uint8) Resource {
	r := Resource{0x47, 1}
	r = binary.LittleEndian.AppendUint16(r, port) // lowest base
	r = binary.LittleEndian.AppendUint16(r, port) // highest base
	return append(r, 1, n)
}

// FixedMemory returns size bytes of 32-bit address space from start on, read
// and written (§6.4.3.4).
func FixedMemory(start, size uint32) Resource {
	r := Resource{0x86, 9, 0, 1}
	r = binary.LittleEndian.AppendUint32(r, start)
	return binary.LittleEndian.AppendUint32(r, size)
}

// EdgeInterrupt returns a global system interrupt that the device consumes
// alone, edge-triggered and active high (§6.4.3.6).
func EdgeInterrupt(gsi uint32) Resource {
	const consumer, edge = 1 << 0, 1 << 1
	return binary.LittleEndian.AppendUint32(Resource{0x89, 6, 0, consumer | edge, 1}, gsi)
}

// Flags of an address space descriptor (§6.4.3.5): the window is the bridge's
// to hand on, and neither end of it can move.
const (
	windowFixed     = 1<<2 | 1<<3 // _MIF, _MAF
	memoryReadWrite = 1           // not cacheable, not prefetchable
	spaceMemory     = 0
	spaceBus        = 2
)

// BusRange returns the window of n PCI buses from first on (§6.4.3.5.3).
func BusRange(first, n uint16) Resource {
	r := Resource{0x88, 13, 0, spaceBus, windowFixed, 0}
	for _, v := range []uint16{0, first, first + n - 1, 0, n} { // granularity, ends, offset, length
		r = binary.LittleEndian.AppendUint16(r, v)
	}
	return r
}

// Window32 returns a window of size bytes below 4 GiB (§6.4.3.5.2).
func Window32(start, size uint32) Resource {
	r := Resource{0x87, 23, 0, spaceMemory, windowFixed, memoryReadWrite}
	for _, v := range []uint32{0, start, start + size - 1, 0, size} {
		r = binary.LittleEndian.AppendUint32(r, v)
	}
	return r
}

// Window64 returns a window of size bytes anywhere (§6.4.3.5.1).
func Window64(start, size uint64) Resource {
	r := Resource{0x8A, 43, 0, spaceMemory, windowFixed, memoryReadWrite}
	for _, v := range []uint64{0, start, start + size - 1, 0, size} {
		r = binary.LittleEndian.AppendUint64(r, v)
	}
	return r
}
