package x86

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drzln/whiterun/hv/kvm"
)

var shapes = []Topology{
	{1, 1, 1}, {1, 2, 1}, {1, 4, 1}, {1, 2, 2}, {2, 2, 2}, {3, 1, 1}, {1, 3, 2}, {1, 1, 4},
	{1, 64, 1}, {64, 1, 1}, {5, 3, 3}, {2, 1, 3}, {1, 21, 3}, {4, 4, 4},
}

// readTable reads a recorded answer of KVM_GET_SUPPORTED_CPUID.
func readTable(t *testing.T, name string) []kvm.CPUIDEntry {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".cpuid"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries []kvm.CPUIDEntry
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		var e kvm.CPUIDEntry
		if _, err := fmt.Sscanf(s.Text(), "%x %x %d %x %x %x %x",
			&e.Function, &e.Index, &e.Flags, &e.EAX, &e.EBX, &e.ECX, &e.EDX); err != nil {
			t.Fatalf("%s: %q: %v", name, s.Text(), err)
		}
		entries = append(entries, e)
	}
	return entries
}

// hosts returns the recorded tables and what older or stranger hosts make of
// them.
func hosts(t *testing.T) map[string][]kvm.CPUIDEntry {
	amd, intel := readTable(t, "amd-milan"), readTable(t, "intel-icelake")
	edit := func(table []kvm.CPUIDEntry, change func(l *leaves)) []kvm.CPUIDEntry {
		l := leaves(slices.Clone(table))
		change(&l)
		return l
	}
	return map[string][]kvm.CPUIDEntry{
		"AMD":   amd,
		"Intel": intel,
		"AMD with leaf 0x80000026": edit(amd, func(l *leaves) {
			l.get(leafAMDMax, 0).EAX = leafAMDTopologyV2
			l.put(leafAMDTopologyV2,
				kvm.CPUIDEntry{EAX: 1, EBX: 2, ECX: 0x100, EDX: 0x2A},
				kvm.CPUIDEntry{EAX: 7, EBX: 64, ECX: 0x201, EDX: 0x2A})
		}),
		"AMD of family 0x15, without leaves 0xB and 0x8000001D": edit(amd, func(l *leaves) {
			l.get(leafFeatures, 0).EAX = 0x0060_0F20
			l.drop(leafTopology, leafAMDCaches)
			l.get(leafAMDMax, 0).EAX = 0x8000_001B
			l.get(leafAMDFeatures, 0).ECX &^= featTopoExt
		}),
		"Intel without leaves 0xB and 0x1F": edit(intel, func(l *leaves) {
			l.get(leafVendor, 0).EAX = 0xA
			l.drop(leafTopology, leafTopologyV2)
		}),
	}
}

func machine(host []kvm.CPUIDEntry, top Topology) []cpuid {
	tables := make([]cpuid, top.Count())
	for cpu := range tables {
		tables[cpu] = CPUID(host, top, cpu, 2_596_098, true)
	}
	return tables
}

// TestGuestSeesTopology is the promise: /proc/cpuinfo shows what was asked for,
// on every vendor and every generation of the kernel's parser, and the kernel
// finds nothing to complain of.
func TestGuestSeesTopology(t *testing.T) {
	for name, host := range hosts(t) {
		for _, k := range kernels() {
			for _, top := range shapes {
				k.warnings = nil
				got := k.boot(machine(host, top), top.APICIDs())
				for cpu, p := range got {
					want := procCPU{
						PhysicalID: cpu / (top.Cores * top.Threads),
						Siblings:   top.Cores * top.Threads,
						CoreID:     cpu / top.Threads % top.Cores,
						CPUCores:   top.Cores,
						Threads:    top.Threads,
					}
					if p != want {
						t.Errorf("%s, Linux %s, %v: cpu %d shows %+v, want %+v", name, k.name, top, cpu, p, want)
					}
				}
				for _, w := range k.warnings {
					t.Errorf("%s, Linux %s, %v: kernel says %s", name, k.name, top, w)
				}
			}
		}
	}
}

