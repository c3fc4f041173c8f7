package x86

import (
	"testing"

	"github.com/drzln/whiterun/hv/mem"
)

type area struct {
	name        string
	start, size uint64
}

// checkAscending reports areas that are empty, out of order or overlapping.
func checkAscending(t *testing.T, areas []area) {
	t.Helper()
	var end uint64
	for _, a := range areas {
		if a.size == 0 {
			t.Errorf("%s is empty", a.name)
		}
		if a.start < end {
			t.Errorf("%s starts at %#x, before %#x", a.name, a.start, end)
		}
		end = a.start + a.size
	}
}

// TestLayoutDoesNotOverlap is the picture in layout.go as a table.
func TestLayoutDoesNotOverlap(t *testing.T) {
	const page = 0x1000
	for _, ram := range []uint64{64 << 20, 1 << 30, mem.HoleStart, mem.HoleStart + 4096, 6 << 30, 1 << 40} {
		highRAM := uint64(0)
		if ram > mem.HoleStart {
			highRAM = ram - mem.HoleStart
		}
		areas := []area{
			{"GDT", GDTStart, gdtEntries * 8},
			{"zero page", ZeroPageStart, page},
			{"page tables", PageTablesStart, PageTablesSize},
			{"command line", CommandLineStart, CommandLineSize},
			{"setup_data", SetupDataStart, SetupDataSize},
			{"EBDA and VGA", LowRAMEnd, ACPIStart - LowRAMEnd},
			{"ACPI", ACPIStart, ACPISize},
			{"reset vector", ResetVector, ResetVectorSize},
			{"low RAM", HighRAMStart, min(ram, mem.HoleStart) - HighRAMStart},
			{"32-bit PCI window", MMIO32Start, MMIO32Size},
			{"ECAM", ECAMStart, ECAMSize},
			{"I/O APIC", IOAPICStart, page},
			{"local APIC", LocalAPICStart, page},
			{"identity map", IdentityMapStart, page},
			{"TSS", TSSStart, 3 * page},
		}
		if highRAM > 0 {
			areas = append(areas, area{"high RAM", mem.HoleEnd, highRAM})
		}
		areas = append(areas, area{"64-bit PCI window", MMIO64Start(ram), MMIO64Size})
		checkAscending(t, areas)
		if end := MMIO64Start(ram); end < mem.HoleEnd || end%(1<<30) != 0 {
			t.Errorf("64-bit PCI window at %#x", end)
		}
	}
	if TSSStart+3*page > mem.HoleEnd || MMIO32Start < mem.HoleStart {
		t.Error("devices outside the hole")
	}
	if PageTablesSize != len(identityMap()) {
		t.Errorf("page tables take %d bytes", len(identityMap()))
	}
}

func TestPortsDoNotOverlap(t *testing.T) {
	checkAscending(t, []area{
		{"i8042", I8042Port, 1},
		{"COM1", COM1Port, 8},
		{"pvpanic", PVPanicPort, 1},
		{"reset", ResetPort, 1},
		{"sleep control", SleepPort, 1},
		{"sleep status", SleepStatusPort, 1},
	})
	for _, gsi := range []int{COM1IRQ, PowerButtonIRQ} {
		if gsi >= IOAPICPins {
			t.Errorf("GSI %d has no pin", gsi)
		}
	}
	if COM1IRQ == PowerButtonIRQ {
		t.Error("one edge-triggered input for two devices")
	}
}

// TestMemoryMap checks that the kernel is told of all RAM it may use, and that
// the tables it must not overwrite are reserved.
func TestMemoryMap(t *testing.T) {
	for _, size := range []uint64{64 << 20, mem.HoleStart, 6 << 30} {
		m := bootMemory(t, size)
		var areas []area
		ram := uint64(0)
		kind := func(gpa uint64) E820Type {
			for _, e := range MemoryMap(m) {
				if gpa >= e.Start && gpa < e.Start+e.Size {
					return e.Type
				}
			}
			return 0
		}
		for _, e := range MemoryMap(m) {
			areas = append(areas, area{"e820 range", e.Start, e.Size})
			if e.Type == E820RAM {
				ram += e.Size
			}
		}
		checkAscending(t, areas)
		if want := size - (HighRAMStart - LowRAMEnd); ram != want {
			t.Errorf("%#x bytes: %#x bytes are RAM, want %#x", size, ram, want)
		}
		for gpa, want := range map[uint64]E820Type{
			ZeroPageStart: E820RAM, CommandLineStart: E820RAM, ACPIStart: E820Reserved, HighRAMStart: E820RAM,
			ECAMStart: E820Reserved, ECAMStart + ECAMSize - 1: E820Reserved, ECAMStart + ECAMSize: 0,
			MMIO32Start: 0, MMIO64Start(size): 0,
		} {
			if got := kind(gpa); got != want {
				t.Errorf("%#x bytes: %#x is of type %d, want %d", size, gpa, got, want)
			}
		}
	}
}
