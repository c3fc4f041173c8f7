package x86

import (
	"fmt"
	"math/bits"

	"github.com/drzln/whiterun/hv/kvm"
)

// The oracle of the topology tests: how Linux makes /proc/cpuinfo of CPUID and
// the MADT, in the four ways that kernels in use do it
// (arch/x86/kernel/cpu/{amd,intel,topology*,cacheinfo}.c and smpboot.c).
//
// It is written from the kernel's rules, not from the tables under test: it
// knows no Topology.

// procCPU is what /proc/cpuinfo tells of one processor, and how many threads
// its core has (thread_siblings in sysfs).
type procCPU struct {
	PhysicalID, Siblings, CoreID, CPUCores, Threads int
}

// cpuid answers the instruction as KVM does on one vCPU.
type cpuid []kvm.CPUIDEntry

func (c cpuid) leaf(function, index uint32) kvm.CPUIDEntry {
	var fallback kvm.CPUIDEntry
	for _, e := range c {
		if e.Function != function {
			continue
		}
		if e.Index == index || e.Flags&kvm.CPUIDSignificantIndex == 0 {
			return e
		}
		if function == 0xB || function == 0x1F {
			fallback.EDX = e.EDX
		}
	}
	return fallback
}

func (c cpuid) amd() bool { return c.leaf(0, 0).EBX == 0x6874_7541 }

func (c cpuid) family() uint32 {
	eax := c.leaf(1, 0).EAX
	family := eax >> 8 & 0xF
	if family == 0xF {
		family += eax >> 20 & 0xFF
	}
	return family
}

func (c cpuid) topoExt() bool { return c.leaf(0x8000_0001, 0).ECX>>22&1 != 0 }

// order is get_count_order: the exponent of the next power of two.
func order(n uint32) int { return bits.Len32(n - 1) }

// parsed is the kernel's struct cpuinfo_x86.
type parsed struct {
	apicID                   uint32
	pkg, core, die, llc, nid int
}

// kernel is one generation of the parser, with the globals it keeps.
type kernel struct {
	name     string
	extFirst bool // the stable series' backport: leaf 0xB before 0x8000_001E
	modern   bool // 6.9 and later
	siblings int  // smp_num_siblings
	maxCores int  // x86_max_cores, or the number of cores in a package
	shifts   [2]int
	warnings []string
}

func kernels() []*kernel {
	return []*kernel{
		{name: "6.1"},
		{name: "6.1-stable", extFirst: true},
		{name: "6.12", modern: true},
	}
}

func (k *kernel) warn(format string, args ...any) {
	k.warnings = append(k.warnings, fmt.Sprintf(format, args...))
}

// boot brings up a machine whose vCPUs answer with tables and whose MADT names
// apicIDs, and returns its /proc/cpuinfo.
func (k *kernel) boot(tables []cpuid, apicIDs []uint32) []procCPU {
	k.siblings, k.maxCores = 1, 1
	cpus := make([]parsed, len(tables))
	for i, c := range tables {
		if k.modern {
			cpus[i] = k.parseModern(c, i == 0)
		} else {
			cpus[i] = k.parse61(c, i == 0)
		}
		if cpus[i].apicID != apicIDs[i] {
			k.warn("CPU%d: APIC ID %#x, firmware says %#x", i, cpus[i].apicID, apicIDs[i])
		}
	}
	if k.modern {
		cores := map[uint32]bool{}
		for _, id := range apicIDs {
			if id>>k.shifts[1] == apicIDs[0]>>k.shifts[1] {
				cores[id>>k.shifts[0]] = true
			}
		}
		k.maxCores = len(cores)
	}
	return k.siblingMaps(tables[0], cpus)
}

// siblingMaps is set_cpu_sibling_map of all processors.
func (k *kernel) siblingMaps(boot cpuid, cpus []parsed) []procCPU {
	hasSMT := k.siblings > 1
	hasMP := hasSMT || k.maxCores > 1
	proc := make([]procCPU, len(cpus))
	for i, a := range cpus {
		p := procCPU{PhysicalID: a.pkg, CoreID: a.core, Siblings: 1, Threads: 1, CPUCores: 1}
		leaders := map[int]bool{a.core: true}
		for j, b := range cpus {
			if i == j {
				continue
			}
			if hasSMT && a.core == b.core && a.pkg == b.pkg && a.die == b.die &&
				(!boot.topoExt() || a.llc == b.llc && a.nid == b.nid) {
				p.Threads++
			}
			if hasMP && a.pkg == b.pkg {
				p.Siblings++
				leaders[b.core] = true
			}
		}
		p.CPUCores = len(leaders)
		proc[i] = p
	}
	return proc
}

// extended is one reading of leaf 0xB or 0x1F.
type extended struct {
	id                     uint32
	smtShift, pkgShift     int
	smtSiblings, coreCount int
}

