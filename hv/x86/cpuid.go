package x86

import (
	"cmp"
	"slices"

	"github.com/drzln/whiterun/hv/kvm"
)

// CPUID leaves, by their names in the Intel SDM vol. 2 (CPUID) and the AMD APM
// vol. 3 appendix E. Those of the hypervisor are in Linux'
// Documentation/virt/kvm/x86/cpuid.rst.
const (
	leafVendor        = 0x0
	leafFeatures      = 0x1
	leafCaches        = 0x4
	leafMonitor       = 0x5
	leafExtFeatures   = 0x7
	leafPMU           = 0xA
	leafTopology      = 0xB
	leafSGX           = 0x12
	leafTrace         = 0x14
	leafTopologyV2    = 0x1F
	leafHypervisor    = 0x4000_0000
	leafTiming        = 0x4000_0010
	leafAMDMax        = 0x8000_0000
	leafAMDFeatures   = 0x8000_0001
	leafAMDSizes      = 0x8000_0008
	leafAMDSVM        = 0x8000_000A
	leafAMDIBS        = 0x8000_001B
	leafAMDCaches     = 0x8000_001D
	leafAMDTopology   = 0x8000_001E
	leafAMDEncryption = 0x8000_001F
	leafAMDPMU        = 0x8000_0022
	leafAMDTopologyV2 = 0x8000_0026
)

// Feature bits that are changed.
const (
	featDTES64      = 1 << 2 // leaf 1 ECX
	featMonitor     = 1 << 3
	featVMX         = 1 << 5
	featPDCM        = 1 << 15
	featX2APIC      = 1 << 21
	featTSCDeadline = 1 << 24
	featHypervisor  = 1 << 31

	featDebugStore = 1 << 21 // leaf 1 EDX
	featHTT        = 1 << 28

	featSGX           = 1 << 2 // leaf 7 EBX
	featTrace         = 1 << 25
	featSGXLaunchCtrl = 1 << 30 // leaf 7 ECX

	featCmpLegacy  = 1 << 1 // leaf 0x8000_0001 ECX
	featSVM        = 1 << 2
	featIBS        = 1 << 10
	featSKINIT     = 1 << 12
	featWatchdog   = 1 << 13
	featLWP        = 1 << 15
	featNodeIDMSR  = 1 << 19
	featTopoExt    = 1 << 22
	featPerfCore   = 1 << 23
	featPerfNB     = 1 << 24
	featPerfTSC    = 1 << 27
	featPerfLLC    = 1 << 28
	featMonitorExt = 1 << 29
)

// Level types of leaves 0xB and 0x1F, in ECX bits 15:8.
const (
	levelThread = 1 << 8
	levelCore   = 2 << 8
)

// apicBusKHz is the frequency of KVM's local APIC timer.
const apicBusKHz = 1_000_000

// CPUID returns what the CPUID instruction answers on vCPU cpu of a machine
// with topology t: what KVM supports (the answer of KVM_GET_SUPPORTED_CPUID),
// with the host's topology replaced by t, and without what a guest is not
// given: nested virtualisation, MONITOR/MWAIT, SGX and performance monitoring.
//
// tscKHz is the TSC's frequency, 0 when it is not known; tscDeadline says that
// KVM has the APIC timer's deadline mode (KVM_CAP_TSC_DEADLINE_TIMER), which
// KVM_GET_SUPPORTED_CPUID does not tell on all kernels.
//
// The result is sorted and depends on the arguments only: nothing of the host
// processor that happened to answer, its APIC ID above all, gets through.
// supported is not changed.
func CPUID(supported []kvm.CPUIDEntry, t Topology, cpu int, tscKHz uint32, tscDeadline bool) []kvm.CPUIDEntry {
	l := leaves(slices.Clone(supported))
	l.features(t, cpu, tscDeadline)
	l.withhold()
	l.topology(t, cpu)
	if l.isAMD() {
		l.topologyAMD(t, cpu)
	} else {
		l.shareCaches(leafCaches, t)
	}
	l.timing(tscKHz)
	slices.SortFunc(l, func(a, b kvm.CPUIDEntry) int {
		return cmp.Or(cmp.Compare(a.Function, b.Function), cmp.Compare(a.Index, b.Index))
	})
	return l
}

// leaves is a table of CPUID answers under construction.
type leaves []kvm.CPUIDEntry

// get returns the entry of a leaf, or an empty one that is part of no table:
// a change to a leaf that KVM does not have is lost.
func (l leaves) get(function, index uint32) *kvm.CPUIDEntry {
	for i := range l {
		if l[i].Function == function && l[i].Index == index {
			return &l[i]
		}
	}
	return &kvm.CPUIDEntry{Function: function, Index: index}
}

// drop removes a leaf with all its subleaves. KVM answers it with zeros.
func (l *leaves) drop(functions ...uint32) {
	*l = slices.DeleteFunc(*l, func(e kvm.CPUIDEntry) bool { return slices.Contains(functions, e.Function) })
}

// put replaces a leaf by subleaves entries; a lone entry has no subleaves.
func (l *leaves) put(function uint32, entries ...kvm.CPUIDEntry) {
	l.drop(function)
	for i, e := range entries {
		e.Function = function
		if len(entries) > 1 {
			e.Index, e.Flags = uint32(i), kvm.CPUIDSignificantIndex
		}
		*l = append(*l, e)
	}
}

// isAMD reports whether the vendor is AMD, or Hygon, which is the same.
func (l leaves) isAMD() bool {
	const auth, hygo = 0x6874_7541, 0x6F67_7948 // "Auth"enticAMD, "Hygo"nGenuine
	vendor := l.get(leafVendor, 0).EBX
	return vendor == auth || vendor == hygo
}

