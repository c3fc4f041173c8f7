package mem

import (
	"errors"
	"math"
	"testing"
)

func TestSliceStaysInside(t *testing.T) {
	const size = HoleStart + 64<<20
	m, err := New(size)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	for _, c := range []struct {
		name   string
		gpa, n uint64
		ok     bool
	}{
		{"first byte", 0, 1, true},
		{"nothing", 0, 0, true},
		{"all low RAM", 0, HoleStart, true},
		{"nothing at the end of low RAM", HoleStart, 0, true},
		{"into the hole", HoleStart - 1, 2, false},
		{"in the hole", HoleStart, 1, false},
		{"across the hole", HoleStart - 1, HoleEnd - HoleStart + 2, false},
		{"below 4 GiB", HoleEnd - 1, 1, false},
		{"all high RAM", HoleEnd, 64 << 20, true},
		{"past the end", HoleEnd, 64<<20 + 1, false},
		{"behind the end", HoleEnd + 64<<20, 1, false},
		{"length that wraps", 4096, math.MaxUint64 - 4095, false},
		{"address at the very end", math.MaxUint64, 1, false},
		{"everything", math.MaxUint64, math.MaxUint64, false},
	} {
		b, err := m.Slice(c.gpa, c.n)
		if c.ok != (err == nil) || c.ok && uint64(len(b)) != c.n || err != nil && !errors.Is(err, ErrOutOfRange) {
			t.Errorf("%s: %d bytes, %v", c.name, len(b), err)
		}
		if err == nil && uint64(cap(b)) != c.n {
			t.Errorf("%s: the slice can grow to %d bytes", c.name, cap(b))
		}
	}
}

func TestRegions(t *testing.T) {
	for _, c := range []struct {
		size uint64
		gpas []uint64
	}{
		{64 << 20, []uint64{0}},
		{HoleStart, []uint64{0}},
		{6 << 30, []uint64{0, HoleEnd}},
	} {
		m, err := New(c.size)
		if err != nil {
			t.Fatal(err)
		}
		var total uint64
		for i, r := range m.Regions() {
			if r.GPA != c.gpas[i] {
				t.Errorf("%d bytes: region %d at %#x", c.size, i, r.GPA)
			}
			if i == 0 && addressOf(r.Bytes)%hugePageSize != 0 {
				t.Errorf("%d bytes: not on a huge page", c.size)
			}
			total += uint64(len(r.Bytes))
		}
		if total != c.size || m.Size() != c.size {
			t.Errorf("%d bytes: regions have %d", c.size, total)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, err := m.Slice(0, 1); err == nil {
			t.Error("a closed memory hands out slices")
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, size := range []uint64{0, 1, 4095, 4097, 1 << 60} {
		if m, err := New(size); err == nil {
			t.Errorf("%d bytes: accepted", size)
			_ = m.Close()
		}
	}
}

func TestSliceDoesNotAllocate(t *testing.T) {
	m, err := New(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	n := testing.AllocsPerRun(1000, func() {
		_, _ = m.Slice(4096, 4096)
		_, _ = m.Slice(1<<40, 4096)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