// parseExtended reads the levels of the best extended topology leaf.
func (k *kernel) parseExtended(c cpuid) (extended, bool) {
	highest := c.leaf(0, 0).EAX
	for _, leaf := range []uint32{0x1F, 0xB} {
		first := c.leaf(leaf, 0)
		if highest < leaf || first.EBX&0xFFFF == 0 || first.ECX>>8&0xFF != 1 {
			continue
		}
		x := extended{
			id:       first.EDX,
			smtShift: int(first.EAX & 0x1F), smtSiblings: int(first.EBX & 0xFFFF),
		}
		x.pkgShift, x.coreCount = x.smtShift, x.smtSiblings
		for i := uint32(1); ; i++ {
			e := c.leaf(leaf, i)
			if e.EDX != x.id {
				k.warn("leaf %#x.%d: APIC ID mismatch", leaf, i)
			}
			if e.ECX>>8&0xFF == 0 {
				break
			}
			x.pkgShift, x.coreCount = int(e.EAX&0x1F), int(e.EBX&0xFFFF)
		}
		return x, true
	}
	return extended{}, false
}

// parse61 is identify_cpu before 6.9.
func (k *kernel) parse61(c cpuid, boot bool) parsed {
	var p parsed
	p.apicID = c.leaf(1, 0).EBX >> 24
	maxCores := 1
	ext := func() bool {
		x, ok := k.parseExtended(c)
		if !ok {
			return false
		}
		k.siblings = max(k.siblings, x.smtSiblings)
		p.apicID = x.id
		p.core = int(x.id >> x.smtShift & (^(^uint32(0) << x.pkgShift) >> x.smtShift))
		p.pkg = int(x.id >> x.pkgShift)
		maxCores = x.coreCount / k.siblings
		return true
	}
	if !c.amd() {
		if !ext() {
			k.warn("no extended topology")
		}
		if boot {
			k.maxCores = maxCores
		}
		return p
	}

	// early_init_amd_mc and amd_detect_cmp
	ecx := c.leaf(0x8000_0008, 0).ECX
	maxCores = int(ecx&0xFF) + 1
	shift := int(ecx >> 12 & 0xF)
	if shift == 0 {
		shift = order(uint32(maxCores))
	}
	p.core, p.pkg = int(p.apicID&(1<<shift-1)), int(p.apicID>>shift)
	p.die, p.llc = p.pkg, p.pkg
	if c.topoExt() { // early_init_amd
		k.siblings = max(k.siblings, int(c.leaf(0x8000_001E, 0).EBX>>8&0xFF)+1)
	}
	// amd_get_topology
	hasExt := k.extFirst && ext()
	if hasExt {
		p.die = 0
	}
	if c.topoExt() {
		e := c.leaf(0x8000_001E, 0)
		if !hasExt {
			p.die = int(e.ECX & 0xFF)
			if c.family() >= 0x17 {
				p.core = int(e.EBX & 0xFF)
				maxCores /= k.siblings
			}
		}
		if !k.extFirst {
			ext()
		}
		p.llc = k.lastLevelCache(c, p.apicID, p.die, p.llc)
	}
	if boot {
		k.maxCores = maxCores
	}
	return p
}

// lastLevelCache is cacheinfo_amd_init_llc_id.
func (k *kernel) lastLevelCache(c cpuid, apicID uint32, die, otherwise int) int {
	switch family := c.family(); {
	case c.leaf(0x8000_0006, 0).EDX == 0:
		return otherwise
	case family < 0x17:
		return die
	}
	last := ^uint32(0)
	for c.leaf(0x8000_001D, last+1).EAX&0x1F != 0 {
		last++
	}
	if e := c.leaf(0x8000_001D, last); e.EAX != 0 {
		return int(apicID >> order(e.EAX>>14&0xFFF+1))
	}
	return otherwise
}

// parseModern is cpu_parse_topology of 6.9 and later.
func (k *kernel) parseModern(c cpuid, boot bool) parsed {
	var p parsed
	p.apicID = c.leaf(1, 0).EBX >> 24
	var x extended
	ok := false
	if !c.amd() || c.topoExt() {
		x, ok = k.parseExtended(c)
	}
	switch {
	case ok:
		p.apicID = x.id
	case c.amd():
		ecx := c.leaf(0x8000_0008, 0).ECX
		x = extended{pkgShift: int(ecx >> 12 & 0xF), smtSiblings: 1}
		if x.pkgShift == 0 {
			x.pkgShift = order(ecx&0xFF + 1)
		}
	default:
		k.warn("no extended topology")
	}
	if c.amd() && c.topoExt() {
		e := c.leaf(0x8000_001E, 0)
		if e.EAX != p.apicID {
			k.warn("leaf 0x8000001e: APIC ID mismatch")
		}
		if !ok {
			x.smtSiblings = int(e.EBX>>8&0xFF) + 1
			x.smtShift = order(uint32(x.smtSiblings))
		}
		if e.ECX>>8&7 != 0 {
			k.warn("more than one node in a package")
		}
		p.nid = int(e.ECX & 0xFF)
		p.llc = k.lastLevelCache(c, p.apicID, p.nid, int(p.apicID)>>x.pkgShift)
	}
	if boot {
		k.shifts, k.siblings = [2]int{x.smtShift, x.pkgShift}, x.smtSiblings
	} else if k.shifts != [2]int{x.smtShift, x.pkgShift} {
		k.warn("topology shifts %d %d differ from the boot processor's", x.smtShift, x.pkgShift)
	}
	p.pkg = int(p.apicID >> k.shifts[1])
	p.die = p.pkg
	p.core = int(p.apicID&(1<<k.shifts[1]-1)) >> k.shifts[0]
	return p
}
