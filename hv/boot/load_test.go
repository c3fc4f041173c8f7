package boot

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/x86"
)

func TestLoadFormats(t *testing.T) {
	vmlinux := testVMLinux(t)
	tests := []struct {
		name   string
		image  []byte
		format string
	}{
		{"vmlinux", vmlinux, "vmlinux"},
		{"zstd", makeBzImage(t, compress(t, "zstd", vmlinux), nil), "bzImage (zstd)"},
		{"gzip", makeBzImage(t, compress(t, "gzip", vmlinux), nil), "bzImage (gzip)"},
		{"xz", makeBzImage(t, compress(t, "xz", vmlinux), nil), "bzImage (xz)"},
		{"lz4", makeBzImage(t, compress(t, "lz4", vmlinux), nil), "bzImage (lz4)"},
		{"signed", append(makeBzImage(t, compress(t, "lz4", vmlinux), nil), make([]byte, 1477)...), "bzImage (lz4)"},
		{"setup_sects 0", makeBzImage(t, compress(t, "zstd", vmlinux), func(p *params) { p[offSetupSects] = 0 }), "bzImage (zstd)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(t, testRAM)
			path := writeFile(t, "kernel", tt.image)
			start, err := Load(t.Context(), m, Spec{Kernel: path, CommandLine: "quiet"})
			if err != nil {
				t.Fatal(err)
			}
			want := Start{Entry: testEntry, ZeroPage: x86.ZeroPageStart, Format: tt.format,
				KernelVersion: "6.12.1-test", KernelBanner: testBanner}
			if start != want {
				t.Errorf("got  %+v\nwant %+v", start, want)
			}
			checkPlaced(t, m)
		})
	}
}

func TestLoadDecompressingItself(t *testing.T) {
	for _, format := range []string{"bzip2", "unknown"} {
		t.Run(format, func(t *testing.T) {
			image := makeBzImage(t, compress(t, format, testVMLinux(t)), nil)
			image = append(image, bytes.Repeat([]byte{7}, 64)...) // a signature, not to be loaded
			m := newMemory(t, testRAM)
			start, err := Load(t.Context(), m, Spec{Kernel: writeFile(t, "bzImage", image)})
			if err != nil {
				t.Fatal(err)
			}
			if start.Format != "bzImage, decompressing itself" || start.Entry != testEntry+0x200 {
				t.Errorf("got %+v", start)
			}
			code := image[5*sectorSize : len(image)-64]
			if !bytes.Equal(view(t, m, testEntry, uint64(len(code))), code) {
				t.Error("the protected-mode code is not in place")
			}
			checkZero(t, m, testEntry+uint64(len(code)), 64)
			zp := view(t, m, x86.ZeroPageStart, 4096)
			if got := binary.LittleEndian.Uint32(zp[offCode32Start:]); got != testEntry {
				t.Errorf("code32_start is %#x", got)
			}
		})
	}
}

