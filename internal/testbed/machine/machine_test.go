package machine

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestCPIO(t *testing.T) {
	var archive bytes.Buffer
	w := newCPIO(&archive)
	w.dir("d")
	w.file("d/f", 0o755, []byte("hello"))
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	entry := func(inode, mode, size, nameSize string) string {
		zero := "00000000"
		return "070701" + inode + mode + zero + zero + "00000001" + zero + size + zero + zero + zero + zero + nameSize + zero
	}
	want := entry("00000001", "000041ED", "00000000", "00000002") + "d\x00" +
		entry("00000002", "000081ED", "00000005", "00000004") + "d/f\x00\x00\x00" + "hello\x00\x00\x00" +
		entry("00000003", "00000000", "00000000", "0000000B") + "TRAILER!!!\x00\x00\x00\x00"
	if archive.String() != want {
		t.Errorf("got\n%q\nwant\n%q", archive.String(), want)
	}
}

func TestModuleOrder(t *testing.T) {
	folder := fstest.MapFS{
		"modules.builtin":                         {Data: []byte("kernel/drivers/virtio/virtio_pci.ko\n")},
		"kernel/fs/9p/9p.ko":                      {Data: moduleImage("9pnet,netfs")},
		"kernel/fs/netfs.ko":                      {Data: moduleImage("")},
		"kernel/net/9p/9pnet.ko":                  {Data: moduleImage("")},
		"kernel/net/9p/9pnet_virtio.ko":           {Data: moduleImage("9pnet,virtio_ring")},
		"kernel/drivers/virtio/virtio-ring.ko":    {Data: moduleImage("")},
		"kernel/drivers/broken/broken.ko":         {Data: []byte("no ELF")},
		"kernel/drivers/broken/needs-nowhere.ko":  {Data: moduleImage("nowhere")},
		"kernel/drivers/compressed/squeezed.ko.x": {Data: nil},
	}
	index, err := indexModules(folder)
	if err != nil {
		t.Fatal(err)
	}
	modules, err := index.order("virtio_pci", "9pnet-virtio", "9p")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, module := range modules {
		got = append(got, module.name)
	}
	if want := []string{"9pnet", "virtio_ring", "9pnet_virtio", "netfs", "9p"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, name := range []string{"absent", "broken", "needs_nowhere", "squeezed"} {
		if _, err := index.order(name); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
}

// moduleImage returns an ELF file with nothing but a .modinfo.
func moduleImage(depends string) []byte {
	const headerSize, sectionSize = 64, 64
	info := "license=GPL\x00depends=" + depends + "\x00name=x\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	infoAt := uint64(headerSize)
	namesAt := infoAt + uint64(len(info))
	sectionsAt := namesAt + uint64(len(names))
	var image bytes.Buffer
	write := func(v any) { _ = binary.Write(&image, binary.LittleEndian, v) }
	write(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: sectionsAt, Ehsize: headerSize, Shentsize: sectionSize, Shnum: 3, Shstrndx: 2,
	})
	image.WriteString(info + names)
	write(elf.Section64{})
	write(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: infoAt, Size: uint64(len(info))})
	write(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))})
	return image.Bytes()
}

func TestFrames(t *testing.T) {
	var line bytes.Buffer
	w := newFrameWriter(&line)
	long := bytes.Repeat([]byte("x"), maxFrame+1)
	if err := w.send(frameOut, long); !errors.Is(err, errFrame) {
		t.Errorf("too long a frame: %v", err)
	}
	if n, err := (stream{w, frameOut}).Write(long); n != len(long) || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if err := w.send(frameStatus, []byte{3}); err != nil {
		t.Fatal(err)
	}
	r := &frameReader{r: &line}
	for _, want := range []struct {
		kind frameKind
		size int
	}{{frameOut, maxFrame}, {frameOut, 1}, {frameStatus, 1}} {
		kind, payload, err := r.next()
		if err != nil || kind != want.kind || len(payload) != want.size {
			t.Errorf("got %c, %d bytes, %v", kind, len(payload), err)
		}
	}
	if _, _, err := r.next(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("u\x00\x00\x00\x00o\x02\x00\x00\x00hi"))
	f.Add([]byte("o\xff\xff\xff\xff"))
	f.Add([]byte("s\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &frameReader{r: bytes.NewReader(data)}
		for {
			if _, payload, err := r.next(); err != nil {
				return
			} else if len(payload) > maxFrame {
				t.Fatalf("a payload of %d bytes", len(payload))
			}
		}
	})
}

func TestHardware(t *testing.T) {
	config := Config{QEMU: QEMU{"/q"}, Kernel: "/boot/k", Image: "/c/a,b", MemoryMiB: 512}
	shares := []Share{{Source: "/src,1", Target: "/src"}, {Source: "/o", Target: "/out", Writable: true}}
	args := strings.Join(hardware(config, shares, false), " ")
	for _, want := range []string{
		"-smp 1 ", "-cpu max,+svm", "-m 512 ", "-kernel /boot/k",
		"highres=off nohz=off", "snapshot=on,file=/c/a,,b",
		"path=/src,,1,mount_tag=share0,security_model=none,multidevs=remap,readonly=on",
		"path=/o,mount_tag=share1,security_model=none,multidevs=remap,readonly=off",
	} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in %s", want, args)
		}
	}
	if args := strings.Join(hardware(config, nil, true), " "); !strings.Contains(args, "snapshot=off") {
		t.Errorf("a root to keep is a snapshot: %s", args)
	}
	program, all := config.QEMU.command("-M", "q35")
	if program != "/q/lib64/ld-linux-x86-64.so.2" || all[2] != "/q/usr/bin/qemu-system-x86_64" || all[len(all)-1] != "q35" {
		t.Errorf("%s %v", program, all)
	}
}

