package hv

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/x86"
)

// interrupts owns the VM's GSI routing table: the I/O APIC's pins first, one
// GSI per message-signalled vector behind them.
type interrupts struct {
	vm *kvm.VM

	mu     sync.Mutex
	routes []kvm.Route // what the kernel has
	next   uint32      // GSI of the next vector
	free   []uint32    // GSIs of closed vectors
}

func newInterrupts(vm *kvm.VM) (*interrupts, error) {
	in := &interrupts{vm: vm, next: x86.IOAPICPins}
	for pin := range uint32(x86.IOAPICPins) {
		in.routes = append(in.routes, kvm.Route{GSI: pin, Pin: pin})
	}
	if err := vm.SetRouting(in.routes); err != nil {
		return nil, err
	}
	return in, nil
}

var errNoGSI = errors.New("all interrupt vectors of the machine are taken")

// vector is one MSI: an eventfd that the kernel turns into the message of the
// GSI it is bound to.
type vector struct {
	in    *interrupts
	gsi   uint32
	fd    int
	bound bool
}

// NewVector implements pci.Platform.
func (in *interrupts) NewVector() (pci.Vector, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd of an interrupt vector: %w", err)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	v := &vector{in: in, fd: fd}
	switch n := len(in.free); {
	case n > 0:
		v.gsi, in.free = in.free[n-1], in.free[:n-1]
	case in.next < kvm.MaxRoutes:
		v.gsi = in.next
		in.next++
	default:
		_ = unix.Close(fd)
		return nil, errNoGSI
	}
	return v, nil
}

// Route implements pci.Vector.
func (v *vector) Route(address uint64, data uint32) error {
	route := kvm.Route{GSI: v.gsi, MSI: true, Address: address, Data: data}
	if err := v.in.set(route); err != nil {
		return err
	}
	if v.bound {
		return nil
	}
	// Bound only now: an eventfd signalled before there is a route is kept by
	// the kernel and would be delivered late, to a driver that asked for none.
	if err := v.in.vm.IRQFD(v.gsi, v.fd, true); err != nil {
		return err
	}
	v.bound = true
	return nil
}

// Trigger implements pci.Vector.
func (v *vector) Trigger() { signal(v.fd) }

// Close implements pci.Vector.
func (v *vector) Close() error {
	var err error
	if v.bound {
		err = v.in.vm.IRQFD(v.gsi, v.fd, false)
	}
	v.in.drop(v.gsi)
	return errors.Join(err, unix.Close(v.fd))
}

// set adds the route, or replaces the one its GSI has.
func (in *interrupts) set(route kvm.Route) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i := range in.routes {
		if in.routes[i].GSI == route.GSI {
			if in.routes[i] == route {
				return nil
			}
			in.routes[i] = route
			return in.vm.SetRouting(in.routes)
		}
	}
	in.routes = append(in.routes, route)
	return in.vm.SetRouting(in.routes)
}

func (in *interrupts) drop(gsi uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.free = append(in.free, gsi)
	for i := range in.routes {
		if in.routes[i].GSI == gsi {
			in.routes = append(in.routes[:i], in.routes[i+1:]...)
			return
		}
	}
}

// AddDoorbell implements pci.Platform.
func (in *interrupts) AddDoorbell(gpa uint64, fd int) error { return in.vm.IOEventFD(gpa, fd, true) }

// RemoveDoorbell implements pci.Platform.
func (in *interrupts) RemoveDoorbell(gpa uint64, fd int) error {
	return in.vm.IOEventFD(gpa, fd, false)
}

// line is an edge-triggered input of the I/O APIC.
type line struct {
	vm  *kvm.VM
	gsi uint32
	fd  int
}

// newLine binds a new eventfd to GSI gsi.
func newLine(vm *kvm.VM, gsi uint32) (*line, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd of GSI %d: %w", gsi, err)
	}
	if err := vm.IRQFD(gsi, fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &line{vm: vm, gsi: gsi, fd: fd}, nil
}

// Pulse raises and lowers the line.
func (l *line) Pulse() { signal(l.fd) }

func (l *line) Close() error {
	return errors.Join(l.vm.IRQFD(l.gsi, l.fd, false), unix.Close(l.fd))
}

// signal adds one to an eventfd. The counter cannot overflow: the kernel takes
// it back to zero at each signal.
func signal(fd int) { _, _ = unix.Write(fd, one[:]) }

var one = [8]byte{1}
