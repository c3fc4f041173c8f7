// Package hv is the hypervisor: it assembles a machine from a manifest, runs
// it, and says how it ended. It wires the rooms below it together and owns what
// belongs to none of them: the vCPU threads, the interrupt routing table, the
// port and MMIO dispatch, and the console's way out.
package hv