func TestPassedEnv(t *testing.T) {
	got := PassedEnv([]string{"WHITERUN_SOAK=1", "WHITERUN_TESTBED=nested", "GOMAXPROCS=1", "GOCACHE=/x", "HOME=/h", "PATH=/p"})
	if want := []string{"WHITERUN_SOAK=1", "GOMAXPROCS=1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHasVirtualisation(t *testing.T) {
	tests := []struct {
		cpuinfo string
		want    bool
	}{
		{"model name\t: vmx\nflags\t\t: fpu svm\n", true},
		{"flags\t\t: fpu vmx sse\n", true},
		{"flags\t\t: fpu vmx2\nvmx flags\t: vnmi\nbugs\t: svm\n", false},
		{"", false},
	}
	for _, test := range tests {
		if got := hasVirtualisation(test.cpuinfo); got != test.want {
			t.Errorf("%q: %t", test.cpuinfo, got)
		}
	}
}

// TestConverse plays the guest's half on the other end of the line.
func TestConverse(t *testing.T) {
	tests := []struct {
		name   string
		guest  func(w *frameWriter)
		status int
		err    error
	}{
		{"status", func(w *frameWriter) {
			_ = w.send(frameBeat, nil)
			_ = w.send(frameUp, nil)
			_ = w.send(frameOut, []byte("out"))
			_ = w.send(frameErr, []byte("err"))
			_ = w.send(frameStatus, []byte{42})
		}, 42, nil},
		{"cannot run", func(w *frameWriter) { _ = w.send(frameFailed, []byte("why")) }, 0, ErrJob},
		{"dies", func(w *frameWriter) { _ = w.send(frameUp, nil) }, 0, ErrMachine},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			line, far, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer line.Close()
			go func() {
				test.guest(newFrameWriter(far))
				if test.err == nil {
					// The acknowledgement.
					_, _ = far.Read(make([]byte, 64))
				}
				far.Close()
			}()
			var out, errs strings.Builder
			limits := limits{boot: time.Minute, quiet: time.Minute}
			status, err := converse(context.Background(), line, Streams{Out: &out, Err: &errs}, limits)
			if status != test.status || !errors.Is(err, test.err) {
				t.Errorf("got %d, %v", status, err)
			}
			if test.err == nil && (out.String() != "out" || errs.String() != "err") {
				t.Errorf("output %q, %q", out.String(), errs.String())
			}
		})
	}
}

func TestWatchdog(t *testing.T) {
	line, far, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	defer far.Close()
	go func() {
		w := newFrameWriter(far)
		for range 5 {
			time.Sleep(20 * time.Millisecond)
			_ = w.send(frameBeat, nil)
		}
	}()
	start := time.Now()
	limits := limits{boot: 10 * time.Second, quiet: 200 * time.Millisecond}
	_, err = converse(context.Background(), line, Streams{Out: io.Discard, Err: io.Discard}, limits)
	if !errors.Is(err, ErrMachine) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took < 250*time.Millisecond || took > 5*time.Second {
		t.Errorf("noticed after %s", took)
	}
}

func TestRetry(t *testing.T) {
	tests := []struct {
		name  string
		errs  []error
		calls int
		err   error
	}{
		{"success", []error{nil}, 1, nil},
		{"machine, then success", []error{ErrMachine, nil}, 2, nil},
		{"machine, twice", []error{ErrMachine, ErrMachine, nil}, 2, ErrMachine},
		{"another failure", []error{ErrJob, nil}, 1, ErrJob},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var log strings.Builder
			calls := 0
			_, err := Retry(context.Background(), &log, func() (int, error) {
				calls++
				return 0, test.errs[calls-1]
			})
			if calls != test.calls || !errors.Is(err, test.err) {
				t.Errorf("%d calls, %v", calls, err)
			}
			if said := strings.Contains(log.String(), "once more"); said != (calls > 1) {
				t.Errorf("said %q", log.String())
			}
		})
	}
}

func TestTail(t *testing.T) {
	var end tail
	for range 100 {
		_, _ = end.Write(bytes.Repeat([]byte("a"), 100))
	}
	_, _ = end.Write([]byte("panic\r\n"))
	if got := end.last(); !bytes.HasSuffix(got, []byte("apanic")) || len(got) > tailSize {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestNamespaceRefusesTheHost(t *testing.T) {
	// Not the first process: nothing may be mounted.
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if err := checkNamespace("another"); err == nil {
		t.Error("took this process for the first of a namespace")
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !bytes.Equal(mounts, after) {
		t.Errorf("the mounts changed: %v", err)
	}
}
