// Package boot owns the way from a kernel image to an entry point: it
// recognises bzImages and ELF vmlinux files, decompresses a bzImage's payload
// once and caches the result, and places kernel, initrds, command line and zero
// page in guest memory.
//
// The kernel is entered by the 64-bit boot protocol (Linux
// Documentation/arch/x86/boot.rst) at its own startup_64: the host decompresses,
// so the guest does not have to. A bzImage whose payload the host cannot
// decompress is entered at its 64-bit entry point and decompresses itself.
//
// The kernel image is the user's, not the guest's; it may still be damaged or
// be no kernel at all, so every number in it is checked before it is used.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

// What a kernel, an initrd or a command line can be refused for. The errors
// that wrap these name the file and are one sentence.
var (
	// ErrNotKernel is returned for a file that is no Linux kernel for x86_64;
	// the sentence says what it looks like instead.
	ErrNotKernel = errors.New("not a Linux kernel for x86_64")
	// ErrTruncated is returned for an image shorter than its own headers say.
	ErrTruncated = errors.New("the image is truncated")
	// Err32Bit is returned for a kernel that has no 64-bit entry point.
	Err32Bit = errors.New("a 32-bit kernel")
	// ErrTooOld is returned for a bzImage from before boot protocol 2.12.
	ErrTooOld = errors.New("the kernel is too old")
	// ErrDamaged is returned for an image that contradicts itself.
	ErrDamaged = errors.New("the image is damaged")
	// ErrMemory is returned when the machine has too little memory.
	ErrMemory = errors.New("does not fit into guest memory")
	// ErrCommandLine is returned for a command line the kernel cannot take.
	ErrCommandLine = errors.New("command line")
)

// Spec is what to boot.
type Spec struct {
	// Kernel is the path of a bzImage or an ELF vmlinux.
	Kernel string
	// Initrds are loaded back to back, each padded with zeros to four bytes:
	// the kernel unpacks such a chain of cpio archives one after the other.
	Initrds []string
	// CommandLine is the kernel's, without a terminating NUL.
	CommandLine string
	// RSDP is the guest-physical address of the ACPI root pointer.
	RSDP uint64
	// CacheDir holds decompressed kernels and is made when it is missing; ""
	// means that every start decompresses.
	CacheDir string
	// StoreDir is the Nix store. What lies below it never changes, so a kernel
	// there is known by its store path alone, any other by the SHA-256 of the
	// whole file. "" means no store.
	StoreDir string
	// Rand gives the guest's SETUP_RNG_SEED; nil means crypto/rand.
	Rand io.Reader
}

// Start is how the boot vCPU enters the kernel, in 64-bit mode with interrupts
// off and the low 4 GiB mapped one to one.
type Start struct {
	Entry    uint64 // guest-physical address for RIP
	ZeroPage uint64 // guest-physical address for RSI
	// Format is "vmlinux", "bzImage (zstd)" (or gzip, xz, lz4), or "bzImage,
	// decompressing itself".
	Format string
	// Cached tells that the decompressed kernel came from the cache.
	Cached bool
	// CacheErr says why the cache did not keep this kernel although CacheDir
	// was given. The machine starts all the same.
	CacheErr error
	// KernelVersion is what `uname -r` will say, "" when the image does not
	// tell. KernelBanner goes on with who built it and the rest of `uname -v`.
	KernelVersion string
	KernelBanner  string
}

// Info describes a kernel image.
type Info struct {
	// Format is "bzImage" or "vmlinux".
	Format string
	// Version and Banner are Start's KernelVersion and KernelBanner.
	Version string
	Banner  string
	// Payload is a bzImage's compression: "zstd", "gzip", "xz", "lz4", and,
	// recognised but left to the kernel itself, "bzip2", "lzma", "lzo" and
	// "unknown". It is "" for a vmlinux.
	Payload string
	// CommandLineMax is the longest command line in bytes, without the NUL.
	CommandLineMax int
}

// Inspect says what the kernel image at path is, or why it is none, without
// decompressing it.
func Inspect(path string) (Info, error) {
	k, err := openKernel(path)
	if err != nil {
		return Info{}, err
	}
	defer k.close()
	banner := k.banner()
	return Info{
		Format:         k.format,
		Version:        release(banner),
		Banner:         banner,
		Payload:        k.compression,
		CommandLineMax: k.commandLineMax(),
	}, nil
}

// Load puts everything that s names into m, which must be as New returned it,
// and returns how to enter the kernel. What can be refused cheaply is refused
// before the kernel is decompressed. When ctx ends, Load returns its error and
// leaves no temporary file behind.
func Load(ctx context.Context, m *mem.Memory, s Spec) (Start, error) {
	k, err := openKernel(s.Kernel)
	if err != nil {
		return Start{}, err
	}
	defer k.close()
	if err := checkCommandLine(s.CommandLine, k.commandLineMax()); err != nil {
		return Start{}, err
	}
	initrds, err := openInitrds(s.Initrds)
	if err != nil {
		return Start{}, err
	}
	defer initrds.close()
	if low := lowRAM(m); low <= x86.HighRAMStart {
		return Start{}, memoryError("kernel "+s.Kernel, x86.HighRAMStart, low)
	}

	banner := k.banner()
	start := Start{ZeroPage: x86.ZeroPageStart, KernelBanner: banner, KernelVersion: release(banner)}
	kernelEnd, err := k.load(ctx, m, s, &start)
	if err != nil {
		return Start{}, err
	}
	// The initrd goes where the kernel certainly is not, so it comes second.
	ramdisk, err := initrds.load(ctx, m, kernelEnd, uint64(k.params.u32(offInitrdAddrMax)))
	if err != nil {
		return Start{}, err
	}
	if err := writeParams(m, k.params, s, ramdisk); err != nil {
		return Start{}, err
	}
	return start, nil
}

// lowRAM returns where RAM ends below the 32-bit hole, in bytes: kernel and
// initrd are both below it.
func lowRAM(m *mem.Memory) uint64 { return uint64(len(m.Regions()[0].Bytes)) }

// memoryError says that what needs memory up to guest-physical address end,
// and the machine has ram bytes.
func memoryError(what string, end, ram uint64) error {
	const mib = 1 << 20
	if end > mem.HoleStart {
		return fmt.Errorf("%s %w: it would end at guest-physical address %#x, and kernel and initrd must stay below %#x",
			what, ErrMemory, end, mem.HoleStart)
	}
	return fmt.Errorf("%s %w: at least %d MiB are needed and the machine has %d: raise --mem",
		what, ErrMemory, (end+mib-1)/mib, ram/mib)
}

func alignUp(v, to uint64) uint64 { return (v + to - 1) / to * to }
