package x86

import (
	"fmt"
	"math/bits"
)

// MaxVCPUs is the most vCPUs a machine has.
const MaxVCPUs = 64

// Topology is the shape of a machine's processors. vCPUs are numbered thread
// by thread, core by core, package by package.
type Topology struct {
	Sockets int // packages
	Cores   int // per package
	Threads int // per core
}

// Count returns the number of vCPUs.
func (t Topology) Count() int { return t.Sockets * t.Cores * t.Threads }

// Validate reports why t is not the topology of a machine.
func (t Topology) Validate() error {
	// Each factor is bounded before they are multiplied: the product of three
	// large ones wraps.
	for _, f := range []struct {
		name string
		n    int
	}{{"sockets", t.Sockets}, {"cores", t.Cores}, {"threads", t.Threads}} {
		if f.n < 1 || f.n > MaxVCPUs {
			return fmt.Errorf("processor topology: %d %s, want 1 to %d", f.n, f.name, MaxVCPUs)
		}
	}
	if n := t.Count(); n > MaxVCPUs {
		return fmt.Errorf("processor topology: %d sockets × %d cores × %d threads are %d vCPUs, want at most %d",
			t.Sockets, t.Cores, t.Threads, n, MaxVCPUs)
	}
	return nil
}

// APICID returns the APIC ID of vCPU cpu, counted from 0: package, core and
// thread number in fields as wide as their largest value, since operating
// systems take an APIC ID apart by shifting. Where a factor is no power of
// two, IDs have gaps. KVM gives a vCPU the APIC ID that KVM_CREATE_VCPU is
// called with, so it is that too.
func (t Topology) APICID(cpu int) uint32 {
	thread := cpu % t.Threads
	core := cpu / t.Threads % t.Cores
	socket := cpu / (t.Threads * t.Cores)
	return uint32(socket<<t.packageShift() | core<<t.threadBits() | thread)
}

// APICIDs returns the APIC IDs of all vCPUs in their order.
func (t Topology) APICIDs() []uint32 {
	ids := make([]uint32, t.Count())
	for cpu := range ids {
		ids[cpu] = t.APICID(cpu)
	}
	return ids
}

// threadBits is the width of the thread number in an APIC ID.
func (t Topology) threadBits() int { return bits.Len(uint(t.Threads - 1)) }

// packageShift is where the package number starts in an APIC ID.
func (t Topology) packageShift() int { return t.threadBits() + bits.Len(uint(t.Cores-1)) }
