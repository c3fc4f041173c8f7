package boot

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

const (
	elfHeaderSize     = 64
	programHeaderSize = 56
	// maxProgramHeaders is far above the five or so of a vmlinux.
	maxProgramHeaders = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// elfImage is a vmlinux: an ELF file whose segments say where in physical
// memory the kernel lies.
type elfImage struct {
	r        io.ReaderAt
	entry    uint64    // guest-physical address of startup_64
	segments []segment // ascending by address, none overlapping another
	headers  uint32    // CRC-32C of ELF header and program headers
}

// segment is a PT_LOAD program header.
type segment struct {
	offset   uint64 // in the file
	fileSize uint64 // bytes in the file
	addr     uint64 // guest-physical address
	memSize  uint64 // bytes in memory; what the file does not have is zero
}

func (s segment) end() uint64 { return s.addr + s.memSize }

func hasELFMagic(head []byte) bool { return bytes.HasPrefix(head, []byte(elf.ELFMAG)) }

// parseELF reads the headers of the vmlinux of size bytes behind r and checks
// that every segment is inside the file and at a place where a kernel can be.
func parseELF(r io.ReaderAt, size uint64) (*elfImage, error) {
	if size < elfHeaderSize {
		return nil, fmt.Errorf("%w: an ELF header has %d bytes and the file %d", ErrTruncated, elfHeaderSize, size)
	}
	raw := make([]byte, elfHeaderSize)
	if err := readAt(r, raw, 0); err != nil {
		return nil, fmt.Errorf("read its ELF header: %w", err)
	}
	if elf.Data(raw[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("%w: it is a big-endian ELF file", ErrNotKernel)
	}
	// The machine is at the same place in both classes.
	machine := elf.Machine(binary.LittleEndian.Uint16(raw[18:]))
	switch {
	case machine == elf.EM_386:
		return nil, fmt.Errorf("%w: it is an ELF file for i386, and Whiterun starts 64-bit kernels only", Err32Bit)
	case machine != elf.EM_X86_64:
		return nil, fmt.Errorf("%w: it is an ELF file for %s", ErrNotKernel, machineName(machine))
	case elf.Class(raw[elf.EI_CLASS]) != elf.ELFCLASS64:
		return nil, fmt.Errorf("%w: it is a 32-bit ELF file, and Whiterun starts 64-bit kernels only", Err32Bit)
	}
	var h elf.Header64
	if _, err := binary.Decode(raw, binary.LittleEndian, &h); err != nil {
		return nil, fmt.Errorf("decode its ELF header: %w", err)
	}
	if t := elf.Type(h.Type); t != elf.ET_EXEC {
		return nil, fmt.Errorf("%w: it is an ELF file of type %s, not an executable at a fixed address", ErrNotKernel, t)
	}
	if h.Phentsize != programHeaderSize || h.Phnum == 0 || h.Phnum > maxProgramHeaders {
		return nil, fmt.Errorf("%w: its ELF header tells of %d program headers of %d bytes", ErrDamaged, h.Phnum, h.Phentsize)
	}
	table := make([]byte, int(h.Phnum)*programHeaderSize)
	if end, ok := add(h.Phoff, uint64(len(table))); !ok || end > size {
		return nil, fmt.Errorf("%w: its program headers end at byte %d and the file at byte %d", ErrTruncated, end, size)
	}
	if err := readAt(r, table, h.Phoff); err != nil {
		return nil, fmt.Errorf("read its program headers: %w", err)
	}
	e := &elfImage{r: r, entry: h.Entry}
	e.headers = crc32.Update(crc32.Checksum(raw, castagnoli), castagnoli, table)
	if err := e.addSegments(table, size); err != nil {
		return nil, err
	}
	return e, nil
}

// addSegments takes the PT_LOAD entries out of the program header table.
func (e *elfImage) addSegments(table []byte, size uint64) error {
	for ; len(table) > 0; table = table[programHeaderSize:] {
		var p elf.Prog64
		if _, err := binary.Decode(table, binary.LittleEndian, &p); err != nil {
			return fmt.Errorf("decode a program header: %w", err)
		}
		if elf.ProgType(p.Type) != elf.PT_LOAD || p.Memsz == 0 {
			continue
		}
		s := segment{offset: p.Off, fileSize: p.Filesz, addr: p.Paddr, memSize: p.Memsz}
		if end, ok := add(s.offset, s.fileSize); !ok || end > size {
			return fmt.Errorf("%w: a segment ends at byte %d and the file at byte %d", ErrTruncated, end, size)
		}
		if _, ok := add(s.addr, s.memSize); !ok || s.fileSize > s.memSize {
			return fmt.Errorf("%w: a segment at %#x has %d bytes in the file and %d in memory", ErrDamaged, s.addr, s.fileSize, s.memSize)
		}
		if s.addr < x86.HighRAMStart {
			return fmt.Errorf("%w: it is an ELF file to be loaded at %#x, where a PC has no room for a kernel", ErrNotKernel, s.addr)
		}
		e.segments = append(e.segments, s)
	}
	if len(e.segments) == 0 {
		return fmt.Errorf("%w: it is an ELF file with nothing to load", ErrNotKernel)
	}
	slices.SortFunc(e.segments, func(a, b segment) int {
		if a.addr < b.addr {
			return -1
		}
		return 1
	})
	for i, s := range e.segments[1:] {
		if previous := e.segments[i]; s.addr < previous.end() {
			return fmt.Errorf("%w: its segments at %#x and %#x overlap", ErrDamaged, previous.addr, s.addr)
		}
	}
	if !slices.ContainsFunc(e.segments, func(s segment) bool { return s.addr <= e.entry && e.entry < s.addr+s.fileSize }) {
		return fmt.Errorf("%w: it is an ELF file whose entry point %#x is no physical address in it", ErrNotKernel, e.entry)
	}
	return nil
}

// end returns the guest-physical address behind the last segment.
func (e *elfImage) end() uint64 { return e.segments[len(e.segments)-1].end() }

// load reads the segments straight into guest memory. It returns the
// guest-physical address behind them and the CRC-32C of all bytes that came
// from the file. After an error, guest memory is as zero as before.
func (e *elfImage) load(ctx context.Context, m *mem.Memory) (end uint64, sum uint32, err error) {
	if low := lowRAM(m); e.end() > low {
		return 0, 0, memoryError("it", e.end(), low)
	}
	views := make([][]byte, len(e.segments))
	for i, s := range e.segments {
		if views[i], err = m.Slice(s.addr, s.memSize); err != nil {
			return 0, 0, fmt.Errorf("segment at guest-physical %#x: %w", s.addr, err)
		}
	}
	for i, s := range e.segments {
		err := readInto(ctx, views[i][:s.fileSize], e.r, s.offset, func(p []byte) {
			sum = crc32.Update(sum, castagnoli, p)
		})
		if err != nil {
			e.unload(m)
			return 0, 0, err
		}
		clear(views[i][s.fileSize:])
	}
	return e.end(), sum, nil
}

// unload zeroes what load has written.
func (e *elfImage) unload(m *mem.Memory) {
	for _, s := range e.segments {
		if view, err := m.Slice(s.addr, s.fileSize); err == nil {
			clear(view)
		}
	}
}

// add returns a + b and whether it is still an address.
func add(a, b uint64) (uint64, bool) { return a + b, a+b >= a }
