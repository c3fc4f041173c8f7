package hv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/pkg/manifest"
)

// The tests with tiny guests run on any KVM, the software kind included: the
// "kernel" is an ELF of a few hand-assembled instructions, entered by the same
// path as a real one.

// requireKVM skips the test on a machine without KVM.
func requireKVM(t *testing.T) {
	t.Helper()
	system, err := kvm.Open(kvm.DefaultPath)
	if errors.Is(err, kvm.ErrNoDevice) || errors.Is(err, kvm.ErrPermission) {
		t.Skipf("needs KVM: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := system.Close(); err != nil {
		t.Fatal(err)
	}
}

const (
	tinyEntry = 0x100_0000 // guest-physical address of the first instruction
	tinyData  = tinyEntry + 0x1000
)

// code is x86_64 machine code in the making.
type code []byte

func (c code) raw(b ...byte) code { return append(c, b...) }

// out writes byte b to port, by way of DX.
func (c code) out(port uint16, b byte) code {
	return c.raw(0x66, 0xBA, byte(port), byte(port>>8), // mov dx, port
		0xB0, b, // mov al, b
		0xEE) // out dx, al
}

// rbx loads a guest-physical address.
func (c code) rbx(gpa uint64) code {
	return binary.LittleEndian.AppendUint64(c.raw(0x48, 0xBB), gpa)
}

// store writes v, of 4 bytes, to the address in RBX.
func (c code) store(v uint32) code {
	return binary.LittleEndian.AppendUint32(c.raw(0xC7, 0x03), v)
}

// spin loops for ever.
func (c code) spin() code { return c.raw(0xEB, 0xFE) }

// halt sleeps for ever.
func (c code) halt() code { return c.raw(0xFA, 0xF4, 0xEB, 0xFD) }

// powerOff writes the sleep control register.
func (c code) powerOff() code { return c.out(0x601, 5<<2|0x20).halt() }

// tinyELF wraps code in an ELF that a kernel loader takes.
func tinyELF(c code) []byte {
	const headers = 64 + 56
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	b.Write([]byte{0x7F, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put([]uint16{2, 62})
	put(uint32(1))
	put([]uint64{tinyEntry, 64, 0})
	put(uint32(0))
	put([]uint16{64, 56, 1, 64, 0, 0})
	put([]uint32{1, 7})
	put([]uint64{headers, tinyEntry, tinyEntry, uint64(len(c)), 0x4000, 0x1000})
	b.Write(c)
	return b.Bytes()
}

// tinyOptions describes a whole machine around code.
func tinyOptions(t *testing.T, c code, change func(*Options)) Options {
	t.Helper()
	kernel := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(kernel, tinyELF(c), 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{
		Manifest: &manifest.Manifest{
			Version:     manifest.Version,
			Name:        "tiny",
			Kernel:      kernel,
			CPUs:        manifest.CPUs{Sockets: 1, Cores: 1, Threads: 1},
			MemoryBytes: 64 << 20,
		},
		anyKVM: true,
	}
	if change != nil {
		change(&o)
	}
	return o
}

// tinyMachine assembles it.
func tinyMachine(t *testing.T, c code, change func(*Options)) *Machine {
	t.Helper()
	requireKVM(t)
	m, err := New(t.Context(), tinyOptions(t, c, change))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// run runs m and fails the test when that takes longer than a guest of a few
// instructions ever does.
func run(t *testing.T, m *Machine) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	outcome, err := m.Run(ctx)
	if err != nil {
		t.Error(err)
	}
	return outcome
}

func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   code
		want   Reason
		status int
	}{
		{"power off", code{}.powerOff(), PowerOff, 0},
		{"reset register", code{}.out(0x600, 0x42).halt(), Reboot, 133},
		{"keyboard controller", code{}.out(0x64, 0xFE).halt(), Reboot, 133},
		{"pvpanic", code{}.out(0x505, 1).halt(), Panic, 134},
		// A page fault without an interrupt descriptor table.
		{"triple fault", code{}.rbx(1 << 40).store(0), TripleFault, 135},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := run(t, tinyMachine(t, c.code, nil))
			if got.Reason != c.want || got.ExitStatus() != c.status {
				t.Errorf("%v, status %d", got, got.ExitStatus())
			}
		})
	}
}

