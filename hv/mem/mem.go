// Package mem owns guest memory: the host mapping behind it, where it lies in
// guest-physical address space, and the bounds check through which every other
// package reaches it.
//
// RAM starts at guest-physical address 0. What does not fit below the 32-bit
// device hole continues at 4 GiB, so a machine has one or two regions. A view
// never crosses a region, never outlives Close, and may change under the
// reader's eyes: the guest runs while the host looks.
package mem

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// HoleStart is the guest-physical address, in bytes, where low RAM ends at
	// the latest: ECAM, the 32-bit device window, the I/O APIC and the local
	// APICs live from here to HoleEnd.
	HoleStart = 0xC000_0000
	// HoleEnd is the guest-physical address, in bytes, where RAM continues.
	HoleEnd = 0x1_0000_0000

	pageSize     = 4096
	hugePageSize = 2 << 20
)

// ErrOutOfRange is returned when a guest-physical range is not wholly inside
// one region of RAM.
var ErrOutOfRange = errors.New("outside guest memory")

// Region is one contiguous piece of guest RAM.
type Region struct {
	GPA   uint64 // guest-physical address of the first byte
	Bytes []byte // the host's view of the whole region
}

// Memory is the RAM of one machine. Its methods are safe for concurrent use
// until Close.
type Memory struct {
	size    uint64
	backing []byte
	low     []byte // guest-physical 0 …
	high    []byte // guest-physical HoleEnd …, empty in small machines
}

// New maps size bytes of anonymous, zeroed memory, size being a positive
// multiple of 4096. Pages are taken from the host only when they are touched;
// huge pages are asked for, not required.
func New(size uint64) (*Memory, error) {
	if size == 0 || size%pageSize != 0 {
		return nil, fmt.Errorf("guest memory of %d bytes: not a positive multiple of %d", size, pageSize)
	}
	if size > 1<<46 {
		return nil, fmt.Errorf("guest memory of %d bytes: larger than any host", size)
	}
	backing, err := unix.Mmap(-1, 0, int(size+hugePageSize), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of guest memory: %w", size, err)
	}
	// A guest-physical huge page can be backed by a host one only when both
	// start on the same boundary.
	skip := alignUp(addressOf(backing), hugePageSize) - addressOf(backing)
	ram := backing[skip : skip+size]
	// Advice may be refused (no THP in the kernel): the machine works without.
	_ = unix.Madvise(ram, unix.MADV_HUGEPAGE)
	_ = unix.Madvise(ram, unix.MADV_DONTDUMP)
	m := &Memory{size: size, backing: backing, low: ram}
	if size > HoleStart {
		m.low, m.high = ram[:HoleStart:HoleStart], ram[HoleStart:]
	}
	return m, nil
}

// Close unmaps the memory. No view may be used afterwards.
func (m *Memory) Close() error {
	if m.backing == nil {
		return nil
	}
	err := unix.Munmap(m.backing)
	m.backing, m.low, m.high = nil, nil, nil
	if err != nil {
		return fmt.Errorf("unmap guest memory: %w", err)
	}
	return nil
}

// Size returns the amount of RAM in bytes.
func (m *Memory) Size() uint64 { return m.size }

// Regions returns the regions in ascending order of address.
func (m *Memory) Regions() []Region {
	regions := []Region{{GPA: 0, Bytes: m.low}}
	if len(m.high) > 0 {
		regions = append(regions, Region{GPA: HoleEnd, Bytes: m.high})
	}
	return regions
}

// Slice returns the n bytes at guest-physical address gpa. It returns
// ErrOutOfRange, unwrapped and without allocating, when any of them is not RAM
// or the range crosses a region. It is the one place where a number the guest
// chose becomes a host slice.
func (m *Memory) Slice(gpa, n uint64) ([]byte, error) {
	region := m.low
	if gpa >= HoleEnd {
		region, gpa = m.high, gpa-HoleEnd
	}
	if size := uint64(len(region)); gpa > size || n > size-gpa {
		return nil, ErrOutOfRange
	}
	return region[gpa : gpa+n : gpa+n], nil
}

// Write copies p to guest-physical address gpa, or returns ErrOutOfRange and
// copies nothing.
func (m *Memory) Write(gpa uint64, p []byte) error {
	view, err := m.Slice(gpa, uint64(len(p)))
	if err != nil {
		return fmt.Errorf("write %d bytes at guest-physical %#x: %w", len(p), gpa, err)
	}
	copy(view, p)
	return nil
}

func alignUp(v, to uint64) uint64 { return (v + to - 1) &^ (to - 1) }
