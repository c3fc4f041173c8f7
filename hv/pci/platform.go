// Package pci owns the machine's one PCI Express segment: the host bridge, the
// configuration space behind ECAM, base address registers and where they
// decode, and MSI-X.
//
// A function knows nothing of KVM. What it needs from the machine, doorbells
// and interrupt messages, it takes through Platform.
package pci

// Platform is what the machine does for its functions. Its methods are safe
// for concurrent use, and never on a hot path but Vector.Trigger.
type Platform interface {
	// AddDoorbell lets every guest write to guest-physical address gpa, of any
	// width and value, signal eventfd fd without leaving the kernel.
	AddDoorbell(gpa uint64, fd int) error
	// RemoveDoorbell takes it back.
	RemoveDoorbell(gpa uint64, fd int) error
	// NewVector returns a new interrupt vector that has no message yet.
	NewVector() (Vector, error)
}

// Vector is one message-signalled interrupt of a function.
type Vector interface {
	// Route sets the message that Trigger sends: an address and data pair, as
	// the guest wrote it into the MSI-X table. Any pair is accepted; one that
	// means nothing to the interrupt controller is dropped there.
	Route(address uint64, data uint32) error
	// Trigger sends the message. It is one system call and allocates nothing.
	// Before the first Route it does nothing.
	Trigger()
	// Close releases the vector.
	Close() error
}
