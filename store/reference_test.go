package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseReference(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	base, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(base, "store")
	system := filepath.Join(dir, hash+"-nixos-system-vm-26.05")
	source := filepath.Join(dir, hash+"-source")
	for _, name := range []string{system, source, filepath.Join(base, "flake"), filepath.Join(base, "folder")} {
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{source + "/flake.nix", base + "/flake/flake.nix", base + "/file", base + "/odd#name", system + "/init"} {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"result": system, "dangling": dir + "/" + hash + "-gone", "again": "result", "loop": "loop", "linked": "flake"} {
		if err := os.Symlink(target, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(base)

	for text, want := range map[string]reference{
		"result":                           {path: system},
		"./again":                          {path: system},
		system:                             {path: system},
		system + "/init":                   {path: system + "/init"},
		"result/init":                      {path: system + "/init"},
		"flake":                            {flake: "./flake"},
		"linked":                           {flake: "./linked"},
		"./flake":                          {flake: "./flake"},
		base + "/flake":                    {flake: base + "/flake"},
		source:                             {flake: source},
		".#vm":                             {flake: ".", attr: "vm"},
		"#vm":                              {flake: ".", attr: "vm"},
		".#":                               {flake: "."},
		"./flake#a.b":                      {flake: "./flake", attr: "a.b"},
		"path:/x#y":                        {flake: "path:/x", attr: "y"},
		"github:o/r":                       {flake: "github:o/r"},
		"git+ssh://h/r":                    {flake: "git+ssh://h/r"},
		"nixpkgs#vm":                       {flake: "nixpkgs", attr: "vm"},
		dir + "/" + hash + "-not-here-yet": {path: dir + "/" + hash + "-not-here-yet"},
	} {
		want.text = text
		if want.flake == "./"+text {
			want.text = "./" + text
		}
		if got, err := parseReference(dir, text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":               "write a flake's attribute",
		"--kernel":       "write a flake's attribute",
		"vm":             "there is no such file, and a flake is written with its attribute, as in vm#vm",
		"./vm":           "there is no such file or folder",
		"/no/such/thing": "there is no such file or folder",
		"dangling":       "it is a link to " + dir + "/" + hash + "-gone, which does not exist",
		"loop":           "too many links",
		"file":           "it leads to " + base + "/file, which is not in " + dir,
		"folder":         "holds no flake.nix",
		"./odd#name":     "which is not in",
		"file/below":     "not a directory",
		dir:              "which is not in",
		dir + "/nothing": "no such path in the store",
	} {
		if got, err := parseReference(dir, text); !errors.Is(err, ErrNoReference) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v, want an error with %q", text, got, err, want)
		}
	}
}

func TestReferenceNames(t *testing.T) {
	for attr, want := range map[string]string{
		"":                                 "",
		"vm":                               "vm",
		"nixosConfigurations.vm":           "vm",
		"nixosConfigurations.vm.config":    "vm",
		`nixosConfigurations."a.b".config`: "b",
		"nixosConfigurations.web-1.config.system.build.toplevel": "web-1",
	} {
		if got := (reference{attr: attr}).name(); got != want {
			t.Errorf("%s: got %q, want %q", attr, got, want)
		}
	}
	for name, want := range map[string]string{
		"nixos-system-web-1-26.05.20260801.445d861": "web-1", "nixos-system-vm-26.05pre-git": "vm", "nixos-system-vm-1": "vm-1", "hello-2.12": "hello-2.12",
	} {
		if got := hostName(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestInstallables(t *testing.T) {
	for attr, want := range map[string][]string{
		"":      {".#nixosConfigurations"},
		"vm":    {".#vm", ".#nixosConfigurations.vm"},
		"a.b":   {".#a.b"},
		`"a.b"`: {`.#"a.b"`},
	} {
		if got := (reference{flake: ".", attr: attr}).installables(); !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", attr, got, want)
		}
	}
}

// FuzzParseReference holds that a reference is one kind or the other and never
// an option for nix.
func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{".#vm", "result", "/nix/store/" + hash + "-x", "path:/x", "--x", "#"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseReference(DefaultDir, text)
		if err != nil {
			return
		}
		if (r.path == "") == (r.flake == "") {
			t.Fatalf("%q: got %+v", text, r)
		}
		if r.flake == "" {
			return
		}
		for _, one := range r.installables() {
			if strings.HasPrefix(one, "-") {
				t.Errorf("%q: got the installable %q", text, one)
			}
		}
	})
}
