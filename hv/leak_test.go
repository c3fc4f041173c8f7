package hv

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/hv/boot"
	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/pkg/ninep"
)

// A flood of words from the guest to pvpanic starts one goroutine and one line
// of the log at the most.
func TestPanicFlood(t *testing.T) {
	flood := func(event byte) code {
		return code{}.raw(0x66, 0xBA, 0x05, 0x05, 0xB0, event, // mov dx, 0x505; mov al, event
			0xEE, 0xEB, 0xFD) // out dx, al; jmp to the out
	}
	t.Run("panic", func(t *testing.T) {
		if got := run(t, tinyMachine(t, flood(1), nil)); got.Reason != Panic {
			t.Error(got)
		}
	})
	t.Run("crash kernel", func(t *testing.T) {
		var log lines
		m := tinyMachine(t, flood(2), func(o *Options) { o.Log = zerolog.New(&log) })
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if got, err := m.Run(ctx); got.Reason != Stopped || err != nil {
			t.Error(got, err)
		}
		if m.cpus.exits.io.Load() < 100 {
			t.Errorf("%d exits are no flood", m.cpus.exits.io.Load())
		}
		log.mu.Lock()
		defer log.mu.Unlock()
		if n := bytes.Count(log.head.Bytes(), []byte("crash kernel")); n != 1 {
			t.Errorf("told %d times:\n%s", n, log.head.Bytes())
		}
	})
}

// TestNothingStays makes machine after machine in one process, which end in all
// the ways there are, and counts what the process holds.
func TestNothingStays(t *testing.T) {
	requireKVM(t)
	ownTemporary(t)
	store := hostileStore(t)
	input, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	defer typed.Close()
	kernels := t.TempDir()
	missing := filepath.Join(kernels, "missing")
	write := func(name string, b []byte) string {
		name = filepath.Join(kernels, name)
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return name
	}
	speaks := code{}
	for _, b := range []byte("[    0.000000] hello\n") {
		speaks = speaks.out(0x3F8, b)
	}
	speaks = slices.Clip(speaks) // what follows is each one's own
	cache := t.TempDir()
	ways := []struct {
		name   string
		code   code
		change func(*Options)
		want   Reason
		err    error // of New
	}{
		{name: "power off", code: speaks.powerOff(), want: PowerOff},
		{name: "reboot", code: speaks.out(0x600, 0x42).halt(), want: Reboot},
		{name: "panic", code: speaks.out(0x505, 1).halt(), want: Panic},
		{name: "triple fault", code: speaks.rbx(1 << 40).store(0), want: TripleFault},
		{name: "stop", code: speaks.spin(), want: Stopped},
		{name: "stop of four", code: speaks.halt(), want: Stopped, change: func(o *Options) { o.Manifest.CPUs.Cores = 4 }},
		{name: "console that breaks", code: speaks.powerOff(), want: PowerOff, change: func(o *Options) { o.Output = broken{} }},
		{name: "no kernel", err: os.ErrNotExist, change: func(o *Options) { o.Manifest.Kernel = missing }},
		{name: "no initrd", code: speaks.spin(), err: os.ErrNotExist, change: func(o *Options) { o.Manifest.Initrds = []string{missing} }},
		{name: "no image", err: boot.ErrNotKernel, change: func(o *Options) { o.Manifest.Kernel = write("text", []byte("no kernel at all\n")) }},
		{name: "no KVM", err: kvm.ErrNoDevice, change: func(o *Options) { o.KVM = missing }},
		{name: "no such tag", change: func(o *Options) { o.Manifest.Store.Tag = "" }, err: errAny},
		{name: "too large", change: func(o *Options) { o.Manifest.MemoryBytes = 1 << 50 }, err: ErrResources},
	}
	round := func() {
		for _, way := range ways {
			o := Options{
				Manifest: &manifest.Manifest{
					Version: manifest.Version, Name: "tiny", Kernel: write("vmlinux", tinyELF(way.code)),
					CPUs: manifest.CPUs{Sockets: 1, Cores: 1, Threads: 1}, MemoryBytes: 64 << 20,
					Store: &manifest.Store{Tag: "nix-store", Dir: "/nix/store"},
				},
				Store: ninep.Tree(store), Input: input, Output: &bytes.Buffer{}, CacheDir: cache, anyKVM: true,
			}
			if way.change != nil {
				way.change(&o)
			}
			oneLife(t, way.name, o, way.want, way.err)
			// A Read that blocks outlives Run until the caller ends it.
			if _, err := typed.Write([]byte{'\n'}); err != nil {
				t.Fatal(err)
			}
			if way.err != nil {
				if _, err := input.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	round()
	before := held(t)
	for n := len(ways); n < 50; n += len(ways) {
		round()
	}
	held(t).sameAs(t, before, 1<<20)
}

// errAny stands for any error.
var errAny = errors.New("any error")

// oneLife makes a machine, lets it run, and closes it.
func oneLife(t *testing.T, name string, o Options, want Reason, wantErr error) {
	t.Helper()
	m, err := New(t.Context(), o)
	if err != nil || wantErr != nil {
		if wantErr == nil || err == nil || wantErr != errAny && !errors.Is(err, wantErr) {
			t.Fatalf("%s: %v", name, err)
		}
		return
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if want == Stopped {
		defer time.AfterFunc(5*time.Millisecond, cancel).Stop()
	} else {
		defer time.AfterFunc(20*time.Second, cancel).Stop()
	}
	if got, _ := m.Run(ctx); got.Reason != want {
		t.Errorf("%s: %v", name, got)
	}
	if err := m.Close(); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

// broken is a console's reader that is gone.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }
