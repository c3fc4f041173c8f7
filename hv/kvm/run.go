package kvm

import (
	"encoding/binary"
	"fmt"
)

// ExitReason says why Run returned.
type ExitReason uint32

// The reasons Whiterun knows (KVM_EXIT_…).
const (
	ExitUnknown       ExitReason = 0
	ExitException     ExitReason = 1
	ExitIO            ExitReason = 2
	ExitDebug         ExitReason = 4
	ExitHLT           ExitReason = 5
	ExitMMIO          ExitReason = 6
	ExitIRQWindow     ExitReason = 7
	ExitShutdown      ExitReason = 8
	ExitFailEntry     ExitReason = 9
	ExitIntr          ExitReason = 10
	ExitInternalError ExitReason = 17
	ExitSystemEvent   ExitReason = 24
)

func (r ExitReason) String() string {
	switch r {
	case ExitUnknown:
		return "unknown"
	case ExitException:
		return "exception"
	case ExitIO:
		return "port I/O"
	case ExitDebug:
		return "debug"
	case ExitHLT:
		return "halt"
	case ExitMMIO:
		return "MMIO"
	case ExitIRQWindow:
		return "interrupt window"
	case ExitShutdown:
		return "shutdown"
	case ExitFailEntry:
		return "entry failed"
	case ExitIntr:
		return "interrupted"
	case ExitInternalError:
		return "internal error"
	case ExitSystemEvent:
		return "system event"
	}
	return fmt.Sprintf("reason %d", uint32(r))
}

// kvmRun is the head of struct kvm_run; the kernel writes it, but for control.
type kvmRun struct {
	control    uint32 // request_interrupt_window, immediate_exit, padding
	_          uint32
	exitReason uint32
	_          uint32 // ready_for_interrupt_injection, if_flag, flags
	_, _       uint64 // cr8, apic_base
	exit       [256]byte
}

const (
	immediateExit = 1 << 8 // the second byte of control
	runSize       = 32 + 256
)

// Exit returns why the last Run returned.
func (v *VCPU) Exit() ExitReason { return ExitReason(v.run.exitReason) }

// IO is a port access that the guest made: count elements of size bytes each.
// A guest's OUT left them in Data; for an IN, Data is what it will read.
type IO struct {
	Write bool
	Port  uint16
	Size  int // bytes of one element: 1, 2 or 4
	Data  []byte
}

// IO returns the access of an ExitIO. Data is a view into the kvm_run page,
// good until the next Run.
func (v *VCPU) IO() (IO, error) {
	e := v.run.exit[:]
	size, count := int(e[1]), int(binary.LittleEndian.Uint32(e[4:]))
	offset := binary.LittleEndian.Uint64(e[8:])
	n := size * count
	if size == 0 || offset > uint64(len(v.page)) || n > len(v.page)-int(offset) {
		return IO{}, fmt.Errorf("KVM_EXIT_IO describes %d bytes at offset %d of a page of %d", n, offset, len(v.page))
	}
	return IO{
		Write: e[0] == 1,
		Port:  binary.LittleEndian.Uint16(e[2:]),
		Size:  size,
		Data:  v.page[offset:][:n:n],
	}, nil
}

// MMIO is an access to a guest-physical address that is not RAM. Data is what
// the guest wrote or, for a read, will read: 1 to 8 bytes.
type MMIO struct {
	Write bool
	GPA   uint64
	Data  []byte
}

// MMIO returns the access of an ExitMMIO. Data is a view into the kvm_run
// page, good until the next Run.
func (v *VCPU) MMIO() MMIO {
	e := v.run.exit[:]
	n := min(int(binary.LittleEndian.Uint32(e[16:])), 8)
	return MMIO{Write: e[20] != 0, GPA: binary.LittleEndian.Uint64(e), Data: e[8:][:n:n]}
}

// InternalError returns the words for an ExitInternalError.
func (v *VCPU) InternalError() string {
	e := v.run.exit[:]
	suberror, n := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
	switch suberror {
	case SuberrorEmulation:
		return "KVM could not emulate an instruction of the guest"
	case 2:
		return "KVM met two exceptions at once"
	case 3:
		return "KVM could not deliver an event to the guest"
	case 4:
		if n > 0 {
			return fmt.Sprintf("KVM does not know the hardware's exit reason %#x", binary.LittleEndian.Uint64(e[8:]))
		}
	}
	return fmt.Sprintf("KVM internal error %d", suberror)
}

// SuberrorEmulation is KVM_INTERNAL_ERROR_EMULATION: an instruction that KVM's
// emulator does not know.
const SuberrorEmulation = 1

// Suberror returns the kind of an ExitInternalError.
func (v *VCPU) Suberror() uint32 { return binary.LittleEndian.Uint32(v.run.exit[:]) }

// HardwareReason returns the processor's own reason of an ExitFailEntry or an
// ExitUnknown.
func (v *VCPU) HardwareReason() uint64 { return binary.LittleEndian.Uint64(v.run.exit[:]) }