func TestSerialOutput(t *testing.T) {
	var out bytes.Buffer
	hello := code{}
	for _, b := range []byte("hello\n") {
		hello = hello.out(0x3F8, b)
	}
	if got := run(t, tinyMachine(t, hello.powerOff(), func(o *Options) { o.Output = &out })); got.Reason != PowerOff {
		t.Fatal(got)
	}
	if out.String() != "hello\n" {
		t.Errorf("console shows %q", out.String())
	}
}

// Whatever the guest does, Run returns within a second of its context's end.
func TestStop(t *testing.T) {
	flood := code{}.raw(
		0x66, 0xBA, 0xF8, 0x03, // mov dx, 0x3F8
		0xB0, 'x', // mov al, 'x'
		0xEE,       // out dx, al
		0xEB, 0xFD) // jmp to the out
	stuck := &gate{open: make(chan struct{})}
	defer close(stuck.open)
	for _, c := range []struct {
		name   string
		code   code
		change func(*Options)
	}{
		{"a guest that spins", code{}.spin(), nil},
		{"a guest that sleeps", code{}.halt(), nil},
		{"four vCPUs, three of them never started", code{}.spin(), func(o *Options) { o.Manifest.CPUs.Cores = 4 }},
		{"a guest that floods a console nobody reads", flood, func(o *Options) { o.Output = stuck }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := tinyMachine(t, c.code, c.change)
			ctx, cancel := context.WithCancel(t.Context())
			timer := time.AfterFunc(100*time.Millisecond, cancel)
			defer timer.Stop()
			start := time.Now()
			outcome, _ := m.Run(ctx)
			// The second that is promised, and one for a busy machine.
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("Run returned after %v", took)
			}
			if outcome.Reason != Stopped {
				t.Errorf("outcome %v", outcome)
			}
		})
	}
}

// A guest that has ended is not kept by a console that nobody reads, and loses
// nothing to one that is slow.
func TestEndWithConsole(t *testing.T) {
	// mov ecx, 0x18000; loop: mov dx, 0x3F8; mov al, 'x'; out dx, al; dec ecx; jnz loop
	flood := code{}.raw(0xB9, 0x00, 0x80, 0x01, 0x00).out(0x3F8, 'x').raw(0xFF, 0xC9, 0x75, 0xF5).powerOff()
	t.Run("slow", func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		timer := time.AfterFunc(100*time.Millisecond, func() { close(g.open) })
		defer timer.Stop()
		if got := run(t, tinyMachine(t, flood, func(o *Options) { o.Output = g })); got.Reason != PowerOff {
			t.Error(got)
		}
		if got := g.got.Len(); got != 0x18000 {
			t.Errorf("%d bytes of output, not %d", got, 0x18000)
		}
	})
	t.Run("stuck", func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		defer close(g.open)
		// Fewer bytes than wait for a reader: the guest gets to its end.
		m := tinyMachine(t, code{}.out(0x3F8, 'x').powerOff(), func(o *Options) { o.Output = g })
		if outcome, err := m.Run(t.Context()); outcome.Reason != PowerOff || !errors.Is(err, errConsoleStuck) {
			t.Errorf("%v, %v", outcome, err)
		}
	})
}

