package store

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// newToplevel makes a store with a toplevel of the files given; a name that ends
// in '@' is a link.
func newToplevel(t *testing.T, files map[string]string) Path {
	t.Helper()
	p := Path{Dir: filepath.Join(t.TempDir(), "store"), Base: hash + "-nixos-system-vm-26.05.1"}
	if err := os.MkdirAll(p.String(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		var err error
		if link, ok := strings.CutSuffix(name, "@"); ok {
			err = os.Symlink(text, filepath.Join(p.String(), link))
		} else {
			err = os.WriteFile(filepath.Join(p.String(), name), []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestReadBoot(t *testing.T) {
	kernel := filepath.Join(t.TempDir(), "bzImage")
	if err := os.WriteFile(kernel, []byte("kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := `{"org.nixos.bootspec.v1": {"kernel": "` + kernel + `", "initrd": "` + kernel + `", "init": "/nix/store/x/init",
		"kernelParams": ["a", "b=\"c d\""], "label": "NixOS", "toplevel": "/x", "system": "x86_64-linux", "new": 1}, "org.nixos.specialisation.v1": {}}`
	fromSpec := Boot{kernel, kernel, "/nix/store/x/init", []string{"a", `b="c d"`}, "NixOS"}
	old := map[string]string{"kernel@": kernel, "initrd@": kernel, "kernel-params": "a \"b  c\"\n", "init@": "/nowhere/init"}
	with := func(name, text string) map[string]string {
		files := map[string]string{name: text}
		for k, v := range old {
			files[k] = v
		}
		return files
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  Boot   // Init "*" stands for the toplevel's
		err   string // part of the error
		log   string // part of the log
	}{
		"bootspec":         {files: with("boot.json", spec), want: fromSpec},
		"files":            {files: old, want: Boot{kernel, kernel, "*", []string{"a", `"b  c"`}, ""}},
		"unknown version":  {files: with("boot.json", `{"org.nixos.bootspec.v9": {}}`), want: Boot{kernel, kernel, "*", []string{"a", `"b  c"`}, ""}, log: "holds no org.nixos.bootspec.v1"},
		"nothing":          {},
		"container":        {files: map[string]string{"init": ""}, want: Boot{Init: "*"}},
		"no JSON":          {files: with("boot.json", "{"), err: "boot.json: unexpected end"},
		"wrong types":      {files: with("boot.json", `{"org.nixos.bootspec.v1": {"kernelParams": "quiet"}}`), err: "cannot unmarshal"},
		"relative kernel":  {files: with("boot.json", `{"org.nixos.bootspec.v1": {"kernel": "bzImage"}}`), err: `the kernel is "bzImage", not an absolute path`},
		"missing kernel":   {files: with("boot.json", `{"org.nixos.bootspec.v1": {"kernel": "/no/such/kernel"}}`), err: "the kernel it names: stat /no/such/kernel"},
		"dangling kernel":  {files: map[string]string{"kernel@": "/no/such/kernel"}, err: "find the kernel of"},
		"boot.json is dir": {files: map[string]string{"boot.json@": "/"}, err: "is not a file of at most"},
	} {
		toplevel := newToplevel(t, c.files)
		var log bytes.Buffer
		got, err := readBoot(toplevel, zerolog.New(&log))
		if c.want.Init == "*" {
			c.want.Init = toplevel.String() + "/init"
		}
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: got %+v, %v, want an error with %q", name, got, err, c.err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case got.Kernel != c.want.Kernel || got.Initrd != c.want.Initrd || got.Init != c.want.Init || got.Label != c.want.Label || !slices.Equal(got.Params, c.want.Params):
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
		if !strings.Contains(log.String(), c.log) || (c.log == "" && log.Len() > 0) {
			t.Errorf("%s: logged %q, want %q", name, log.String(), c.log)
		}
	}
}

func TestReadBootOfAFile(t *testing.T) {
	p := Path{Dir: t.TempDir(), Base: hash + "-hello"}
	if err := os.WriteFile(p.String(), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := readBoot(p, zerolog.Nop()); err != nil || b.Kernel != "" || b.Init != "" {
		t.Errorf("got %+v, %v", b, err)
	}
}

func FuzzParseBootspec(f *testing.F) {
	f.Add([]byte(`{"org.nixos.bootspec.v1": {"kernel": "/k", "initrd": "/i", "init": "/t/init", "kernelParams": ["a"], "label": "l"}}`))
	f.Add([]byte(`{"org.nixos.bootspec.v1": null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if b, ok, err := parseBootspec(text); err != nil && (ok || b.Kernel != "") {
			t.Errorf("got %+v, %v with error %v", b, ok, err)
		}
	})
}
