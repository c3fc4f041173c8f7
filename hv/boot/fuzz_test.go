package boot

import (
	"bytes"
	"io"
	"testing"
)

// fuzzMax keeps each run short: no image longer than this is tried, and no
// payload may decompress to more.
const fuzzMax = 1 << 20

// checkELF places a vmlinux that parseELF accepted.
func checkELF(t *testing.T, e *elfImage) {
	t.Helper()
	e.banner()
	if end := e.end(); end > 32<<20 {
		return // nothing to learn from reading zeros
	}
	m := newMemory(t, 32<<20)
	defer m.Close()
	end, _, err := e.load(t.Context(), m)
	if err != nil {
		t.Errorf("an image that parses does not load: %v", err)
	}
	if e.entry >= end {
		t.Errorf("entry %#x is behind the end %#x", e.entry, end)
	}
}

func FuzzELF(f *testing.F) {
	vmlinux := testVMLinux(f)
	f.Add(vmlinux)
	f.Add(vmlinux[:elfHeaderSize])
	f.Add(makeELF(f, testEntry, elfSegment{testEntry, 1 << 40, testRW}))
	f.Fuzz(func(t *testing.T, image []byte) {
		if len(image) > fuzzMax {
			t.Skip()
		}
		if e, err := parseELF(bytes.NewReader(image), uint64(len(image))); err == nil {
			checkELF(t, e)
		}
	})
}

func FuzzBzImage(f *testing.F) {
	vmlinux := testVMLinux(f)
	for _, format := range []string{"zstd", "gzip", "xz", "lz4", "bzip2", "unknown"} {
		f.Add(makeBzImage(f, compress(f, format, vmlinux), nil))
	}
	f.Add(vmlinux)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > fuzzMax {
			t.Skip()
		}
		i, err := parseImage(bytes.NewReader(data), uint64(len(data)))
		if err != nil {
			return
		}
		i.banner()
		if limit := i.commandLineMax(); limit <= 0 || limit > 0xFFFF {
			t.Errorf("command line of at most %d bytes", limit)
		}
		if i.elf != nil || !decompressible(i.compression) {
			return
		}
		if i.code.end() > i.size || i.payload.end() > i.size {
			t.Fatalf("code %+v or payload %+v outside %d bytes", i.code, i.payload, i.size)
		}
		var out bytes.Buffer
		size, err := i.decompress(t.Context(), &out, fuzzMax)
		if out.Len() > fuzzMax {
			t.Fatalf("%d bytes written", out.Len())
		}
		if err != nil {
			return
		}
		if e, err := parseELF(bytes.NewReader(out.Bytes()), size); err == nil {
			checkELF(t, e)
		}
	})
}

func FuzzCacheFile(f *testing.F) {
	image := testVMLinux(f)
	e, err := parseELF(bytes.NewReader(image), uint64(len(image)))
	if err != nil {
		f.Fatal(err)
	}
	_, sum, err := e.load(f.Context(), newMemory(f, 32<<20))
	if err != nil {
		f.Fatal(err)
	}
	whole := append(image, trailer{uint64(len(image)), e.headers, sum}.encode()...)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(whole[len(image):])
	f.Fuzz(func(t *testing.T, entry []byte) {
		if len(entry) > fuzzMax {
			t.Skip()
		}
		if e, _, ok := parseEntry(bytes.NewReader(entry), uint64(len(entry))); ok {
			checkELF(t, e)
		}
	})
}

func FuzzLZ4(f *testing.F) {
	frame := compress(f, "lz4", testVMLinux(f))
	f.Add(frame)
	f.Add(frame[:len(frame)-sizeField])
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > 4096 {
			t.Skip()
		}
		io.Copy(io.Discard, io.LimitReader(&lz4Reader{r: bytes.NewReader(frame)}, 2*lz4BlockSize))
	})
}

func FuzzDescribe(f *testing.F) {
	f.Add([]byte("MZ"))
	f.Add([]byte("text \xc3"))
	f.Fuzz(func(t *testing.T, head []byte) {
		if describe(head) == "" {
			t.Error("nothing to say")
		}
	})
}