// features completes leaf 1, where half of the answer belongs to the vCPU and
// the machine rather than to the processor's model.
func (l leaves) features(t Topology, cpu int, tscDeadline bool) {
	e := l.get(leafFeatures, 0)
	// Bits 31:24 are the initial APIC ID, 23:16 the number of IDs in a package;
	// the brand and the line size of CLFLUSH below them are the model's.
	e.EBX = e.EBX&0xFFFF | t.APICID(cpu)<<24 | 1<<t.packageShift()<<16
	// KVM's local APIC has x2APIC on every host.
	e.ECX |= featHypervisor | featX2APIC
	e.ECX &^= featTSCDeadline
	if tscDeadline {
		e.ECX |= featTSCDeadline
	}
	e.EDX &^= featHTT
	if t.Cores*t.Threads > 1 {
		e.EDX |= featHTT
	}
}

// withhold takes away what a guest is not given, and what describes the host.
func (l *leaves) withhold() {
	e := l.get(leafFeatures, 0)
	e.ECX &^= featVMX | featMonitor | featDTES64 | featPDCM
	e.EDX &^= featDebugStore
	e = l.get(leafExtFeatures, 0)
	e.EBX &^= featSGX | featTrace
	e.ECX &^= featSGXLaunchCtrl
	e = l.get(leafAMDFeatures, 0)
	e.ECX &^= featSVM | featSKINIT | featMonitorExt | featWatchdog | featNodeIDMSR |
		featIBS | featLWP | featPerfCore | featPerfNB | featPerfTSC | featPerfLLC
	l.drop(leafMonitor, leafPMU, leafSGX, leafTrace,
		leafAMDSVM, leafAMDIBS, leafAMDPMU, leafAMDEncryption, leafAMDTopologyV2)
}

// topology writes the extended topology leaves, which Linux prefers for both
// vendors: 0xB always, 0x1F where the processor goes so far.
func (l *leaves) topology(t Topology, cpu int) {
	id := t.APICID(cpu)
	levels := []kvm.CPUIDEntry{
		{EAX: uint32(t.threadBits()), EBX: uint32(t.Threads), ECX: 0 | levelThread, EDX: id},
		{EAX: uint32(t.packageShift()), EBX: uint32(t.Cores * t.Threads), ECX: 1 | levelCore, EDX: id},
		{ECX: 2, EDX: id},
	}
	vendor := l.get(leafVendor, 0)
	vendor.EAX = max(vendor.EAX, leafTopology)
	v2 := vendor.EAX >= leafTopologyV2
	l.put(leafTopology, levels...)
	if v2 {
		l.put(leafTopologyV2, levels...)
	}
}

// topologyAMD writes the leaves that only AMD has. Kernels before 6.9 take the
// number of threads from the last one, and every kernel the NUMA node.
func (l *leaves) topologyAMD(t Topology, cpu int) {
	highest := l.get(leafAMDMax, 0)
	highest.EAX = max(highest.EAX, leafAMDTopology)

	perPackage := uint32(t.Cores * t.Threads)
	// AMD counts a package's processors where Intel counts its APIC IDs.
	e := l.get(leafFeatures, 0)
	e.EBX = e.EBX&^0xFF_0000 | perPackage<<16
	e = l.get(leafAMDFeatures, 0)
	e.ECX |= featTopoExt
	e.ECX &^= featCmpLegacy
	if perPackage > 1 {
		e.ECX |= featCmpLegacy
	}
	// Bits 15:12 are the width of core and thread in an APIC ID, 7:0 the
	// threads of a package less one.
	e = l.get(leafAMDSizes, 0)
	e.ECX = e.ECX&^0xF0FF | uint32(t.packageShift())<<12 | perPackage - 1

	l.shareCaches(leafAMDCaches, t)
	core := uint32(cpu / t.Threads % t.Cores)
	node := uint32(cpu) / perPackage // one node a package
	l.put(leafAMDTopology, kvm.CPUIDEntry{EAX: t.APICID(cpu), EBX: uint32(t.Threads-1)<<8 | core, ECX: node})
}

// shareCaches rewrites the cache leaf of either vendor: the first two levels
// belong to a core, the others to a package. Sharing is told in IDs, not in
// processors, and so are Intel's cores of a package: operating systems round
// it up to a mask for the APIC ID.
func (l leaves) shareCaches(function uint32, t Topology) {
	for i := range l {
		e := &l[i]
		if e.Function != function || e.EAX&0x1F == 0 { // no more caches
			continue
		}
		width := t.threadBits()
		if level := e.EAX >> 5 & 7; level > 2 {
			width = t.packageShift()
		}
		e.EAX = e.EAX&^(0xFFF<<14) | (1<<width-1)<<14
		if function == leafCaches {
			cores := uint32(1)<<(t.packageShift()-t.threadBits()) - 1
			e.EAX = e.EAX&^(0x3F<<26) | cores<<26
		}
	}
}

// timing adds the leaf that tells the frequencies of the TSC and of the APIC
// timer in kHz, so that a guest without kvm-clock need not measure them either.
// Intel's own leaf 0x15 stays empty: it can only tell the ratio of the two,
// and Linux computes with it in 32 bits.
func (l *leaves) timing(tscKHz uint32) {
	if tscKHz == 0 {
		return
	}
	base := l.get(leafHypervisor, 0)
	base.EAX = max(base.EAX, leafTiming)
	l.put(leafTiming, kvm.CPUIDEntry{EAX: tscKHz, EBX: apicBusKHz})
}
