package machine

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// QEMU is a folder a Debian qemu-system-x86 was unpacked in. It runs through
// the folder's own dynamic linker and needs nothing of the host.
type QEMU struct{ Root string }

// File descriptors that QEMU inherits.
const (
	portFD   = 3 // socket: the virtio-serial port
	initrdFD = 4 // memory file: the initrd
)

// command returns the program and its arguments that run QEMU with args.
func (q QEMU) command(args ...string) (program string, all []string) {
	in := func(name string) string { return filepath.Join(q.Root, name) }
	all = []string{
		"--library-path", in("usr/lib/x86_64-linux-gnu"),
		in("usr/bin/qemu-system-x86_64"),
		"-L", in("usr/share/qemu"),
		"-L", in("usr/share/seabios"),
	}
	return in("lib64/ld-linux-x86-64.so.2"), append(all, args...)
}

// kernelCommandLine is the outer kernel's.
//
// The emulated SVM loses an interrupt now and then: a periodic tick (highres=off
// nohz=off) keeps that from stopping the machine. The emulated TSC is steady,
// whatever the kernel's watchdog thinks of it. On a busy host the kernel's check
// of its timer fails, and it would panic (no_timer_check).
const kernelCommandLine = "console=ttyS0 quiet loglevel=4 panic=-1 " +
	"highres=off nohz=off tsc=reliable no_timer_check mitigations=off"

// hardware returns the arguments that describe the outer machine.
//
// It has one CPU: with two, guests with two vCPUs hang it, one CPU waiting for
// ever for an inter-processor interrupt.
func hardware(c Config, shares []Share, keep bool) []string {
	snapshot := "on"
	if keep {
		snapshot = "off"
	}
	args := []string{
		"-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-smp", "1",
		"-m", strconv.Itoa(c.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-serial", "stdio",
		"-kernel", c.Kernel,
		"-initrd", fmt.Sprintf("/proc/self/fd/%d", initrdFD),
		"-append", kernelCommandLine,
		"-drive", "if=none,id=root,format=raw,cache=unsafe,snapshot=" + snapshot + ",file=" + escape(c.Image),
		"-device", "virtio-blk-pci,drive=root",
		"-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=port,fd=%d", portFD),
		"-device", "virtserialport,chardev=port",
		"-device", "virtio-rng-pci",
	}
	for i, share := range shares {
		readonly := "on"
		if share.Writable {
			readonly = "off"
		}
		args = append(args, "-virtfs", fmt.Sprintf(
			"local,path=%s,mount_tag=%s,security_model=none,multidevs=remap,readonly=%s",
			escape(share.Source), shareTag(i), readonly))
	}
	return args
}

// escape doubles commas, which end a value in QEMU's options.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