// TestLegacyLeavesAgree checks the leaves that only old or foreign systems
// read: they must give the fields of the APIC ID the same widths.
func TestLegacyLeavesAgree(t *testing.T) {
	for name, host := range hosts(t) {
		for _, top := range shapes {
			c := machine(host, top)[0]
			one := c.leaf(1, 0)
			nproc := one.EBX >> 16 & 0xFF
			if got, want := one.EDX>>28&1 == 1, top.Cores*top.Threads > 1; got != want {
				t.Errorf("%s, %v: HTT %v, want %v", name, top, got, want)
			}
			if c.amd() {
				if int(nproc) != top.Cores*top.Threads {
					t.Errorf("%s, %v: leaf 1 counts %d threads", name, top, nproc)
				}
				ecx := c.leaf(0x8000_0008, 0).ECX
				if got := int(ecx & 0xFF); got != top.Cores*top.Threads-1 {
					t.Errorf("%s, %v: leaf 0x80000008 counts %d+1 threads", name, top, got)
				}
				if got := int(ecx >> 12 & 0xF); got != top.packageShift() {
					t.Errorf("%s, %v: leaf 0x80000008 gives a package %d bits", name, top, got)
				}
				continue
			}
			if got := order(nproc); got != top.packageShift() {
				t.Errorf("%s, %v: leaf 1 gives a package %d bits, want %d", name, top, got, top.packageShift())
			}
			cores := order(c.leaf(4, 0).EAX>>26 + 1)
			if got, want := order(nproc)-cores, top.threadBits(); got != want {
				t.Errorf("%s, %v: leaf 4 leaves %d bits for threads, want %d", name, top, got, want)
			}
		}
	}
}

// TestCachesAreShared checks which vCPUs Linux finds on each cache: the mask of
// APIC IDs that the leaf's sharing field rounds up to.
func TestCachesAreShared(t *testing.T) {
	for _, host := range []string{"amd-milan", "intel-icelake"} {
		for _, top := range shapes {
			c := machine(readTable(t, host), top)[0]
			leaf := uint32(leafCaches)
			if c.amd() {
				leaf = leafAMDCaches
			}
			levels := 0
			for i := uint32(0); c.leaf(leaf, i).EAX&0x1F != 0; i++ {
				e := c.leaf(leaf, i)
				shift, want, sharing := order(e.EAX>>14&0xFFF+1), top.Threads, 0
				if e.EAX>>5&7 == 3 {
					want = top.Cores * top.Threads
				}
				for _, id := range top.APICIDs() {
					if id>>shift == 0 {
						sharing++
					}
				}
				if sharing != want {
					t.Errorf("%s, %v: cache %d is shared by %d, want %d", host, top, i, sharing, want)
				}
				levels++
			}
			if levels != 4 {
				t.Errorf("%s: %d caches, want 4", host, levels)
			}
		}
	}
}

func TestCPUIDIsPure(t *testing.T) {
	for name, host := range hosts(t) {
		top := Topology{1, 2, 2}
		before := slices.Clone(host)
		want := CPUID(host, top, 3, 2_000_000, true)
		if !slices.Equal(host, before) {
			t.Errorf("%s: the supported table was changed", name)
		}
		// The same host, asked on another processor and in another order.
		other := slices.Clone(host)
		slices.Reverse(other)
		for i := range other {
			switch other[i].Function {
			case leafFeatures:
				other[i].EBX = other[i].EBX&0xFFFF | 0x7E<<24 | 3<<16
			case leafTopology, leafTopologyV2:
				other[i].EDX = 0x7E
			}
		}
		if got := CPUID(other, top, 3, 2_000_000, true); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the answering processor shows:\n%x\n%x", name, got, want)
		}
		if !slices.IsSortedFunc(want, func(a, b kvm.CPUIDEntry) int {
			return int(int64(a.Function)<<8|int64(a.Index)) - int(int64(b.Function)<<8|int64(b.Index))
		}) {
			t.Errorf("%s: not sorted", name)
		}
	}
}

func TestWithheldFeatures(t *testing.T) {
	for name, host := range hosts(t) {
		c := cpuid(CPUID(host, Topology{1, 2, 1}, 0, 2_000_000, false))
		one := c.leaf(1, 0)
		for _, bit := range []int{2, 3, 5, 15, 24} {
			if one.ECX>>bit&1 != 0 {
				t.Errorf("%s: leaf 1 ECX bit %d is set", name, bit)
			}
		}
		for _, bit := range []int{21, 31} {
			if one.ECX>>bit&1 != 1 {
				t.Errorf("%s: leaf 1 ECX bit %d is clear", name, bit)
			}
		}
		if one.EDX>>21&1 != 0 {
			t.Errorf("%s: debug store is set", name)
		}
		if ecx := c.leaf(leafAMDFeatures, 0).ECX; ecx&(featSVM|featPerfCore) != 0 {
			t.Errorf("%s: leaf 0x80000001 ECX %#x", name, ecx)
		}
		for _, leaf := range []uint32{leafMonitor, leafPMU, leafSGX, leafTrace, leafAMDSVM, leafAMDEncryption, leafAMDTopologyV2} {
			if e := c.leaf(leaf, 0); e.EAX|e.EBX|e.ECX|e.EDX != 0 {
				t.Errorf("%s: leaf %#x is %x", name, leaf, e)
			}
		}
	}
}

