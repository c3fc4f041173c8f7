// Package x86 owns what an x86_64 machine looks like before its first
// instruction: the guest-physical layout, CPUID, registers and MSRs, and the
// ACPI tables that describe it all to the kernel.
package x86

import "github.com/drzln/whiterun/hv/mem"

// The guest-physical layout, in ascending order. Lengths and addresses are in
// bytes.
//
//	0x0000_0000  ┌──────────────────────────────┐
//	             │ real-mode leftovers, unused  │
//	0x0000_0500  │ GDT                          │ GDTStart
//	0x0000_7000  │ zero page (boot_params)      │ ZeroPageStart
//	0x0000_9000  │ page tables, identity map    │ PageTablesStart
//	0x0002_0000  │ command line                 │ CommandLineStart
//	0x0003_0000  │ setup_data                   │ SetupDataStart
//	0x0009_FC00  ├──────────────────────────────┤ LowRAMEnd (EBDA, reserved)
//	0x000A_0000  │ VGA hole, never RAM in e820  │
//	0x000E_0000  │ ACPI tables, RSDP first      │ ACPIStart
//	0x000F_FFF0  │ code for a reboot by BIOS    │ ResetVector
//	0x0010_0000  ├──────────────────────────────┤ HighRAMStart
//	             │ kernel, at its own address   │
//	             │ …                            │
//	             │ initrd, as high as it fits   │ below InitrdMax
//	0xC000_0000  ├──────────────────────────────┤ mem.HoleStart
//	             │ 32-bit PCI window            │ MMIO32Start
//	0xE000_0000  │ ECAM, one bus                │ ECAMStart
//	0xE010_0000  │ nothing                      │
//	0xFEC0_0000  │ I/O APIC                     │ IOAPICStart
//	0xFEE0_0000  │ local APICs                  │ LocalAPICStart
//	0xFFFB_C000  │ KVM's identity map and TSS   │ IdentityMapStart, TSSStart
//	0x1_0000_0000├──────────────────────────────┤ mem.HoleEnd
//	             │ RAM that did not fit below   │
//	end of RAM   ├──────────────────────────────┤
//	             │ 64-bit PCI window            │ MMIO64Start(…)
//	             └──────────────────────────────┘
const (
	// GDTStart holds the segment descriptors that the boot state refers to.
	GDTStart = 0x500
	// ZeroPageStart holds struct boot_params, one page (Linux
	// Documentation/arch/x86/zero-page.rst).
	ZeroPageStart = 0x7000
	// PageTablesStart holds the identity map of the first 4 GiB (1 PML4, 1
	// PDPT, 4 page directories) in which the kernel is entered.
	PageTablesStart = 0x9000
	PageTablesSize  = 6 * 0x1000
	// CommandLineStart holds the NUL-terminated command line.
	CommandLineStart = 0x2_0000
	CommandLineSize  = 0x1_0000
	// SetupDataStart holds the setup_data list (the random seed).
	SetupDataStart = 0x3_0000
	SetupDataSize  = 0x1000
	// LowRAMEnd is where an EBDA would start: kernels do not use RAM from here
	// to HighRAMStart.
	LowRAMEnd = 0x9_FC00
	// ACPIStart holds the RSDP, where a BIOS kernel would scan for it too, and
	// the tables behind it.
	ACPIStart = 0xE_0000
	ACPISize  = ResetVector - ACPIStart
	// ResetVector is where real mode finds the code that resets a PC: F000:FFF0.
	ResetVector     = 0xF_FFF0
	ResetVectorSize = 16
	// HighRAMStart is where kernels load.
	HighRAMStart = 0x10_0000
	// MMIO32Start is the window for 32-bit PCI BARs.
	MMIO32Start = mem.HoleStart
	MMIO32Size  = ECAMStart - MMIO32Start
	// ECAMStart is PCI Express configuration space, 1 MiB a bus. There is bus 0
	// only: Linux looks for peer bridges on every bus that MCFG names, and each
	// of the 32 reads a bus costs an exit.
	ECAMStart = 0xE000_0000
	ECAMSize  = PCIBuses << 20
	PCIBuses  = 1
	// IOAPICStart and LocalAPICStart are where every PC has them.
	IOAPICStart    = 0xFEC0_0000
	LocalAPICStart = 0xFEE0_0000
	// IdentityMapStart (one page) and TSSStart (three) are wanted by KVM on
	// Intel hosts for real mode.
	IdentityMapStart = 0xFFFB_C000
	TSSStart         = 0xFFFB_D000

	// MMIO64Size is the length of the window for 64-bit PCI BARs.
	MMIO64Size = 64 << 30
)

// MMIO64Start returns the guest-physical address of the 64-bit PCI window for
// a machine with ramSize bytes of memory: behind all RAM, on a 1 GiB boundary,
// never below 4 GiB.
func MMIO64Start(ramSize uint64) uint64 {
	end := uint64(mem.HoleEnd)
	if ramSize > mem.HoleStart {
		end += ramSize - mem.HoleStart
	}
	return (end + 1<<30 - 1) &^ (1<<30 - 1)
}

// I/O ports of the machine. Everything else floats: reads are all ones and
// writes vanish.
const (
	COM1Port = 0x3F8 // 8 ports, a 16550A
	COM1IRQ  = 4     // GSI, edge-triggered
	// PowerButtonIRQ is the GSI, edge-triggered, that presses the power button.
	PowerButtonIRQ = 5
	// I8042Port is the keyboard controller's command port, for its reset pulse.
	I8042Port = 0x64
	// PVPanicPort tells of a guest panic (QEMU docs/specs/pvpanic).
	PVPanicPort = 0x505
	// ResetPort and SleepPort are the FADT's reset and sleep-control registers
	// (ACPI 6.5 §4.8.3.6, §4.8.3.7); SleepStatusPort follows the latter.
	ResetPort       = 0x600
	ResetValue      = 0x42
	SleepPort       = 0x601
	SleepStatusPort = 0x602
	// SleepTypeS5 is the SLP_TYP value that _S5_ announces.
	SleepTypeS5 = 5
)

// IOAPICID is the I/O APIC's APIC ID; IOAPICPins is its number of inputs.
const (
	IOAPICID   = 0xFF
	IOAPICPins = 24
)
