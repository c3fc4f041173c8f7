package kvm

import (
	"testing"
	"unsafe"
)

// An ioctl's number holds the size of its structure: _IOC(dir, 0xAE, nr, size).
func TestStructSizes(t *testing.T) {
	for _, c := range []struct {
		name    string
		request uint
		size    uintptr
	}{
		{"kvm_userspace_memory_region", ioSetUserMemoryRegion, unsafe.Sizeof(memoryRegion{})},
		{"kvm_regs", ioSetRegs, unsafe.Sizeof(Regs{})},
		{"kvm_regs", ioGetRegs, unsafe.Sizeof(Regs{})},
		{"kvm_sregs", ioSetSregs, unsafe.Sizeof(Sregs{})},
		{"kvm_sregs", ioGetSregs, unsafe.Sizeof(Sregs{})},
		{"kvm_irqfd", ioIRQFD, unsafe.Sizeof(irqFD{})},
		{"kvm_ioeventfd", ioIOEventFD, unsafe.Sizeof(ioEventFD{})},
		{"kvm_mp_state", ioGetMPState, unsafe.Sizeof(MPState(0))},
		{"kvm_cpuid2 head", ioSetCPUID2, unsafe.Offsetof(cpuidList{}.entries)},
		{"kvm_msrs head", ioSetMSRs, unsafe.Offsetof(msrList{}.entries)},
		{"kvm_irq_routing head", ioSetGSIRouting, unsafe.Offsetof(routingTable{}.entries)},
	} {
		if want := uintptr(c.request >> 16 & 0x3FFF); c.size != want {
			t.Errorf("%s: %d bytes, the ioctl's number says %d", c.name, c.size, want)
		}
	}
	if got := unsafe.Sizeof(CPUIDEntry{}); got != 40 {
		t.Errorf("kvm_cpuid_entry2: %d bytes, not 40", got)
	}
	if got := unsafe.Sizeof(MSREntry{}); got != 16 {
		t.Errorf("kvm_msr_entry: %d bytes, not 16", got)
	}
	if got := unsafe.Sizeof(routingEntry{}); got != 48 {
		t.Errorf("kvm_irq_routing_entry: %d bytes, not 48", got)
	}
	if got := unsafe.Sizeof(kvmRun{}); got != runSize {
		t.Errorf("kvm_run head: %d bytes, not %d", got, runSize)
	}
}