func TestStopBeforeStart(t *testing.T) {
	m := tinyMachine(t, code{}.spin(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if outcome, _ := m.Run(ctx); outcome.Reason != Stopped {
		t.Errorf("outcome %v", outcome)
	}
}

func TestPause(t *testing.T) {
	// loop: inc dword [rbx]; jmp loop
	m := tinyMachine(t, code{}.rbx(tinyData).raw(0xFF, 0x03, 0xEB, 0xFC), nil)
	counter, err := m.memory.Slice(tinyData, 4)
	if err != nil {
		t.Fatal(err)
	}
	read := func() uint32 { return binary.LittleEndian.Uint32(counter) }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan Outcome)
	go func() {
		outcome, _ := m.Run(ctx)
		ended <- outcome
	}()
	moves := func() {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for before := read(); read() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the guest does not move")
			}
		}
	}
	moves()
	for range 50 {
		if err := m.Pause(); err != nil {
			t.Fatal(err)
		}
		before := read()
		time.Sleep(time.Millisecond)
		if after := read(); after != before {
			t.Fatalf("a paused guest counted from %d to %d", before, after)
		}
		m.Resume()
	}
	moves()
	if err := m.Pause(); err != nil {
		t.Fatal(err)
	}
	cancel() // a paused machine stops too
	if outcome := <-ended; outcome.Reason != Stopped {
		t.Errorf("outcome %v", outcome)
	}
	if err := m.Pause(); !errors.Is(err, errNotRunning) {
		t.Errorf("pausing a stopped machine: %v", err)
	}
}

// Memory behind the 32-bit hole starts at 4 GiB, and nothing is in the hole.
func TestHighMemory(t *testing.T) {
	c := code{}.
		rbx(tinyData).store(0x1234). // RAM
		rbx(0xD000_0000).store(1).   // nothing, in the 32-bit window
		rbx(0xE000_0000).raw(0x8B, 0x03).
		rbx(tinyData+4).raw(0x89, 0x03). // what ECAM says of 00:00.0
		powerOff()
	m := tinyMachine(t, c, func(o *Options) { o.Manifest.MemoryBytes = 4 << 30 })
	if got := run(t, m); got.Reason != PowerOff {
		t.Fatal(got)
	}
	view, err := m.memory.Slice(tinyData, 8)
	if err != nil {
		t.Fatal(err)
	}
	if got := binary.LittleEndian.Uint32(view); got != 0x1234 {
		t.Errorf("RAM holds %#x", got)
	}
	if id := binary.LittleEndian.Uint32(view[4:]); id == 0 || id == 0xFFFF_FFFF {
		t.Errorf("the host bridge's ID is %#x", id)
	}
	if regions := m.memory.Regions(); len(regions) != 2 {
		t.Errorf("%d regions of RAM", len(regions))
	}
}

func TestResources(t *testing.T) {
	requireKVM(t)
	spec := manifest.Manifest{CPUs: manifest.CPUs{Sockets: 1, Cores: 1, Threads: 1}, MemoryBytes: 1 << 50}
	if _, err := New(t.Context(), Options{Manifest: &spec}); !errors.Is(err, ErrResources) {
		t.Errorf("a petabyte of memory: %v", err)
	}
	spec = manifest.Manifest{CPUs: manifest.CPUs{Sockets: 1, Cores: 1 << 20, Threads: 1}, MemoryBytes: 64 << 20}
	if _, err := New(t.Context(), Options{Manifest: &spec}); !errors.Is(err, ErrResources) {
		t.Errorf("a million vCPUs: %v", err)
	}
}

// A KVM without hardware under it is found out, with words for it, before any
// kernel hangs in it.
func TestProbe(t *testing.T) {
	requireKVM(t)
	system, err := kvm.Open(kvm.DefaultPath)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = system.Close() }()
	switch exit, err := runProbe(system); {
	case err != nil:
		t.Fatal(err)
	case hasHardware() && exit != kvm.ExitIO:
		t.Errorf("with hardware virtualisation the trial guest ended with %v", exit)
	case exit == kvm.ExitIO:
		if err := probe(system); err != nil {
			t.Errorf("the trial guest ran, and still: %v", err)
		}
	default:
		if err := probe(system); !errors.Is(err, ErrNoHardware) {
			t.Errorf("the trial guest ended with %v, and still: %v", exit, err)
		}
	}
}

func TestNoDevice(t *testing.T) {
	spec := manifest.Manifest{CPUs: manifest.CPUs{Sockets: 1, Cores: 1, Threads: 1}, MemoryBytes: 64 << 20}
	for path, want := range map[string]error{
		filepath.Join(t.TempDir(), "kvm"): kvm.ErrNoDevice,
		os.DevNull:                        kvm.ErrUnusable,
	} {
		if _, err := New(t.Context(), Options{Manifest: &spec, KVM: path}); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
