package kvm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// DefaultPath is where Linux puts KVM.
const DefaultPath = "/dev/kvm"

var (
	// ErrNoDevice is returned by Open when there is no KVM device.
	ErrNoDevice = errors.New("no KVM device")
	// ErrPermission is returned by Open when the caller may not use it.
	ErrPermission = errors.New("no permission to use KVM")
	// ErrUnusable is returned by Open when the device is not a KVM, or one
	// that lacks something every machine needs.
	ErrUnusable = errors.New("unusable KVM")
)

// System is an open /dev/kvm.
type System struct {
	fd       int
	mmapSize int // bytes of a vCPU's kvm_run mapping
}

// Open opens the KVM device at path and checks what it can do against
// Required. It returns ErrNoDevice, ErrPermission or ErrUnusable with a
// sentence that says what to do.
func Open(path string) (*System, error) {
	fd, err := openDevice(path)
	if err != nil {
		return nil, err
	}
	s := &System{fd: fd}
	if err := s.check(path); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func openDevice(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return -1, fmt.Errorf("%w at %s: load the module kvm_intel or kvm_amd, switch virtualisation on in the firmware, or, inside a virtual machine, have nested virtualisation allowed", ErrNoDevice, path)
	case errors.Is(err, fs.ErrPermission):
		return -1, fmt.Errorf("%w: opening %s was refused to user %d: add the user to the device's group (often kvm) and log in again", ErrPermission, path, os.Getuid())
	default:
		return -1, fmt.Errorf("%w: open %s: %w", ErrUnusable, path, err)
	}
}

func (s *System) check(path string) error {
	version, err := ioctl(s.fd, ioGetAPIVersion, 0)
	if err != nil {
		return fmt.Errorf("%w: %s does not answer as KVM does: %w", ErrUnusable, path, err)
	}
	if version != apiVersion {
		return fmt.Errorf("%w: %s speaks version %d of KVM's interface, not %d", ErrUnusable, path, version, apiVersion)
	}
	for _, r := range Required {
		if s.CheckExtension(r.Cap) <= 0 {
			return fmt.Errorf("%w: this host's KVM cannot %s: a newer kernel can", ErrUnusable, r.Lack)
		}
	}
	if s.mmapSize, err = ioctl(s.fd, ioGetVCPUMmapSize, 0); err != nil {
		return fmt.Errorf("%w: size of the kvm_run mapping: %w", ErrUnusable, err)
	}
	if s.mmapSize < runSize {
		return fmt.Errorf("%w: the kvm_run mapping has %d bytes, fewer than %d", ErrUnusable, s.mmapSize, runSize)
	}
	return nil
}

// Close closes the device. VMs made from it live on.
func (s *System) Close() error { return unix.Close(s.fd) }

// CheckExtension returns what KVM answers for a capability: 0 when it lacks
// it, and mostly 1 or a limit when it has it.
func (s *System) CheckExtension(c Capability) int {
	n, err := ioctl(s.fd, ioCheckExtension, uintptr(c))
	if err != nil {
		return 0
	}
	return n
}

// MaxVCPUs returns how many vCPUs one VM may have.
func (s *System) MaxVCPUs() int {
	if n := s.CheckExtension(CapMaxVCPUs); n > 0 {
		return n
	}
	// api.rst: without the capability the recommended number is the limit, and
	// without that one, 4.
	if n := s.CheckExtension(CapNRVCPUs); n > 0 {
		return n
	}
	return 4
}

// maxCPUIDEntries is Linux' KVM_MAX_CPUID_ENTRIES.
const maxCPUIDEntries = 256

// SupportedCPUID returns the CPUID leaves that KVM and the host can give a
// guest. Some of their values describe the calling thread's CPU.
func (s *System) SupportedCPUID() ([]CPUIDEntry, error) {
	list := cpuidList{n: maxCPUIDEntries}
	if err := ioctlPtr(s.fd, ioGetSupportedCPUID, &list); err != nil {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	return append([]CPUIDEntry(nil), list.entries[:list.n]...), nil
}

// CreateVM makes a VM with no memory, no vCPU and no interrupt controller.
func (s *System) CreateVM() (*VM, error) {
	for {
		fd, err := ioctl(s.fd, ioCreateVM, 0)
		if errors.Is(err, unix.EINTR) {
			continue // interrupted while it waited for memory or the module's lock
		}
		if err != nil {
			return nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
		}
		unix.CloseOnExec(fd)
		return &VM{fd: fd, mmapSize: s.mmapSize}, nil
	}
}