func TestTimingLeaf(t *testing.T) {
	host := readTable(t, "amd-milan")
	c := cpuid(CPUID(host, Topology{1, 1, 1}, 0, 2_596_098, true))
	if got := c.leaf(leafHypervisor, 0).EAX; got != leafTiming {
		t.Errorf("highest hypervisor leaf %#x, want %#x", got, leafTiming)
	}
	if e := c.leaf(leafTiming, 0); e.EAX != 2_596_098 || e.EBX != 1_000_000 {
		t.Errorf("timing leaf %d, %d kHz", e.EAX, e.EBX)
	}
	if got, want := c.leaf(0x4000_0001, 0), cpuid(host).leaf(0x4000_0001, 0); got != want {
		t.Errorf("KVM's features changed from %x to %x", want, got)
	}
	c = CPUID(host, Topology{1, 1, 1}, 0, 0, true)
	if got := c.leaf(leafHypervisor, 0).EAX; got != 0x4000_0001 {
		t.Errorf("highest hypervisor leaf %#x without a frequency", got)
	}
	if c.leaf(1, 0).ECX&featTSCDeadline == 0 {
		t.Error("no TSC deadline mode")
	}
}

func TestTopologyValidate(t *testing.T) {
	for _, top := range shapes {
		if err := top.Validate(); err != nil {
			t.Errorf("%v: %v", top, err)
		}
		ids := top.APICIDs()
		if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != top.Count() || ids[0] != 0 {
			t.Errorf("%v: APIC IDs %v", top, ids)
		}
	}
	for _, top := range []Topology{
		{}, {1, 0, 1}, {-1, -1, 1}, {65, 1, 1}, {5, 13, 1}, {1 << 32, 1 << 32, 1}, {64, 64, 64},
	} {
		if err := top.Validate(); err == nil {
			t.Errorf("%v is valid", top)
		}
	}
	if got := (Topology{5, 3, 3}).APICID(44); got != 4<<4|2<<2|2 {
		t.Errorf("APIC ID %#x", got)
	}
}

// TestExtendedTopologyLeaves holds the leaves against values worked out by
// hand: the last but one of 5 × 3 × 3, whose fields are 2, 2 and 3 bits wide.
func TestExtendedTopologyLeaves(t *testing.T) {
	const id = 4<<4 | 2<<2 | 1
	top := Topology{5, 3, 3}
	intel := cpuid(CPUID(readTable(t, "intel-icelake"), top, 43, 0, true))
	amd := cpuid(CPUID(readTable(t, "amd-milan"), top, 43, 0, true))
	for _, c := range []struct {
		name            string
		table           cpuid
		function, index uint32
		want            [4]uint32 // EAX, EBX, ECX, EDX
	}{
		{"Intel", intel, 0xB, 0, [4]uint32{2, 3, 0x100, id}},
		{"Intel", intel, 0xB, 1, [4]uint32{4, 9, 0x201, id}},
		{"Intel", intel, 0xB, 2, [4]uint32{0, 0, 2, id}},
		{"Intel", intel, 0x1F, 0, [4]uint32{2, 3, 0x100, id}},
		{"Intel", intel, 0x1F, 1, [4]uint32{4, 9, 0x201, id}},
		{"Intel", intel, 4, 0, [4]uint32{3<<26 | 3<<14 | 0x121, 0x02C0_003F, 0x3F, 0}},
		{"Intel", intel, 4, 3, [4]uint32{3<<26 | 15<<14 | 0x163, 0x02C0_003F, 0x1_1FFF, 4}},
		{"AMD", amd, 0xB, 1, [4]uint32{4, 9, 0x201, id}},
		{"AMD", amd, 0x1F, 0, [4]uint32{}},
		{"AMD", amd, 0x8000_0008, 0, [4]uint32{0x3030, 0x1302_D205, 4<<12 | 8, 0}},
		{"AMD", amd, 0x8000_001D, 3, [4]uint32{15<<14 | 0x163, 0x03C0_003F, 0x7FFF, 1}},
		{"AMD", amd, 0x8000_001E, 0, [4]uint32{id, 2<<8 | 2, 4, 0}},
	} {
		e := c.table.leaf(c.function, c.index)
		if got := [4]uint32{e.EAX, e.EBX, e.ECX, e.EDX}; got != c.want {
			t.Errorf("%s leaf %#x.%d is %#x, want %#x", c.name, c.function, c.index, got, c.want)
		}
	}
	if got := intel.leaf(1, 0).EBX; got != id<<24|16<<16|0x800 {
		t.Errorf("Intel leaf 1 EBX is %#x", got)
	}
	if got := amd.leaf(1, 0).EBX; got != id<<24|9<<16|0x800 {
		t.Errorf("AMD leaf 1 EBX is %#x", got)
	}
}
