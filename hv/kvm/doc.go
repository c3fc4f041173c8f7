// Package kvm owns the kernel's interface to its hypervisor: the ioctls of
// /dev/kvm, of a VM and of a vCPU, their structures, and the view of the
// kvm_run page (Linux Documentation/virt/kvm/api.rst). It adds types and
// errors to them and nothing else: no policy, no retry, no thread.
package kvm
