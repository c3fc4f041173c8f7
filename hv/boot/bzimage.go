package boot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

const (
	sectorSize = 512
	// minProtocol is boot protocol 2.12 (Linux 3.8), the first that tells in
	// xloadflags whether there is a 64-bit entry point.
	minProtocol = 0x020C
	// entry64 is the 64-bit entry point's distance from the start of the
	// protected-mode code, in bytes.
	entry64 = 0x200
)

func hasSetupHeader(head []byte) bool {
	return len(head) >= offMagic+4 && binary.LittleEndian.Uint32(head[offMagic:]) == headerMagic
}

// parseBzImage reads the setup header in head, the beginning of the bzImage of
// size bytes behind r.
func parseBzImage(r io.ReaderAt, size uint64, head []byte) (image, error) {
	if len(head) < endSetupHeader {
		return image{}, fmt.Errorf("%w: a setup header ends at byte %d and the file at byte %d", ErrTruncated, endSetupHeader, size)
	}
	p := new(params)
	copy(p[offSetupSects:endSetupHeader], head[offSetupSects:])
	if v := p.u16(offVersion); v < minProtocol {
		return image{}, fmt.Errorf("%w: it has boot protocol %d.%02d, and Whiterun needs 2.12, that is Linux 3.8 or later",
			ErrTooOld, v>>8, v&0xFF)
	}
	// The header's length is the displacement of the jump across it; what
	// lies behind is code.
	clear(p[min(endSetupHeader, offMagic+int(p[offJump+1])):endSetupHeader])
	if p[offLoadFlags]&loadedHigh == 0 {
		return image{}, fmt.Errorf("%w: it is a zImage, to be loaded below 1 MiB", ErrTooOld)
	}
	if p.u16(offXLoadFlags)&xlfKernel64 == 0 {
		return image{}, fmt.Errorf("%w: its bzImage has no 64-bit entry point", Err32Bit)
	}

	setupSects := uint64(p[offSetupSects])
	if setupSects == 0 {
		setupSects = 4
	}
	i := image{r: r, size: size, format: "bzImage", params: p}
	i.code = span{start: (setupSects + 1) * sectorSize, size: uint64(p.u32(offSysSize)) * 16}
	i.payload = span{start: i.code.start + uint64(p.u32(offPayloadOffset)), size: uint64(p.u32(offPayloadLength))}
	// The code's length is counted in 16 bytes, so its end may be up to 15
	// bytes behind the file's; a signature may follow it.
	if i.code.end() >= size+16 || i.payload.end() > size {
		return image{}, fmt.Errorf("%w: it should have at least %d bytes and has %d",
			ErrTruncated, max(i.code.end(), i.payload.end()), size)
	}
	i.code.size = min(i.code.size, size-i.code.start)

	var magic [8]byte
	n := min(i.payload.size, uint64(len(magic)))
	if err := readAt(r, magic[:n], i.payload.start); err != nil {
		return image{}, fmt.Errorf("read its payload: %w", err)
	}
	i.compression = compressionOf(magic[:n])
	return i, nil
}

// loadAddress returns where the image wants to be in guest-physical address
// space.
func (i *image) loadAddress() uint64 {
	addr := i.params.u64(offPrefAddress)
	if addr < x86.HighRAMStart && i.params[offRelocatableKernel] != 0 {
		addr = alignUp(x86.HighRAMStart, max(uint64(i.params.u32(offKernelAlignment)), 4096))
	}
	return addr
}

// reserved returns the guest-physical address behind all the memory that the
// image uses before it reads the memory map, and checks that it is RAM.
func (i *image) reserved(m *mem.Memory) (uint64, error) {
	addr := i.loadAddress()
	if addr < x86.HighRAMStart || addr >= mem.HoleStart {
		return 0, fmt.Errorf("%w: it wants to be loaded at %#x", ErrDamaged, addr)
	}
	end := addr + max(uint64(i.params.u32(offInitSize)), i.code.size)
	if low := lowRAM(m); end > low {
		return 0, memoryError("it", end, low)
	}
	return end, nil
}

// loadCode places the protected-mode code of a bzImage whose payload the guest
// decompresses and returns its entry point.
func (k *kernel) loadCode(ctx context.Context, m *mem.Memory) (entry uint64, err error) {
	if k.code.size <= entry64 {
		return 0, fmt.Errorf("%w: its protected-mode code has %d bytes", ErrDamaged, k.code.size)
	}
	addr := k.loadAddress()
	view, err := m.Slice(addr, k.code.size)
	if err != nil {
		return 0, fmt.Errorf("code at guest-physical %#x: %w", addr, err)
	}
	if err := readInto(ctx, view, k.r, k.code.start, nil); err != nil {
		return 0, err
	}
	k.params.put32(offCode32Start, uint32(addr))
	return addr + entry64, nil
}
