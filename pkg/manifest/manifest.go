// Package manifest owns the one document that describes a machine wholly: what
// the Nix half of Whiterun ends in and the hypervisor half starts from. It is
// plain JSON; the same machine always makes the same bytes.
package manifest

// Version is the version of the document that this package reads and writes.
const Version = 1

// Manifest is one machine.
type Manifest struct {
	// Version is always Version.
	Version int `json:"version"`
	// Name is the machine's name: letters, digits, '.', '_' and '-', at most 63 bytes.
	Name string `json:"name"`
	// Kernel is the absolute path of a bzImage or an ELF vmlinux.
	Kernel string `json:"kernel"`
	// Initrds are absolute paths, loaded back to back in this order.
	Initrds []string `json:"initrds,omitempty"`
	// CommandLine is the whole kernel command line.
	CommandLine string `json:"commandLine"`
	// CPUs is the guest's processor topology.
	CPUs CPUs `json:"cpus"`
	// MemoryBytes is the guest's RAM in bytes, a multiple of 1 MiB.
	MemoryBytes uint64 `json:"memoryBytes"`
	// Store is what the guest sees of the Nix store; nil for a machine without one.
	Store *Store `json:"store,omitempty"`
}

// CPUs is a processor topology; the number of vCPUs is the product.
type CPUs struct {
	Sockets int `json:"sockets"` // packages
	Cores   int `json:"cores"`   // per socket
	Threads int `json:"threads"` // per core
}

// Count returns the number of vCPUs.
func (c CPUs) Count() int { return c.Sockets * c.Cores * c.Threads }

// Store is the closure that a machine's store share serves.
type Store struct {
	// Tag is the share's mount tag.
	Tag string `json:"tag"`
	// Dir is the absolute path of the host folder the paths lie in; in the
	// guest the share is mounted on /nix/store whatever it is.
	Dir string `json:"dir"`
	// Toplevel is the absolute store path of the system.
	Toplevel string `json:"toplevel"`
	// Closure is every store path the guest may see, sorted by name, each the
	// absolute path of an entry of Dir.
	Closure []string `json:"closure"`
}
