package prepare

import "strings"

// dropped are the parts of packages that nobody reads in the testbed.
var dropped = []string{
	"usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "usr/share/lintian/",
	"usr/share/bug/", "usr/share/bash-completion/", "usr/share/zsh/", "usr/share/icons/",
	"usr/share/applications/", "usr/lib/udev/", "usr/share/i18n/", "usr/lib/systemd/",
	"usr/share/qemu/hppa", "usr/share/qemu/openbios", "usr/share/qemu/skiboot", "usr/share/qemu/efi-",
	"usr/share/qemu/edk2", "usr/share/qemu/u-boot", "usr/share/qemu/slof", "usr/share/OVMF/",
	"usr/share/proj/", "boot/System.map",
}

// keptModules are the folders, and files, of kernel modules that a guest or the
// outer machine may want: a virtual machine has no other hardware.
var keptModules = []string{
	"arch/", "block/", "crypto/", "fs/", "lib/", "mm/", "virt/",
	"net/9p/", "net/802/", "net/8021q/", "net/bridge/", "net/core/", "net/ipv4/", "net/ipv6/", "net/llc/",
	"net/netfilter/", "net/packet/", "net/sched/", "net/unix/", "net/vmw_vsock/", "net/xdp/",
	"drivers/acpi/", "drivers/block/", "drivers/crypto/ccp/", "drivers/char/hw_random/", "drivers/char/virtio_console",
	"drivers/dax/", "drivers/firmware/", "drivers/md/dm-", "drivers/misc/pvpanic/",
	"drivers/net/dummy", "drivers/net/macv", "drivers/net/net_failover", "drivers/net/tap", "drivers/net/tun",
	"drivers/net/veth", "drivers/net/virtio_net", "drivers/nvdimm/", "drivers/ptp/",
	"drivers/scsi/scsi", "drivers/scsi/sd_mod", "drivers/scsi/virtio_scsi", "drivers/vhost/", "drivers/vfio/",
	"drivers/virtio/", "drivers/watchdog/softdog",
}

// keep tells whether a file of a package is unpacked.
func keep(name string) bool {
	for _, prefix := range dropped {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	_, module, found := strings.Cut(name, "lib/modules/")
	if !found {
		return true
	}
	_, module, found = strings.Cut(module, "/kernel/")
	if !found {
		return true // modules.order and the like
	}
	for _, prefix := range keptModules {
		if strings.HasPrefix(module, prefix) {
			return true
		}
	}
	return false
}