func TestZeroPage(t *testing.T) {
	image := makeBzImage(t, compress(t, "zstd", testVMLinux(t)), func(p *params) { p[offLoadFlags] |= canUseHeap | kaslrFlag })
	m := newMemory(t, testRAM)
	first, second := bytes.Repeat([]byte{1}, 4097), bytes.Repeat([]byte{2}, 100)
	_, err := Load(t.Context(), m, Spec{
		Kernel:      writeFile(t, "bzImage", image),
		Initrds:     []string{writeFile(t, "a", first), writeFile(t, "b", second)},
		CommandLine: "console=hvc0 init=/nix",
		RSDP:        x86.ACPIStart,
		Rand:        strings.NewReader(strings.Repeat("R", 32)),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := (*params)(view(t, m, x86.ZeroPageStart, 4096))
	const ramdisk = testRAM - 2*4096 // 4097 padded to 4100, and 100: two pages, ending on the last
	for _, f := range []struct {
		name      string
		got, want uint64
	}{
		{"acpi_rsdp_addr", p.u64(offACPIRSDPAddr), x86.ACPIStart},
		{"boot_flag", uint64(p.u16(offBootFlag)), 0xAA55},
		{"header", uint64(p.u32(offMagic)), headerMagic},
		{"version", uint64(p.u16(offVersion)), 0x020F},
		{"type_of_loader", uint64(p[offTypeOfLoader]), 0xFF},
		{"loadflags", uint64(p[offLoadFlags]), loadedHigh},
		{"vid_mode", uint64(p.u16(offVidMode)), 0xFFFF},
		{"ramdisk_image", uint64(p.u32(offRamdiskImage)), ramdisk},
		{"ramdisk_size", uint64(p.u32(offRamdiskSize)), 4100 + 100},
		{"cmd_line_ptr", uint64(p.u32(offCmdLinePtr)), x86.CommandLineStart},
		{"setup_data", p.u64(offSetupData), x86.SetupDataStart},
		{"xloadflags", uint64(p.u16(offXLoadFlags)), 0x7F},
		{"init_size", uint64(p.u32(offInitSize)), testInitSize},
		{"behind the setup header", uint64(p.u32(0x26C)), 0},
		{"sentinel", uint64(p[0x1EF]), 0},
		{"e820_entries", uint64(p[offE820Entries]), uint64(len(x86.MemoryMap(m)))},
	} {
		if f.got != f.want {
			t.Errorf("%s is %#x, want %#x", f.name, f.got, f.want)
		}
	}
	for i, e := range x86.MemoryMap(m) {
		at := offE820Table + i*20
		if p.u64(at) != e.Start || p.u64(at+8) != e.Size || p.u32(at+16) != uint32(e.Type) {
			t.Errorf("e820 range %d is not %+v", i, e)
		}
	}
	loaded := view(t, m, ramdisk, 4200)
	if !bytes.Equal(loaded[:4097], first) || !bytes.Equal(loaded[4097:4100], []byte{0, 0, 0}) || !bytes.Equal(loaded[4100:], second) {
		t.Error("the initrds are not back to back")
	}
	if got := view(t, m, x86.CommandLineStart, 23); string(got) != "console=hvc0 init=/nix\x00" {
		t.Errorf("command line is %q", got)
	}
	wantSeed := "\x00\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x20\x00\x00\x00" + strings.Repeat("R", 32)
	if got := view(t, m, x86.SetupDataStart, 48); string(got) != wantSeed {
		t.Errorf("setup_data is %q", got)
	}
}

func TestFreshSeeds(t *testing.T) {
	a, errA := setupData(nil)
	b, errB := setupData(nil)
	if errA != nil || errB != nil || bytes.Equal(a, b) {
		t.Errorf("two seeds: %x %v, %x %v", a, errA, b, errB)
	}
	if _, err := setupData(strings.NewReader("short")); err == nil {
		t.Error("a short source of randomness is no error")
	}
}

func TestInitrdPlace(t *testing.T) {
	const mib = 1 << 20
	path := writeFile(t, "initrd", make([]byte, 3*mib))
	tests := []struct {
		name      string
		ram       uint64
		kernelEnd uint64
		last      uint64
		want      uint64
		err       string
	}{
		{"top of RAM", 64 * mib, 32 * mib, 0x7FFF_FFFF, 61 * mib, ""},
		{"just fits", 64 * mib, 61*mib - 5, 0x7FFF_FFFF, 61 * mib, ""},
		{"header's limit", 64 * mib, 16 * mib, 40*mib - 1, 37 * mib, ""},
		{"no limit in the header", 1024 * mib, 16 * mib, 0, oldInitrdMax + 1 - 3*mib, ""},
		{"below the hole", 4096 * mib, 16 * mib, 0xFFFF_FFFF, mem.HoleStart - 3*mib, ""},
		{"too little RAM", 64 * mib, 61*mib + 1, 0x7FFF_FFFF, 0, "does not fit into guest memory: at least 65 MiB are needed and the machine has 64: raise --mem"},
		{"above the header's limit", 64 * mib, 38 * mib, 40*mib - 1, 0, "takes an initrd below 0x2800000 only"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := openInitrds([]string{path})
			if err != nil {
				t.Fatal(err)
			}
			defer all.close()
			at, err := all.load(t.Context(), newMemory(t, tt.ram), tt.kernelEnd, tt.last)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !errors.Is(err, ErrMemory) {
					t.Errorf("got %v, want … %s", err, tt.err)
				}
				return
			}
			if err != nil || at.start != tt.want || at.size != 3*mib {
				t.Errorf("got %#x, %v, want %#x", at, err, tt.want)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	kernel := writeFile(t, "bzImage", makeBzImage(t, compress(t, "zstd", testVMLinux(t)), nil))
	big := writeFile(t, "big", make([]byte, 60<<20))
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		spec Spec
		ram  uint64
		is   error
		want string
	}{
		{"no kernel", Spec{Kernel: dir + "/none"}, testRAM, os.ErrNotExist, "kernel " + dir + "/none: no such file or directory"},
		{"kernel is a directory", Spec{Kernel: dir}, testRAM, nil, "kernel " + dir + ": is a directory, not a file"},
		{"kernel is a device", Spec{Kernel: "/dev/null"}, testRAM, nil, "kernel /dev/null: is not a regular file"},
		{"kernel is a pipe", Spec{Kernel: pipe}, testRAM, nil, "kernel " + pipe + ": is not a regular file"},
		{"no initrd", Spec{Kernel: kernel, Initrds: []string{dir + "/none"}}, testRAM, os.ErrNotExist, "initrd " + dir + "/none: no such file or directory"},
		{"initrd is a directory", Spec{Kernel: kernel, Initrds: []string{dir}}, testRAM, nil, "initrd " + dir + ": is a directory, not a file"},
		{"initrd is empty", Spec{Kernel: kernel, Initrds: []string{writeFile(t, "empty", nil)}}, testRAM, errEmpty, "is empty"},
		{"initrds too big", Spec{Kernel: kernel, Initrds: []string{big, big}}, testRAM, ErrMemory,
			"initrd " + big + " and 1 more does not fit into guest memory: at least 140 MiB are needed and the machine has 64: raise --mem"},
		{"kernel too big", Spec{Kernel: kernel}, 18 << 20, ErrMemory,
			"kernel " + kernel + ": it does not fit into guest memory: at least 20 MiB are needed and the machine has 18: raise --mem"},
		{"hardly any memory", Spec{Kernel: kernel}, 64 << 10, ErrMemory, "raise --mem"},
		{"long command line", Spec{Kernel: kernel, CommandLine: strings.Repeat("x", 2300)}, testRAM, ErrCommandLine,
			"command line is 2300 bytes long and this kernel takes at most 2047: shorten --append or the system's kernelParams"},
		{"NUL in command line", Spec{Kernel: kernel, CommandLine: "a\x00b"}, testRAM, ErrCommandLine, `command line has '\x00' at byte 1: it must be one line of text`},
		{"newline in command line", Spec{Kernel: kernel, CommandLine: "ab\n"}, testRAM, ErrCommandLine, `command line has '\n' at byte 2`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(t.Context(), newMemory(t, tt.ram), tt.spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
		})
	}
}

func TestCommandLineFits(t *testing.T) {
	kernel := writeFile(t, "vmlinux", testVMLinux(t))
	line := strings.Repeat("x", 2047)
	m := newMemory(t, testRAM)
	if _, err := Load(t.Context(), m, Spec{Kernel: kernel, CommandLine: line}); err != nil {
		t.Fatal(err)
	}
	if got := view(t, m, x86.CommandLineStart, 2048); string(got) != line+"\x00" {
		t.Error("the command line is not whole")
	}
}

func TestLoadCanceled(t *testing.T) {
	stopped := errors.New("stopped by the user")
	for _, format := range []string{"zstd", "gzip", "xz", "lz4", "unknown"} {
		dir := t.TempDir()
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(stopped)
		kernel := writeFile(t, "bzImage", makeBzImage(t, compress(t, format, testVMLinux(t)), nil))
		_, err := Load(ctx, newMemory(t, testRAM), Spec{Kernel: kernel, CacheDir: dir})
		if !errors.Is(err, stopped) {
			t.Errorf("%s: got %v", format, err)
		}
		if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
			t.Errorf("%s: left behind: %v", format, left)
		}
		if left, _ := filepath.Glob(dir + "/.*.tmp"); len(left) > 0 {
			t.Errorf("%s: left behind: %v", format, left)
		}
	}
}

// stopAfterFirst cancels a context at the first write.
type stopAfterFirst struct {
	cancel context.CancelFunc
	writes int
}

func (s *stopAfterFirst) Write(p []byte) (int, error) {
	s.cancel()
	s.writes++
	return len(p), nil
}

// TestDecompressStops ends a decompression in the middle: it stops at the next
// piece, and no goroutine of a decoder stays.
func TestDecompressStops(t *testing.T) {
	data := bytes.Repeat(testText, 8<<20/len(testText))
	before := runtime.NumGoroutine()
	for _, format := range []string{"zstd", "gzip", "lz4"} {
		image := makeBzImage(t, compress(t, format, data), nil)
		i, err := parseImage(bytes.NewReader(image), uint64(len(image)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w := &stopAfterFirst{cancel: cancel}
		if _, err := i.decompress(ctx, w, payloadMax); !errors.Is(err, context.Canceled) || w.writes != 1 {
			t.Errorf("%s: %v after %d writes", format, err, w.writes)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}
