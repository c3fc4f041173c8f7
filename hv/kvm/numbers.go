package kvm

// ioctl request numbers (include/uapi/linux/kvm.h), x86_64.
const (
	ioGetAPIVersion       = 0xAE00
	ioCreateVM            = 0xAE01
	ioCheckExtension      = 0xAE03
	ioGetVCPUMmapSize     = 0xAE04
	ioGetSupportedCPUID   = 0xC008AE05
	ioCreateVCPU          = 0xAE41
	ioSetUserMemoryRegion = 0x4020AE46
	ioSetTSSAddr          = 0xAE47
	ioSetIdentityMapAddr  = 0x4008AE48
	ioCreateIRQChip       = 0xAE60
	ioSetGSIRouting       = 0x4008AE6A
	ioIRQFD               = 0x4020AE76
	ioIOEventFD           = 0x4040AE79
	ioRun                 = 0xAE80
	ioGetRegs             = 0x8090AE81
	ioSetRegs             = 0x4090AE82
	ioGetSregs            = 0x8138AE83
	ioSetSregs            = 0x4138AE84
	ioSetMSRs             = 0x4008AE89
	ioSetCPUID2           = 0x4008AE90
	ioGetMPState          = 0x8004AE98
	ioGetTSCKHz           = 0xAEA3
	ioKVMClockCtrl        = 0xAEAD
)

// apiVersion is the only one there has been since Linux 2.6.22.
const apiVersion = 12

// Capability is a KVM_CAP number for CheckExtension.
type Capability int

// The capabilities Whiterun asks about.
const (
	CapIRQChip          Capability = 0
	CapUserMemory       Capability = 3
	CapSetTSSAddr       Capability = 4
	CapExtCPUID         Capability = 7
	CapNRVCPUs          Capability = 9
	CapMPState          Capability = 14
	CapIRQRouting       Capability = 25
	CapIRQFD            Capability = 32
	CapIOEventFD        Capability = 36
	CapMaxVCPUs         Capability = 66
	CapTSCDeadlineTimer Capability = 72
	CapIOEventFDAnyLen  Capability = 122
	CapImmediateExit    Capability = 136
)

// Required are the capabilities without which no machine can be built, each
// with the words that complete "KVM cannot …".
var Required = []struct {
	Cap  Capability
	Lack string
}{
	{CapIRQChip, "emulate an interrupt controller (KVM_CAP_IRQCHIP)"},
	{CapUserMemory, "map guest memory from user space (KVM_CAP_USER_MEMORY)"},
	{CapSetTSSAddr, "place its task state segment (KVM_CAP_SET_TSS_ADDR)"},
	{CapExtCPUID, "set the guest's CPUID (KVM_CAP_EXT_CPUID)"},
	{CapMPState, "tell whether a vCPU is halted (KVM_CAP_MP_STATE)"},
	{CapIRQRouting, "route message-signalled interrupts (KVM_CAP_IRQ_ROUTING)"},
	{CapIRQFD, "raise interrupts from an eventfd (KVM_CAP_IRQFD)"},
	{CapIOEventFD, "turn a doorbell into an eventfd (KVM_CAP_IOEVENTFD)"},
	{CapIOEventFDAnyLen, "accept a doorbell of any width (KVM_CAP_IOEVENTFD_ANY_LENGTH, Linux 4.4)"},
	{CapImmediateExit, "be asked to leave the guest at once (KVM_CAP_IMMEDIATE_EXIT, Linux 4.13)"},
}
