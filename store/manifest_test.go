package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drzln/whiterun/pkg/manifest"
)

func TestCommandLine(t *testing.T) {
	const init = "/nix/store/t/init"
	for name, c := range map[string]struct {
		system []string
		init   string
		user   []string
		want   string
	}{
		"nothing":         {nil, "", nil, "console=ttyS0 console=hvc0"},
		"plain":           {[]string{"quiet", "loglevel=4"}, init, nil, "quiet loglevel=4 console=ttyS0 console=hvc0 init=" + init},
		"system's init":   {[]string{"init=/other", "quiet"}, init, nil, "quiet console=ttyS0 console=hvc0 init=" + init},
		"hidden init":     {[]string{"a init=/other b"}, init, nil, "a b console=ttyS0 console=hvc0 init=" + init},
		"user's init":     {nil, init, []string{"init=/a", "b init=/bin/sh c"}, "console=ttyS0 console=hvc0 init=/bin/sh b c"},
		"not init":        {[]string{"rdinit=/x", "systemd.init=y"}, init, nil, "rdinit=/x systemd.init=y console=ttyS0 console=hvc0 init=" + init},
		"system's serial": {[]string{"console=ttyS0,115200n8"}, "", nil, "console=ttyS0,115200n8 console=hvc0"},
		"system's virtio": {[]string{"quiet", "console=hvc0"}, "", nil, "console=ttyS0 quiet console=hvc0"},
		"system's order":  {[]string{"console=hvc0", "console=ttyS0"}, "", nil, "console=hvc0 console=ttyS0"},
		"other console":   {[]string{"console=tty1", "console=ttyS01"}, "", nil, "console=tty1 console=ttyS01 console=ttyS0 console=hvc0"},
		"quotes":          {[]string{`dyndbg="file x +p"`}, "", []string{`x="init=/no  y"`, "a\nb"}, `dyndbg="file x +p" console=ttyS0 console=hvc0 x="init=/no  y" a b`},
		"arguments":       {nil, init, []string{"-- single"}, "console=ttyS0 console=hvc0 init=" + init + " -- single"},
	} {
		got := commandLine(c.system, c.init, c.user)
		if got != c.want {
			t.Errorf("%s: got  %s\nwant %s", name, got, c.want)
		}
	}
}

func TestMachineWithoutAStore(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for _, name := range []string{"bzImage", "one", "two"} {
		if err := os.WriteFile(name, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("bzImage", "result"); err != nil {
		t.Fatal(err)
	}
	machine := Machine{
		Kernel: "result", Initrds: []string{"two", "./one"}, Append: []string{"panic=1"},
		CPUs: manifest.CPUs{Sockets: 1, Cores: 1, Threads: 1}, MemoryBytes: 64 * manifest.MiB,
	}
	m, err := machine.Manifest(nil)
	if err != nil {
		t.Fatal(err)
	}
	if m.Kernel != dir+"/bzImage" || strings.Join(m.Initrds, " ") != dir+"/two "+dir+"/one" || m.Name != "vm" || m.Store != nil ||
		m.CommandLine != "console=ttyS0 console=hvc0 panic=1" {
		t.Errorf("got %+v", m)
	}

	for want, edit := range map[string]func(*Machine){
		"find the kernel: lstat missing": func(m *Machine) { m.Kernel = "missing" },
		"find the initrd: lstat gone":    func(m *Machine) { m.Initrds = []string{"one", "gone"} },
		"the machine has no kernel":      func(m *Machine) { m.Kernel = "" },
		"$.memoryBytes: is 0":            func(m *Machine) { m.MemoryBytes = 0 },
		"$.name: is":                     func(m *Machine) { m.Name = "a/b" },
	} {
		bad := machine
		edit(&bad)
		if m, err := bad.Manifest(nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %+v, %v, want an error with %q", m, err, want)
		}
	}
	if m, err := machine.Manifest(&System{Toplevel: Path{DefaultDir, hash + "-hello"}}); err == nil || !strings.Contains(err.Error(), "it has no init") {
		t.Errorf("got %+v, %v", m, err)
	}
}
