package hv

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

// ErrNoHardware is returned for a KVM that runs small programs but no stock
// kernel.
var ErrNoHardware = errors.New("this host's KVM cannot run stock kernels")

// A KVM without hardware virtualisation interprets the guest's kernel code with
// an emulator that knows a part of the instruction set. What every x86_64
// kernel runs first of the rest is CMPXCHG16B, so a guest of two instructions
// tells such a KVM from a real one.
var probeCode = []byte{
	0x48, 0x0F, 0xC7, 0x0F, // cmpxchg16b [rdi]
	0xE6, probePort, // out probePort, al
}

const (
	probePort    = 0x80
	probeCodeGPA = 0x10_0000
	probeDataGPA = 0x10_1000
	probeMemory  = 2 << 20
	probeTimeout = 5 * time.Second
)

// hasHardware tells whether the processor says that it has virtualisation. A
// guest hypervisor under a host that lets it nest has the flag as well.
func hasHardware() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(info) {
		if name, flags, ok := bytes.Cut(line, []byte(":")); ok && bytes.HasPrefix(name, []byte("flags")) {
			for flag := range bytes.FieldsSeq(flags) {
				if string(flag) == "vmx" || string(flag) == "svm" {
					return true
				}
			}
			return false
		}
	}
	return false
}

// probe returns ErrNoHardware, with words for a user, when KVM stops at what
// every stock kernel does, and nil when it can do that.
func probe(system *kvm.System) error {
	if hasHardware() {
		return nil
	}
	exit, err := runProbe(system)
	switch {
	case err != nil:
		return fmt.Errorf("%w: trying it failed: %w", ErrNoHardware, err)
	case exit == kvm.ExitIO:
		return nil
	}
	return fmt.Errorf("%w: the processor offers no hardware virtualisation (no vmx or svm in /proc/cpuinfo), and the software that stands in for it ended a trial guest with %q: use a machine with VT-x or AMD-V, or one whose host allows nested virtualisation", ErrNoHardware, exit)
}

// runProbe runs probeCode in a machine of its own and returns why the guest was
// left.
func runProbe(system *kvm.System) (exit kvm.ExitReason, err error) {
	ram, err := mem.New(probeMemory)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ram.Close()) }()
	vm, err := system.CreateVM()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vm.Close()) }()
	if err := mapMemory(vm, ram); err != nil {
		return 0, err
	}
	cpu, err := vm.CreateVCPU(0)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cpu.Close()) }()
	if err := x86.WriteBootTables(ram); err != nil {
		return 0, err
	}
	if err := ram.Write(probeCodeGPA, probeCode); err != nil {
		return 0, err
	}
	supported, err := system.SupportedCPUID()
	if err != nil {
		return 0, err
	}
	if err := cpu.SetCPUID(supported); err != nil {
		return 0, err
	}
	regs := x86.BootRegs(probeCodeGPA, 0)
	regs.RDI = probeDataGPA
	if err := enter(cpu, regs); err != nil {
		return 0, err
	}
	return exitOf(cpu)
}

// exitOf runs a vCPU, on a thread that can be kicked, until its first exit.
func exitOf(cpu *kvm.VCPU) (kvm.ExitReason, error) {
	var exit kvm.ExitReason
	var failure error
	ended := make(chan struct{})
	c := &vcpu{kvm: cpu}
	var set *cpuSet
	set = newCPUSet([]*vcpu{c}, func(*vcpu) {
		exit = cpu.Exit()
		close(ended)
		set.end()
	}, func(_ *vcpu, errno error) {
		failure = fmt.Errorf("KVM_RUN: %w", errno)
		close(ended)
	})
	set.start()
	select {
	case <-ended:
	case <-time.After(probeTimeout):
		failure = fmt.Errorf("the trial guest did not end in %v", probeTimeout)
	}
	set.stop()
	return exit, failure
}

// mapMemory makes every region of ram a slot of the VM.
func mapMemory(vm *kvm.VM, ram *mem.Memory) error {
	for slot, r := range ram.Regions() {
		if err := vm.SetMemory(uint32(slot), r.GPA, r.Bytes); err != nil {
			return err
		}
	}
	return nil
}
