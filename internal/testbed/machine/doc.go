// Package machine owns the outer machine: one QEMU with software emulation of
// a CPU that has SVM, in which /dev/kvm boots ordinary kernels, and the
// program that runs in it as its first process.
//
// Both halves are the same binary. The host half makes an initrd that holds
// the binary as /init, the few kernel modules it needs and the job as JSON; the
// guest half mounts what the job names, runs its command and sends what that
// prints as frames over one virtio-serial port.
package machine
