package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// kernelParameters are the system's own, for every peer. Whiterun adds its
// consoles, of which hvc0 is the one that is used; so are QEMU's guests given it.
// A guest that panics ends at once, and is not waited for.
const kernelParameters = "loglevel=4 panic=-1"

// setup is what the peers' command lines are made from.
type setup struct {
	system
	whiterun string // program
	scratch  string // folder in memory
	memory   int    // of the guest, in MiB
}

// peer is one way to boot the system.
type peer struct {
	name string
	// reads tells whether the guest reads the store; the others only boot.
	reads bool
	// programs returns the command lines. The last one's end is the machine's; its
	// standard output is the guest's console.
	programs func(setup) []program
}

// program is a process of a peer.
type program struct {
	args []string
	env  []string // beside this process' own
	// listen is a socket that the program finds listening as file descriptor 3.
	listen string
}

// peers returns every way, the one that the others are compared with first.
func peers() []peer {
	return []peer{
		{"whiterun", true, func(s setup) []program { return s.runManifest("warm") }},
		{"QEMU microvm, 9p", true, func(s setup) []program { return s.qemu9P(s.kernel) }},
		{"QEMU microvm, virtiofsd", true, func(s setup) []program { return s.qemuVirtiofs(s.kernel) }},
		{"whiterun, first boot of a kernel", false, func(s setup) []program { return s.runManifest("cold") }},
		{"whiterun boot STOREPATH", false, setup.bootPath},
		{"QEMU microvm, 9p, unpacked kernel", false, func(s setup) []program { return s.qemu9P(s.unpacked()) }},
	}
}

// guestWords is what a guest's command line tells its init.
func guestWords(transport string, reads bool) string {
	words := wordStore + transport
	if reads {
		words += " " + wordWork + dataPath
	}
	return words
}

// Manifests of guests that read the store and of those that only boot.
func (s setup) manifest(reads bool) string { return s.in(fmt.Sprintf("manifest-%t.json", reads)) }

// machineFlags are Whiterun's.
func (s setup) machineFlags(reads bool) []string {
	return []string{toplevelPath, "--mem", strconv.Itoa(s.memory), "--append", guestWords("9p", reads)}
}

// writeManifest has Whiterun write what `whiterun run` is given.
func (s setup) writeManifest(ctx context.Context) error {
	for _, reads := range []bool{false, true} {
		text, err := command(ctx, "", s.whiterun, append([]string{"manifest"}, s.machineFlags(reads)...)...)
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.manifest(reads), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// cacheEnv names the folder of Whiterun's kernel cache: warm is kept from run to
// run, cold is emptied before each.
func (s setup) cacheEnv(cache string) []string { return []string{"XDG_CACHE_HOME=" + s.in(cache)} }

func (s setup) runManifest(cache string) []program {
	return []program{{
		args: []string{s.whiterun, "run", s.manifest(cache == "warm"), "--log-level", "debug", "--log-format", "json"},
		env:  s.cacheEnv(cache),
	}}
}

func (s setup) bootPath() []program {
	args := append([]string{s.whiterun, "boot"}, s.machineFlags(false)...)
	return []program{{args: append(args, "--log-level", "debug", "--log-format", "json"), env: s.cacheEnv("warm")}}
}

// unpacked returns the vmlinux that the first run of Whiterun has left in its
// cache; QEMU enters it through its PVH note.
func (s setup) unpacked() string {
	found, err := filepath.Glob(filepath.Join(s.in("warm"), "whiterun", "vmlinux-*"))
	if err != nil || len(found) != 1 {
		return "no-vmlinux-in-the-cache"
	}
	return found[0]
}

// qemu returns QEMU's command line but for the store: a microvm with only the
// devices the guest uses, the smaller of its firmwares, and the console on
// virtio, which is faster than its serial port. Its devices are on virtio-mmio,
// where 9P is faster than on PCI; a stock kernel finds them only through ACPI.
// The real-time clock stays: without it the guest's driver looks for one for
// seconds.
func (s setup) qemu(kernel, transport string, reads bool) []string {
	return []string{
		"qemu-system-x86_64",
		"-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=off,x-option-roms=off",
		"-bios", "qboot.rom",
		"-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", strconv.Itoa(s.memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-global", "virtio-mmio.force-legacy=off",
		"-kernel", kernel, "-initrd", s.initrd,
		"-append", strings.Join([]string{
			kernelParameters, "console=hvc0", "init=" + toplevelPath + "/init", guestWords(transport, reads),
		}, " "),
		"-chardev", "stdio,id=console,signal=off",
		"-device", "virtio-serial-device", "-device", "virtconsole,chardev=console",
	}
}

func (s setup) qemu9P(kernel string) []program {
	args := append(s.qemu(kernel, "9p", kernel == s.kernel),
		"-fsdev", "local,id=store,path="+storeDir+",security_model=none,readonly=on",
		"-device", "virtio-9p-device,fsdev=store,mount_tag="+storeTag)
	return []program{{args: args}}
}

// qemuVirtiofs shares the guest's memory with virtiofsd, which caches as the
// store allows and serves one guest CPU from one thread (its default, no pool).
func (s setup) qemuVirtiofs(kernel string) []program {
	socket := s.in("virtiofsd.sock")
	args := append(s.qemu(kernel, "virtiofs", kernel == s.kernel),
		"-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", s.memory),
		"-machine", "memory-backend=memory",
		"-chardev", "socket,id=store,path="+socket,
		"-device", "vhost-user-fs-device,chardev=store,tag="+storeTag+",queue-size=1024")
	return []program{
		{
			args:   []string{"/usr/lib/qemu/virtiofsd", "--fd=3", "-o", "source=" + storeDir + ",cache=always", "--thread-pool-size=0"},
			listen: socket,
		},
		{args: args},
	}
}

// versions says what was measured, with the peers' own words.
func versions(ctx context.Context, s setup) []string {
	var lines []string
	for _, args := range [][]string{{s.whiterun, "version"}, {"qemu-system-x86_64", "--version"}, {"/usr/lib/qemu/virtiofsd", "--version"}} {
		output, err := command(ctx, "", args[0], args[1:]...)
		if err != nil {
			output = []byte(err.Error())
		}
		lines = append(lines, firstLine(output))
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err == nil {
		lines = append(lines, "host: Linux "+firstLine(release))
	}
	return lines
}
