package boot

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

// Offsets in bytes into the zero page, struct boot_params (Linux
// Documentation/arch/x86/zero-page.rst). Those of the setup header, from
// offSetupSects on, are also offsets into a bzImage file.
const (
	offACPIRSDPAddr      = 0x070
	offE820Entries       = 0x1E8
	offSetupSects        = 0x1F1
	offSysSize           = 0x1F4
	offVidMode           = 0x1FA
	offBootFlag          = 0x1FE
	offJump              = 0x200
	offMagic             = 0x202
	offVersion           = 0x206
	offKernelVersion     = 0x20E
	offTypeOfLoader      = 0x210
	offLoadFlags         = 0x211
	offCode32Start       = 0x214
	offRamdiskImage      = 0x218
	offRamdiskSize       = 0x21C
	offHeapEndPtr        = 0x224
	offCmdLinePtr        = 0x228
	offInitrdAddrMax     = 0x22C
	offKernelAlignment   = 0x230
	offRelocatableKernel = 0x234
	offXLoadFlags        = 0x236
	offCmdLineSize       = 0x238
	offPayloadOffset     = 0x248
	offPayloadLength     = 0x24C
	offSetupData         = 0x250
	offPrefAddress       = 0x258
	offInitSize          = 0x260
	// endSetupHeader is where the next field of the zero page begins: no
	// setup header may reach beyond.
	endSetupHeader = 0x290
	offE820Table   = 0x2D0

	e820EntrySize = 20
	e820Max       = 128
)

// Values of those fields.
const (
	bootFlag           = 0xAA55
	headerMagic        = 0x5372_6448 // "HdrS"
	typeOfLoaderOther  = 0xFF
	vidModeNormal      = 0xFFFF
	loadedHigh         = 1 << 0 // loadflags
	kaslrFlag          = 1 << 1 // loadflags, the decompressor's own note
	canUseHeap         = 1 << 7 // loadflags
	xlfKernel64        = 1 << 0 // xloadflags
	setupRNGSeed       = 9
	seedSize           = 32
	setupDataHeader    = 16 // next, type, length
	defaultCommandLine = 2047
	defaultInitrdMax   = 0x7FFF_FFFF
	oldInitrdMax       = 0x37FF_FFFF
)

// params is a zero page in the making. It starts as a copy of the image's own
// setup header, for the kernel may look at fields that no loader knows.
type params [4096]byte

func (p *params) u16(off int) uint16      { return binary.LittleEndian.Uint16(p[off:]) }
func (p *params) u32(off int) uint32      { return binary.LittleEndian.Uint32(p[off:]) }
func (p *params) u64(off int) uint64      { return binary.LittleEndian.Uint64(p[off:]) }
func (p *params) put16(off int, v uint16) { binary.LittleEndian.PutUint16(p[off:], v) }
func (p *params) put32(off int, v uint32) { binary.LittleEndian.PutUint32(p[off:], v) }
func (p *params) put64(off int, v uint64) { binary.LittleEndian.PutUint64(p[off:], v) }

// vmlinuxParams is the setup header for a kernel that comes without one: what
// every x86_64 kernel of boot protocol 2.12 agrees on.
func vmlinuxParams() *params {
	p := new(params)
	p.put16(offBootFlag, bootFlag)
	p.put32(offMagic, headerMagic)
	p.put16(offVersion, minProtocol)
	p[offLoadFlags] = loadedHigh
	p.put32(offInitrdAddrMax, defaultInitrdMax)
	p.put32(offKernelAlignment, 2<<20)
	p.put16(offXLoadFlags, xlfKernel64)
	p.put32(offCmdLineSize, defaultCommandLine)
	return p
}

// checkCommandLine refuses what would reach the kernel cut or changed; limit is
// in bytes.
func checkCommandLine(line string, limit int) error {
	if len(line) > limit {
		return fmt.Errorf("%w is %d bytes long and this kernel takes at most %d: shorten --append or the system's kernelParams",
			ErrCommandLine, len(line), limit)
	}
	if i := strings.IndexAny(line, "\x00\n"); i >= 0 {
		return fmt.Errorf("%w has %q at byte %d: it must be one line of text", ErrCommandLine, line[i], i)
	}
	return nil
}

// writeParams completes p and writes zero page, command line and setup_data.
func writeParams(m *mem.Memory, p *params, s Spec, ramdisk span) error {
	p[offTypeOfLoader] = typeOfLoaderOther
	// No loader heap, and no note of an earlier decompressor.
	p[offLoadFlags] = p[offLoadFlags]&^(canUseHeap|kaslrFlag) | loadedHigh
	p.put16(offHeapEndPtr, 0)
	p.put16(offVidMode, vidModeNormal)
	p.put32(offRamdiskImage, uint32(ramdisk.start))
	p.put32(offRamdiskSize, uint32(ramdisk.size))
	p.put32(offCmdLinePtr, x86.CommandLineStart)
	p.put64(offSetupData, x86.SetupDataStart)
	p.put64(offACPIRSDPAddr, s.RSDP)

	e820 := x86.MemoryMap(m)
	if len(e820) > e820Max {
		return fmt.Errorf("memory map of %d ranges: the zero page holds %d", len(e820), e820Max)
	}
	p[offE820Entries] = byte(len(e820))
	for i, e := range e820 {
		off := offE820Table + i*e820EntrySize
		p.put64(off, e.Start)
		p.put64(off+8, e.Size)
		p.put32(off+16, uint32(e.Type))
	}

	seed, err := setupData(s.Rand)
	if err != nil {
		return err
	}
	if err := m.Write(x86.SetupDataStart, seed); err != nil {
		return fmt.Errorf("random seed: %w", err)
	}
	if err := m.Write(x86.CommandLineStart, append([]byte(s.CommandLine), 0)); err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	if err := m.Write(x86.ZeroPageStart, p[:]); err != nil {
		return fmt.Errorf("zero page: %w", err)
	}
	return nil
}

// setupData returns a setup_data list of one node: fresh randomness, so that
// the guest's generator is ready before its first user. The kernel wipes it.
func setupData(random io.Reader) ([]byte, error) {
	if random == nil {
		random = rand.Reader
	}
	node := make([]byte, setupDataHeader+seedSize) // the next pointer stays 0: the last
	binary.LittleEndian.PutUint32(node[8:], setupRNGSeed)
	binary.LittleEndian.PutUint32(node[12:], seedSize)
	if _, err := io.ReadFull(random, node[setupDataHeader:]); err != nil {
		return nil, fmt.Errorf("random seed for the guest: %w", err)
	}
	return node, nil
}
