package x86

import "github.com/drzln/whiterun/hv/mem"

// E820Type is the kind of an e820 range (ACPI 6.5 §15).
type E820Type uint32

// The kinds Whiterun uses.
const (
	E820RAM      E820Type = 1
	E820Reserved E820Type = 2
)

// E820Entry is one range of the memory map that the kernel is started with.
// Its layout is struct boot_e820_entry's, without padding.
type E820Entry struct {
	Start uint64 // guest-physical address
	Size  uint64 // length in bytes
	Type  E820Type
}

// MemoryMap returns the e820 map of a machine with memory m, ascending. ECAM is
// reserved in it: the kernel uses memory-mapped configuration space only where
// the firmware's map agrees.
func MemoryMap(m *mem.Memory) []E820Entry {
	var entries []E820Entry
	for _, r := range m.Regions() {
		size := uint64(len(r.Bytes))
		if r.GPA > 0 {
			entries = append(entries, E820Entry{ECAMStart, ECAMSize, E820Reserved}, E820Entry{r.GPA, size, E820RAM})
			return entries
		}
		entries = append(entries,
			E820Entry{0, LowRAMEnd, E820RAM},
			E820Entry{LowRAMEnd, HighRAMStart - LowRAMEnd, E820Reserved},
			E820Entry{HighRAMStart, size - HighRAMStart, E820RAM})
	}
	return append(entries, E820Entry{ECAMStart, ECAMSize, E820Reserved})
}
