package boot

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"strings"
	"testing"
)

func TestInspect(t *testing.T) {
	vmlinux := testVMLinux(t)
	tests := []struct {
		name  string
		image []byte
		want  Info
	}{
		{"vmlinux", vmlinux, Info{"vmlinux", "6.12.1-test", testBanner, "", 2047}},
		{"bzImage", makeBzImage(t, compress(t, "zstd", vmlinux), nil), Info{"bzImage", "6.12.1-test", testBanner, "zstd", 2047}},
		{"no version", makeBzImage(t, compress(t, "xz", vmlinux), func(p *params) { p.put16(offKernelVersion, 0) }),
			Info{"bzImage", "", "", "xz", 2047}},
		{"version outside the file", makeBzImage(t, compress(t, "gzip", vmlinux), func(p *params) { p.put16(offKernelVersion, 0xFFFF) }),
			Info{"bzImage", "", "", "gzip", 2047}},
		{"short command line", makeBzImage(t, compress(t, "bzip2", vmlinux), func(p *params) { p.put32(offCmdLineSize, 255) }),
			Info{"bzImage", "6.12.1-test", testBanner, "bzip2", 255}},
		{"endless command line", makeBzImage(t, compress(t, "unknown", vmlinux), func(p *params) { p.put32(offCmdLineSize, math.MaxUint32) }),
			Info{"bzImage", "6.12.1-test", testBanner, "unknown", 0xFFFF}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Inspect(writeFile(t, "kernel", tt.image))
			if err != nil || got != tt.want {
				t.Errorf("got  %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

// TestRefused has one sentence for each kind of file that is no kernel.
func TestRefused(t *testing.T) {
	vmlinux := testVMLinux(t)
	bzImage := makeBzImage(t, compress(t, "zstd", vmlinux), nil)
	spoil := func(image []byte, off int, b ...byte) []byte {
		image = bytes.Clone(image)
		copy(image[off:], b)
		return image
	}
	header := func(change func(p *params)) []byte { return makeBzImage(t, compress(t, "zstd", vmlinux), change) }
	pe := append([]byte("MZ"), make([]byte, 4096)...)
	disk := make([]byte, 512)
	disk[510], disk[511] = 0x55, 0xAA
	phoff := elfHeaderSize // of the first program header
	tests := []struct {
		name  string
		image []byte
		is    error
		want  string
	}{
		{"empty", nil, ErrNotKernel, "not a Linux kernel for x86_64: it is empty"},
		{"text", []byte("Grüße\n"), ErrNotKernel, "it is a text file"},
		{"script", []byte("#!/bin/sh\n"), ErrNotKernel, "it is a script"},
		{"gzip", []byte("\x1f\x8b\x08\x00"), ErrNotKernel, "it is a gzip-compressed file"},
		{"cpio", []byte("07070100"), ErrNotKernel, "it is a cpio archive, perhaps an initrd"},
		{"EFI program", pe, ErrNotKernel, "it is an EFI program without a Linux setup header"},
		{"aarch64 Image", spoil(pe, 0x38, 'A', 'R', 'M', 0x64), ErrNotKernel, "it is a Linux image for aarch64"},
		{"disk", disk, ErrNotKernel, "it is a boot sector or a disk image"},
		{"binary", []byte{0xDE, 0xAD, 0, 1}, ErrNotKernel, "it begins with the bytes de ad 00 01"},

		{"ELF for aarch64", spoil(vmlinux, 18, byte(elf.EM_AARCH64)), ErrNotKernel, "it is an ELF file for aarch64"},
		{"ELF for riscv", spoil(vmlinux, 18, byte(elf.EM_RISCV)), ErrNotKernel, "it is an ELF file for riscv"},
		{"ELF for i386", spoil(vmlinux, 18, byte(elf.EM_386)), Err32Bit, "a 32-bit kernel: it is an ELF file for i386"},
		{"x32 ELF", spoil(vmlinux, elf.EI_CLASS, byte(elf.ELFCLASS32)), Err32Bit, "it is a 32-bit ELF file"},
		{"big-endian ELF", spoil(vmlinux, elf.EI_DATA, byte(elf.ELFDATA2MSB)), ErrNotKernel, "it is a big-endian ELF file"},
		{"shared object", spoil(vmlinux, 16, byte(elf.ET_DYN)), ErrNotKernel, "it is an ELF file of type ET_DYN"},
		{"ELF header cut", vmlinux[:40], ErrTruncated, "the image is truncated: an ELF header has 64 bytes and the file 40"},
		{"program headers cut", vmlinux[:100], ErrTruncated, "its program headers end at byte 176 and the file at byte 100"},
		{"segment cut", vmlinux[:len(vmlinux)-1], ErrTruncated, "a segment ends at byte 9861 and the file at byte 9860"},
		{"segment offset overflows", spoil(vmlinux, phoff+8, bytes.Repeat([]byte{0xFF}, 8)...), ErrTruncated, "a segment ends at byte"},
		{"no program headers", spoil(vmlinux, 56, 0, 0), ErrDamaged, "0 program headers of 56 bytes"},
		{"many program headers", spoil(vmlinux, 56, 0xFF, 0xFF), ErrDamaged, "65535 program headers"},
		{"program header table overflows", spoil(vmlinux, 32, bytes.Repeat([]byte{0xFF}, 8)...), ErrTruncated, "its program headers end"},
		{"nothing to load", makeELF(t, testEntry, elfSegment{testEntry, 0, nil}), ErrNotKernel, "with nothing to load"},
		{"user program", makeELF(t, 0x40_0000, elfSegment{0x1000, 4, testRW[:4]}), ErrNotKernel, "it is an ELF file to be loaded at 0x1000"},
		{"address overflows", makeELF(t, testEntry, elfSegment{math.MaxUint64 - 2, 4, testRW[:4]}), ErrDamaged, "a segment at 0xfffffffffffffffd"},
		{"more in file than memory", makeELF(t, testEntry, elfSegment{testEntry, 3, testRW[:4]}), ErrDamaged, "4 bytes in the file and 3 in memory"},
		{"overlap", makeELF(t, testEntry, elfSegment{testEntry + 3, 4, testRW[:4]}, elfSegment{testEntry, 4, testRW[:4]}), ErrDamaged,
			"its segments at 0x1000000 and 0x1000003 overlap"},
		{"virtual entry", makeELF(t, 0xffffffff_81000000, elfSegment{testEntry, 4, testRW[:4]}), ErrNotKernel, "entry point 0xffffffff81000000 is no physical address"},

		{"bzImage header cut", bzImage[:0x250], ErrTruncated, "a setup header ends at byte 656 and the file at byte 592"},
		{"bzImage cut", bzImage[:3000], ErrTruncated, "the image is truncated: it should have at least 3472 bytes and has 3000"},
		{"payload outside", header(func(p *params) { p.put32(offPayloadOffset, math.MaxUint32) }), ErrTruncated, "it should have at least"},
		{"payload too long", header(func(p *params) { p.put32(offPayloadLength, math.MaxUint32) }), ErrTruncated, "it should have at least"},
		{"old protocol", header(func(p *params) { p.put16(offVersion, 0x020A) }), ErrTooOld,
			"the kernel is too old: it has boot protocol 2.10, and Whiterun needs 2.12, that is Linux 3.8 or later"},
		{"zImage", header(func(p *params) { p[offLoadFlags] = 0 }), ErrTooOld, "it is a zImage"},
		{"32-bit bzImage", header(func(p *params) { p.put16(offXLoadFlags, 0) }), Err32Bit, "a 32-bit kernel: its bzImage has no 64-bit entry point"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, "kernel", tt.image)
			_, err := Inspect(path)
			if !errors.Is(err, tt.is) || !strings.HasPrefix(err.Error(), "kernel "+path+": ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			if _, again := Load(t.Context(), newMemory(t, testRAM), Spec{Kernel: path}); again == nil || again.Error() != err.Error() {
				t.Errorf("Load says %v", again)
			}
		})
	}
}

// TestBadPayload has the images that only Load finds out about.
func TestBadPayload(t *testing.T) {
	vmlinux := testVMLinux(t)
	size := func(payload []byte, n uint32) []byte {
		payload = bytes.Clone(payload)
		binary.LittleEndian.PutUint32(payload[len(payload)-sizeField:], n)
		return payload
	}
	aarch64 := bytes.Clone(vmlinux)
	aarch64[18] = byte(elf.EM_AARCH64)
	unknown := compress(t, "unknown", vmlinux)
	tests := []struct {
		name  string
		image []byte
		is    error
		want  string
	}{
		{"a bomb by its own word", makeBzImage(t, size(compress(t, "zstd", vmlinux), 3<<30), nil), ErrDamaged, "decompress to 3072 MiB, and Whiterun allows 512"},
		{"a bomb", makeBzImage(t, size(compress(t, "zstd", make([]byte, 100<<20)), 1<<20), nil), ErrDamaged, "longer than the 1048576 bytes"},
		{"shorter than said", makeBzImage(t, size(compress(t, "lz4", vmlinux), 10000), nil), ErrDamaged, "its lz4 payload has 9861 bytes instead of 10000"},
		{"tiny", makeBzImage(t, compress(t, "gzip", vmlinux)[:3], nil), ErrDamaged, "its payload has 3 bytes"},
		{"no ELF inside", makeBzImage(t, compress(t, "zstd", aarch64), nil), ErrNotKernel, "its zstd payload: not a Linux kernel for x86_64: it is an ELF file for aarch64"},
		{"at address 0", makeBzImage(t, unknown, func(p *params) { p.put64(offPrefAddress, 0); p[offRelocatableKernel] = 0 }), ErrDamaged, "it wants to be loaded at 0x0"},
		{"far away", makeBzImage(t, unknown, func(p *params) { p.put64(offPrefAddress, math.MaxUint64-1) }), ErrDamaged, "it wants to be loaded at 0xfffffffffffffffe"},
		{"needs all", makeBzImage(t, unknown, func(p *params) { p.put32(offInitSize, math.MaxUint32) }), ErrMemory, "must stay below 0xc0000000"},
		{"no code", makeBzImage(t, nil, func(p *params) { p.put32(offSysSize, 16); p.put32(offPayloadOffset, 0) }), ErrDamaged, "its protected-mode code has 256 bytes"},
	}
	for _, format := range []string{"zstd", "gzip", "xz", "lz4"} {
		payload := compress(t, format, vmlinux)
		clear(payload[20 : len(payload)-8])
		tests = append(tests, struct {
			name  string
			image []byte
			is    error
			want  string
		}{"damaged " + format, makeBzImage(t, payload, nil), ErrDamaged, "its " + format + " payload"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Load(t.Context(), newMemory(t, testRAM), Spec{Kernel: writeFile(t, "bzImage", tt.image), CacheDir: dir})
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left in the cache: %v", left)
			}
		})
	}
}

func TestRelocatableWithoutAddress(t *testing.T) {
	image := makeBzImage(t, compress(t, "unknown", testVMLinux(t)), func(p *params) { p.put64(offPrefAddress, 0) })
	start, err := Load(t.Context(), newMemory(t, testRAM), Spec{Kernel: writeFile(t, "bzImage", image)})
	if err != nil || start.Entry != 2<<20+entry64 {
		t.Errorf("got %+v, %v", start, err)
	}
}

// TestBannerAcrossPieces puts the banner at every place around the end of a
// piece of the search.
func TestBannerAcrossPieces(t *testing.T) {
	want := strings.Repeat("v", 300)
	for before := copyChunk - 400; before < copyChunk+20; before += 7 {
		data := append(make([]byte, before), bannerPrefix...)
		data = append(append(data, want...), make([]byte, 100)...)
		image := makeELF(t, testEntry, elfSegment{testEntry, uint64(len(data)), data})
		e, err := parseELF(bytes.NewReader(image), uint64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		if got := e.banner(); got != want {
			t.Fatalf("banner at %d: %d bytes of %d", before, len(got), len(want))
		}
	}
}

func TestLZ4Blocks(t *testing.T) {
	// More than one block, and a second frame behind the first.
	data := bytes.Repeat([]byte("0123456789abcdef"), 9<<20/16)
	frame := compress(t, "lz4", data)
	frame = frame[:len(frame)-sizeField]
	got, err := io.ReadAll(&lz4Reader{r: bytes.NewReader(append(bytes.Clone(frame), frame...))})
	if err != nil || !bytes.Equal(got, append(bytes.Clone(data), data...)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, bad := range [][]byte{
		frame[4:], frame[:len(frame)-1], {2, 0x21, 0x4C, 0x18, 0, 0, 0, 0}, {2, 0x21, 0x4C, 0x18, 0, 0, 0, 0x40}, {2, 0x21, 0x4C, 0x18, 1},
	} {
		if _, err := io.ReadAll(&lz4Reader{r: bytes.NewReader(bad)}); err == nil {
			t.Errorf("% x… is no error", bad[:5])
		}
	}
}

// shrunken is a file that lost its end after it was measured.
type shrunken struct{ *bytes.Reader }

func (s shrunken) ReadAt(p []byte, off int64) (int, error) {
	if off > 2000 {
		return 0, io.EOF
	}
	return s.Reader.ReadAt(p, off)
}

func TestShrinkingFile(t *testing.T) {
	image := testVMLinux(t)
	e, err := parseELF(shrunken{bytes.NewReader(image)}, uint64(len(image)))
	if err != nil {
		t.Fatal(err)
	}
	m := newMemory(t, testRAM)
	if _, _, err := e.load(context.Background(), m); !errors.Is(err, ErrTruncated) {
		t.Errorf("got %v", err)
	}
	checkZero(t, m, testEntry, uint64(len(testText)))
}
