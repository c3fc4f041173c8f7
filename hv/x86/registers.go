package x86

import (
	"encoding/binary"
	"fmt"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/mem"
)

// The boot state is what Linux' 64-bit boot protocol asks for
// (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode, paging
// with an identity map, flat segments under fixed selectors, interrupts off,
// and the zero page in RSI. Only the boot processor gets it: application
// processors wait for INIT and SIPI and start in real mode.
//
// The FPU needs nothing: KVM creates a vCPU with the state that FNINIT leaves
// (FCW 0x37F, MXCSR 0x1F80).

// Bits of the control registers (Intel SDM vol. 3 §2.5, §2.2.1).
const (
	cr0ProtectedMode = 1 << 0
	cr0ExtensionType = 1 << 4
	cr0Paging        = 1 << 31
	cr4PAE           = 1 << 5
	eferLongEnable   = 1 << 8
	eferLongActive   = 1 << 10
	rflagsReserved   = 1 << 1 // always set
)

// Bits of a paging-structure entry (Intel SDM vol. 3 §4.5).
const (
	pagePresent = 1 << 0
	pageWrite   = 1 << 1
	pageLarge   = 1 << 7

	pageTableSize    = 0x1000
	pageTableEntries = 512
	largePageSize    = 2 << 20
	// identityMapSize is how much of the guest-physical address space the boot
	// page tables map, in bytes: all that a kernel, its zero page, its command
	// line and its initrd can lie in.
	identityMapSize = 4 << 30
)

// The boot segments. Code is __BOOT_CS and data is __BOOT_DS; the task segment
// is never used, but VM entry on Intel demands one.
var (
	bootCode = kvm.Segment{Selector: 0x10, Limit: 0xFFFF_FFFF, Type: 0xB, Present: 1, S: 1, L: 1, G: 1}
	bootData = kvm.Segment{Selector: 0x18, Limit: 0xFFFF_FFFF, Type: 0x3, Present: 1, S: 1, DB: 1, G: 1}
	bootTask = kvm.Segment{Selector: 0x20, Limit: 0x67, Type: 0xB, Present: 1}
)

// gdtEntries counts 8-byte descriptors: two nulls, code, data, and the task
// segment, which takes two in long mode.
const gdtEntries = 6

// WriteBootTables writes the descriptor table to GDTStart and page tables that
// map the first 4 GiB to themselves, in 2 MiB pages, to PageTablesStart.
func WriteBootTables(m *mem.Memory) error {
	gdt := make([]byte, gdtEntries*8)
	for _, s := range []kvm.Segment{bootCode, bootData, bootTask} {
		binary.LittleEndian.PutUint64(gdt[s.Selector:], descriptor(s))
	}
	if err := m.Write(GDTStart, gdt); err != nil {
		return fmt.Errorf("boot descriptor table: %w", err)
	}
	if err := m.Write(PageTablesStart, identityMap()); err != nil {
		return fmt.Errorf("boot page tables: %w", err)
	}
	return nil
}

// descriptor returns s as the low 8 bytes of its descriptor (Intel SDM vol. 3
// §3.4.5). A limit with G set is in units of 4 KiB there.
func descriptor(s kvm.Segment) uint64 {
	limit := uint64(s.Limit)
	if s.G != 0 {
		limit >>= 12
	}
	return limit&0xFFFF |
		s.Base&0xFF_FFFF<<16 |
		uint64(s.Type)<<40 |
		uint64(s.S)<<44 |
		uint64(s.DPL)<<45 |
		uint64(s.Present)<<47 |
		limit>>16&0xF<<48 |
		uint64(s.AVL)<<52 |
		uint64(s.L)<<53 |
		uint64(s.DB)<<54 |
		uint64(s.G)<<55 |
		s.Base>>24&0xFF<<56
}

// identityMap returns the PML4, the PDPT and the page directories, one page
// each, as they lie at PageTablesStart.
func identityMap() []byte {
	const (
		directory   = PageTablesStart + 2*pageTableSize
		directories = identityMapSize / largePageSize / pageTableEntries
	)
	tables := make([]byte, PageTablesSize)
	put := func(offset, entry uint64) { binary.LittleEndian.PutUint64(tables[offset:], entry) }
	put(0, PageTablesStart+pageTableSize|pagePresent|pageWrite)
	for i := range uint64(directories) {
		put(pageTableSize+i*8, directory+i*pageTableSize|pagePresent|pageWrite)
	}
	for i := range uint64(identityMapSize / largePageSize) {
		put(2*pageTableSize+i*8, i*largePageSize|pagePresent|pageWrite|pageLarge)
	}
	return tables
}

// BootRegs returns the general registers of the boot processor: it starts at
// guest-physical address entry and finds boot_params at zeroPage.
func BootRegs(entry, zeroPage uint64) kvm.Regs {
	return kvm.Regs{RIP: entry, RSI: zeroPage, RFLAGS: rflagsReserved}
}

// BootSregs changes s, the special registers of a new vCPU as KVM_GET_SREGS
// returns them, into the boot processor's. What the protocol says nothing
// about, the local APIC's base above all, stays as KVM made it.
func BootSregs(s *kvm.Sregs) {
	s.CS = bootCode
	s.DS, s.ES, s.FS, s.GS, s.SS = bootData, bootData, bootData, bootData, bootData
	s.TR = bootTask
	s.GDT = kvm.DTable{Base: GDTStart, Limit: gdtEntries*8 - 1}
	s.IDT = kvm.DTable{}
	// A reset leaves the caches off in CR0 (CD and NW): the whole register is
	// replaced.
	s.CR0 = cr0ProtectedMode | cr0ExtensionType | cr0Paging
	s.CR3 = PageTablesStart
	s.CR4 = cr4PAE
	s.EFER = eferLongEnable | eferLongActive
}

// Model-specific registers (Intel SDM vol. 4) and their bits.
const (
	msrMiscEnable  = 0x1A0
	msrMTRRDefType = 0x2FF

	miscFastString      = 1 << 0
	miscBTSUnavailable  = 1 << 11
	miscPEBSUnavailable = 1 << 12

	mtrrEnable    = 1 << 11
	mtrrWriteBack = 6
)

// BootMSRs returns the model-specific registers that every vCPU, boot
// processor or not, needs other than KVM makes them. SYSENTER_*, STAR and its
// family are zero in a new vCPU already, and the TSC is better left alone:
// KVM synchronises vCPUs that are created together, a write undoes that.
func BootMSRs() []kvm.MSREntry {
	return []kvm.MSREntry{
		// Firmware enables MTRRs and makes all memory write-back. Linux before
		// 6.6 switches the PAT off with them, and maps write-combined memory
		// uncached.
		{Index: msrMTRRDefType, Data: mtrrEnable | mtrrWriteBack},
		// Without the first bit Linux drops REP_GOOD and ERMS on Intel, and
		// copies memory slowly. The other two are KVM's own values: there is no
		// performance monitoring unit.
		{Index: msrMiscEnable, Data: miscFastString | miscBTSUnavailable | miscPEBSUnavailable},
	}
}
