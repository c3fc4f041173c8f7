package boot

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/drzln/whiterun/hv/mem"
)

// The synthetic kernel of these tests: two segments with a gap between them,
// the second with a bss.
const (
	testEntry    = 0x100_0000
	testData     = 0x120_0000
	testBSS      = 8192
	testInitSize = 4 << 20
	testBanner   = "6.12.1-test (someone@somewhere) #1 SMP Whiterun"
	testRAM      = 64 << 20
)

var (
	testText = append([]byte("text\x00Linux version %s\x00Linux version "+testBanner+"\n\x00"), bytes.Repeat([]byte("\x90\xe8\x10\x00\x00\x00\xe9"), 800)...)
	testRW   = bytes.Repeat([]byte("data"), 1000)
)

// elfSegment is a program header and its bytes for makeELF.
type elfSegment struct {
	addr, memSize uint64
	data          []byte
}

func makeELF(t testing.TB, entry uint64, segments ...elfSegment) []byte {
	t.Helper()
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: entry,
		Phoff: elfHeaderSize, Ehsize: elfHeaderSize, Phentsize: programHeaderSize, Phnum: uint16(len(segments))}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	image, err := binary.Append(nil, binary.LittleEndian, h)
	if err != nil {
		t.Fatal(err)
	}
	offset := uint64(elfHeaderSize + len(segments)*programHeaderSize)
	for _, s := range segments {
		p := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: offset, Vaddr: 0xffffffff_80000000 + s.addr, Paddr: s.addr,
			Filesz: uint64(len(s.data)), Memsz: s.memSize, Align: 4096}
		if image, err = binary.Append(image, binary.LittleEndian, p); err != nil {
			t.Fatal(err)
		}
		offset += uint64(len(s.data))
	}
	for _, s := range segments {
		image = append(image, s.data...)
	}
	return image
}

func testVMLinux(t testing.TB) []byte {
	return makeELF(t, testEntry,
		elfSegment{testEntry, uint64(len(testText)), testText},
		elfSegment{testData, uint64(len(testRW)) + testBSS, testRW})
}

// compress returns data as the kernel's build would append it to a bzImage.
func compress(t testing.TB, format string, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	switch format {
	case "zstd":
		w, err := zstd.NewWriter(&out)
		check(err)
		_, err = w.Write(data)
		check(err)
		check(w.Close())
	case "gzip":
		w := gzip.NewWriter(&out)
		_, err := w.Write(data)
		check(err)
		check(w.Close())
		return out.Bytes() // ends in the size by itself
	case "lz4":
		w := lz4.NewWriter(&out)
		check(w.Apply(lz4.LegacyOption(true)))
		_, err := w.Write(data)
		check(err)
		check(w.Close())
	case "xz":
		// testdata/vmlinux.xz.hex is testVMLinux through
		// xz --check=crc32 --x86 --lzma2=dict=32MiB | xxd -p.
		text, err := os.ReadFile("testdata/vmlinux.xz.hex")
		check(err)
		golden, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		check(err)
		out.Write(golden)
	case "bzip2":
		out.WriteString("BZh9" + string(data[:100]))
	case "unknown":
		out.WriteString("????" + string(data[:100]))
	default:
		t.Fatalf("no compressor for %s", format)
	}
	return binary.LittleEndian.AppendUint32(out.Bytes(), uint32(len(data)))
}

// makeBzImage returns a bzImage of protocol 2.15 around a payload, with five
// setup sectors and the banner in them. change may spoil the header.
func makeBzImage(t testing.TB, payload []byte, change func(p *params)) []byte {
	t.Helper()
	const (
		setupSects    = 4
		bannerOffset  = 0x400
		payloadOffset = 0x2CC
	)
	code := append(bytes.Repeat([]byte{0xCC}, payloadOffset), payload...)
	for len(code)%16 != 0 {
		code = append(code, 0)
	}
	p := new(params)
	p[offSetupSects] = setupSects
	p.put32(offSysSize, uint32(len(code)/16))
	p.put16(offBootFlag, bootFlag)
	p[offJump], p[offJump+1] = 0xEB, 0x6A
	p.put32(offMagic, headerMagic)
	p.put16(offVersion, 0x020F)
	p.put16(offKernelVersion, bannerOffset-offJump)
	p[offLoadFlags] = loadedHigh
	p.put32(offInitrdAddrMax, 0x7FFF_FFFF)
	p.put32(offKernelAlignment, 2<<20)
	p[offRelocatableKernel] = 1
	p.put16(offXLoadFlags, 0x7F)
	p.put32(offCmdLineSize, 2047)
	p.put32(offPayloadOffset, payloadOffset)
	p.put32(offPayloadLength, uint32(len(payload)))
	p.put64(offPrefAddress, testEntry)
	p.put32(offInitSize, testInitSize)
	for i := 0x26C; i < endSetupHeader; i++ {
		p[i] = 0xCC // code behind the header
	}
	if change != nil {
		change(p)
	}
	image := make([]byte, (setupSects+1)*sectorSize)
	copy(image, p[:0x3C0])
	copy(image[bannerOffset:], testBanner+"\x00rubbish")
	return append(image, code...)
}

// writeFile puts data into a new file and returns its path.
func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newMemory(t testing.TB, size uint64) *mem.Memory {
	t.Helper()
	m, err := mem.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func view(t testing.TB, m *mem.Memory, gpa, n uint64) []byte {
	t.Helper()
	b, err := m.Slice(gpa, n)
	if err != nil {
		t.Fatalf("%#x bytes at %#x: %v", n, gpa, err)
	}
	return b
}

// checkPlaced compares guest memory with the synthetic kernel.
func checkPlaced(t testing.TB, m *mem.Memory) {
	t.Helper()
	if !bytes.Equal(view(t, m, testEntry, uint64(len(testText))), testText) {
		t.Error("the text segment is not in place")
	}
	if !bytes.Equal(view(t, m, testData, uint64(len(testRW))), testRW) {
		t.Error("the data segment is not in place")
	}
	checkZero(t, m, testData+uint64(len(testRW)), testBSS)
}

func checkZero(t testing.TB, m *mem.Memory, gpa, n uint64) {
	t.Helper()
	for i, b := range view(t, m, gpa, n) {
		if b != 0 {
			t.Fatalf("byte at %#x is %#x, not zero", gpa+uint64(i), b)
		}
	}
}
