package kvm

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// VCPU is one virtual CPU. But for RequestExit, its methods belong to the
// thread that calls Run.
type VCPU struct {
	fd   int
	page []byte
	run  *kvmRun
}

// Close unmaps the kvm_run page and drops the vCPU.
func (v *VCPU) Close() error {
	v.run = nil
	if err := unix.Munmap(v.page); err != nil {
		_ = unix.Close(v.fd)
		return fmt.Errorf("unmap kvm_run: %w", err)
	}
	return unix.Close(v.fd)
}

// Run enters the guest and returns when it left, with errno 0, unix.EINTR when
// it was asked to, or another errno that ends the machine. It goes through
// Syscall and not RawSyscall: the scheduler then knows that this thread is
// away and does not try to preempt it by signals.
func (v *VCPU) Run() unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(v.fd), ioRun, 0)
	return errno
}

// RequestExit makes the current Run, if the caller interrupts it by a signal,
// and every later one return EINTR at once. It may be called from any thread.
func (v *VCPU) RequestExit() { atomic.StoreUint32(&v.run.control, immediateExit) }

// ClearExit ends what RequestExit began. Clear first, then read what was asked
// for: a request between the two is seen by the next Run.
func (v *VCPU) ClearExit() { atomic.StoreUint32(&v.run.control, 0) }

// SetCPUID sets what CPUID answers. It must come before the first SetMSRs, for
// KVM checks MSRs against CPUID.
func (v *VCPU) SetCPUID(entries []CPUIDEntry) error {
	if len(entries) > maxCPUIDEntries {
		return fmt.Errorf("KVM_SET_CPUID2: %d leaves, KVM takes %d", len(entries), maxCPUIDEntries)
	}
	list := cpuidList{n: uint32(len(entries))}
	copy(list.entries[:], entries)
	if err := ioctlPtr(v.fd, ioSetCPUID2, &list); err != nil {
		return fmt.Errorf("KVM_SET_CPUID2: %w", err)
	}
	return nil
}

type cpuidList struct {
	n, _    uint32
	entries [maxCPUIDEntries]CPUIDEntry
}

// Regs returns the general registers.
func (v *VCPU) Regs() (Regs, error) {
	var r Regs
	if err := ioctlPtr(v.fd, ioGetRegs, &r); err != nil {
		return r, fmt.Errorf("KVM_GET_REGS: %w", err)
	}
	return r, nil
}

// SetRegs sets the general registers.
func (v *VCPU) SetRegs(r Regs) error {
	if err := ioctlPtr(v.fd, ioSetRegs, &r); err != nil {
		return fmt.Errorf("KVM_SET_REGS: %w", err)
	}
	return nil
}

// Sregs returns the segment and control registers.
func (v *VCPU) Sregs() (Sregs, error) {
	var s Sregs
	if err := ioctlPtr(v.fd, ioGetSregs, &s); err != nil {
		return s, fmt.Errorf("KVM_GET_SREGS: %w", err)
	}
	return s, nil
}

// SetSregs sets the segment and control registers.
func (v *VCPU) SetSregs(s Sregs) error {
	if err := ioctlPtr(v.fd, ioSetSregs, &s); err != nil {
		return fmt.Errorf("KVM_SET_SREGS: %w", err)
	}
	return nil
}

// maxMSRs is more than any caller sets at once.
const maxMSRs = 64

type msrList struct {
	n, _    uint32
	entries [maxMSRs]MSREntry
}

// SetMSRs sets model-specific registers, in order. It names the first one that
// KVM refused.
func (v *VCPU) SetMSRs(entries []MSREntry) error {
	if len(entries) > maxMSRs {
		return fmt.Errorf("KVM_SET_MSRS: %d registers at once, at most %d", len(entries), maxMSRs)
	}
	list := msrList{n: uint32(len(entries))}
	copy(list.entries[:], entries)
	n, err := ioctlPtrN(v.fd, ioSetMSRs, &list)
	if err != nil {
		return fmt.Errorf("KVM_SET_MSRS: %w", err)
	}
	if n < len(entries) {
		return fmt.Errorf("KVM_SET_MSRS: KVM refuses MSR %#x", entries[n].Index)
	}
	return nil
}

// MPState returns what the vCPU is doing.
func (v *VCPU) MPState() (MPState, error) {
	var s MPState
	if err := ioctlPtr(v.fd, ioGetMPState, &s); err != nil {
		return s, fmt.Errorf("KVM_GET_MP_STATE: %w", err)
	}
	return s, nil
}

// TSCKHz returns the rate of the guest's time-stamp counter in kHz, 0 when
// KVM does not know.
func (v *VCPU) TSCKHz() uint32 {
	n, err := ioctl(v.fd, ioGetTSCKHz, 0)
	if err != nil || n < 0 {
		return 0
	}
	return uint32(n)
}

// ClockPaused tells the guest's kvm-clock that the vCPU was stopped, so that
// its soft-lockup watchdog does not take the pause for a hang. Errors do not
// matter: a guest without kvm-clock has no such watchdog to calm.
func (v *VCPU) ClockPaused() { _, _ = ioctl(v.fd, ioKVMClockCtrl, 0) }
