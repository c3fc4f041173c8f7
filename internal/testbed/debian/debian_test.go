package debian

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAptOptionsStayInside(t *testing.T) {
	options := aptOptions("/cache/apt", "/cache/apt/archives")
	for _, option := range options {
		if name, value, found := strings.Cut(option, "="); found && strings.HasPrefix(name, "Dir::") {
			if !strings.HasPrefix(value, "/cache/apt") {
				t.Errorf("%s leaves the private folder", option)
			}
		}
	}
	for _, want := range []string{"APT::Install-Recommends=false", "APT::Sandbox::User=", "Dir::State::status=/cache/apt/status"} {
		if !slices.Contains(options, want) {
			t.Errorf("no option %s", want)
		}
	}
}

func TestParseMirror(t *testing.T) {
	tests := []struct{ name, uris, want string }{
		{"nothing", "", ""},
		{"debian", "'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_InRelease 0 \n", "http://mirror.example/debian"},
		{"security comes first",
			"'http://mirror.example/debian-security/dists/trixie-security/InRelease' a 0 \n" +
				"'https://other.example/pub/debian/dists/trixie/InRelease' b 0 \n", "https://other.example/pub/debian"},
		{"another distribution", "'http://archive.example/ubuntu/dists/noble/InRelease' a 0 \n", ""},
		{"no quotes", "nonsense", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseMirror([]byte(test.uris))
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

func TestUnpackTar(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, header := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir},
		{Name: "./lib/x/", Typeflag: tar.TypeDir},
		{Name: "./lib/x/file", Typeflag: tar.TypeReg, Size: 4, Mode: 0o4755},
		{Name: "./usr/bin/hard", Typeflag: tar.TypeLink, Linkname: "./lib/x/file"},
		{Name: "./usr/bin/soft", Typeflag: tar.TypeSymlink, Linkname: "/etc/alternatives/soft"},
		{Name: "./usr/share/doc/x", Typeflag: tar.TypeReg, Size: 4},
		{Name: "./dev/null", Typeflag: tar.TypeChar},
	} {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			if _, err := w.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root, err := makeRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	keep := func(name string) bool { return !strings.HasPrefix(name, "usr/share/doc/") }
	if err := unpackTar(root, &archive, keep); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "usr/lib/x/file"))
	if err != nil || string(data) != "data" {
		t.Errorf("/lib/x/file did not go to /usr/lib/x/file: %q, %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "usr/bin/hard")); err != nil || string(data) != "data" {
		t.Errorf("hard link: %q, %v", data, err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "bin/soft")); err != nil || target != "/etc/alternatives/soft" {
		t.Errorf("symbolic link: %q, %v", target, err)
	}
	for _, name := range []string{"usr/share/doc/x", "dev/null"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

func TestUnpackTarStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, header := range []tar.Header{
		{Name: "./away", Typeflag: tar.TypeSymlink, Linkname: outside},
		{Name: "./away/file", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	root, err := makeRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unpackTar(root, &archive, nil); err == nil {
		t.Error("a file behind a link out of the root was unpacked")
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Error("a file was written outside")
	}
}
