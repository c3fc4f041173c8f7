package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VM is one virtual machine.
type VM struct {
	fd       int
	mmapSize int
}

// Close drops this reference to the VM. The kernel frees it when its vCPUs and
// interrupt eventfds are closed too.
func (vm *VM) Close() error { return unix.Close(vm.fd) }

// SetMemory maps the host memory ram at guest-physical address gpa as slot.
// ram must stay mapped while the VM lives.
func (vm *VM) SetMemory(slot uint32, gpa uint64, ram []byte) error {
	region := memoryRegion{Slot: slot, GPA: gpa, Size: uint64(len(ram)), HVA: hostAddress(ram)}
	if err := ioctlPtr(vm.fd, ioSetUserMemoryRegion, &region); err != nil {
		return fmt.Errorf("KVM_SET_USER_MEMORY_REGION of %d bytes at guest-physical %#x: %w", len(ram), gpa, err)
	}
	return nil
}

type memoryRegion struct {
	Slot, Flags uint32
	GPA         uint64
	Size        uint64
	HVA         uint64
}

// CreateIRQChip gives the VM an I/O APIC, a pair of 8259 and a local APIC per
// vCPU, all in the kernel. identityMap (one page) and tss (three pages) are
// guest-physical addresses that Intel hosts use for real mode; both lie
// outside of RAM. It must come before the first vCPU.
func (vm *VM) CreateIRQChip(identityMap, tss uint64) error {
	if err := ioctlPtr(vm.fd, ioSetIdentityMapAddr, &identityMap); err != nil {
		return fmt.Errorf("KVM_SET_IDENTITY_MAP_ADDR %#x: %w", identityMap, err)
	}
	if _, err := ioctl(vm.fd, ioSetTSSAddr, uintptr(tss)); err != nil {
		return fmt.Errorf("KVM_SET_TSS_ADDR %#x: %w", tss, err)
	}
	if _, err := ioctl(vm.fd, ioCreateIRQChip, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	return nil
}

// IOEventFD makes guest writes of any width and value to guest-physical
// address gpa signal eventfd fd (assign), or ends that.
func (vm *VM) IOEventFD(gpa uint64, fd int, assign bool) error {
	e := ioEventFD{Address: gpa, FD: int32(fd)}
	if !assign {
		e.Flags = ioEventFDDeassign
	}
	if err := ioctlPtr(vm.fd, ioIOEventFD, &e); err != nil {
		return fmt.Errorf("KVM_IOEVENTFD at guest-physical %#x (assign %t): %w", gpa, assign, err)
	}
	return nil
}

const ioEventFDDeassign = 1 << 2

type ioEventFD struct {
	Match   uint64
	Address uint64
	Length  uint32 // 0: any
	FD      int32
	Flags   uint32
	_       [36]byte
}

// IRQFD makes eventfd fd raise GSI gsi (assign), or ends that.
func (vm *VM) IRQFD(gsi uint32, fd int, assign bool) error {
	i := irqFD{FD: uint32(fd), GSI: gsi}
	if !assign {
		i.Flags = irqFDDeassign
	}
	if err := ioctlPtr(vm.fd, ioIRQFD, &i); err != nil {
		return fmt.Errorf("KVM_IRQFD of GSI %d (assign %t): %w", gsi, assign, err)
	}
	return nil
}

const irqFDDeassign = 1 << 0

type irqFD struct {
	FD, GSI, Flags, ResampleFD uint32
	_                          [16]byte
}

// Route says where a GSI goes: to pin Pin of the I/O APIC or, when MSI is set,
// out as the message Address, Data.
type Route struct {
	GSI     uint32
	Pin     uint32
	MSI     bool
	Address uint64
	Data    uint32
}

// SetRouting replaces the VM's GSI routing table by routes.
func (vm *VM) SetRouting(routes []Route) error {
	if len(routes) > MaxRoutes {
		return fmt.Errorf("KVM_SET_GSI_ROUTING: %d routes, KVM takes %d", len(routes), MaxRoutes)
	}
	table := routingTable{n: uint32(len(routes))}
	for i, r := range routes {
		e := &table.entries[i]
		e.GSI = r.GSI
		if r.MSI {
			e.Type, e.Union[0], e.Union[1], e.Union[2] = routeMSI, uint32(r.Address), uint32(r.Address>>32), r.Data
		} else {
			e.Type, e.Union[0], e.Union[1] = routeIRQChip, irqChipIOAPIC, r.Pin
		}
	}
	if err := ioctlPtr(vm.fd, ioSetGSIRouting, &table); err != nil {
		return fmt.Errorf("KVM_SET_GSI_ROUTING of %d routes: %w", len(routes), err)
	}
	return nil
}

// MaxRoutes is how many routes SetRouting takes: more than any machine has
// vectors, fewer than Linux' KVM_MAX_IRQ_ROUTES.
const MaxRoutes = 1024

const (
	routeIRQChip  = 1
	routeMSI      = 2
	irqChipIOAPIC = 2
)

type routingEntry struct {
	GSI, Type, Flags, _ uint32
	Union               [8]uint32
}

type routingTable struct {
	n, _    uint32
	entries [MaxRoutes]routingEntry
}

// CreateVCPU adds a vCPU whose APIC ID is id, and maps its kvm_run page.
func (vm *VM) CreateVCPU(id uint32) (*VCPU, error) {
	fd, err := ioctl(vm.fd, ioCreateVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU %d: %w", id, err)
	}
	unix.CloseOnExec(fd)
	page, err := unix.Mmap(fd, 0, vm.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("map kvm_run of vCPU %d: %w", id, err)
	}
	return &VCPU{fd: fd, page: page, run: runView(page)}, nil
}
