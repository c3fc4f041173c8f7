package closure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/pkg/ninep"
)

// plant makes the files of a store folder: a name that ends in / is a folder,
// a text that starts with -> a symbolic link, one that starts with #! an
// executable. It returns the store folder.
func plant(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	must(t, os.Mkdir(dir, 0o755))
	for name, text := range files {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch {
		case strings.HasPrefix(text, "->"):
			must(t, os.Symlink(text[2:], path))
		case strings.HasPrefix(text, "#!"):
			must(t, os.WriteFile(path, []byte(text), 0o755))
		default:
			must(t, os.WriteFile(path, []byte(text), 0o644))
		}
	}
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// build indexes everything in dir.
func build(t testing.TB, dir string) *Index {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var paths []string
	for _, entry := range entries {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	x, err := Build(context.Background(), dir, paths)
	must(t, err)
	t.Cleanup(func() { must(t, x.Close()) })
	return x
}

// compare checks the whole index against the store folder, file by file.
func compare(t *testing.T, x *Index) {
	t.Helper()
	seen := map[ninep.Node]string{}
	var size uint64
	var visit func(n ninep.Node, path string)
	visit = func(n ninep.Node, path string) {
		if other, twice := seen[n]; twice {
			t.Fatalf("%s and %s are both node %d", other, path, n)
		}
		seen[n] = path
		if got := x.Path(n); got != path {
			t.Errorf("node %d has path %q, want %q", n, got, path)
		}
		info, err := os.Lstat(path)
		must(t, err)
		attr := x.Attr(n)
		if attr.MTime != 1 {
			t.Errorf("%s: mtime %d", path, attr.MTime)
		}
		switch {
		case info.IsDir():
			names, err := os.ReadDir(path)
			must(t, err)
			folders := uint32(0)
			for _, name := range names {
				if name.IsDir() {
					folders++
				}
			}
			if attr.Type != ninep.Directory || attr.Mode != 0o555 || attr.Links != 2+folders {
				t.Errorf("%s: %+v, with %d folders in it", path, attr, folders)
			}
			if x.Entries(n) != len(names) {
				t.Fatalf("%s: %d entries, want %d", path, x.Entries(n), len(names))
			}
			for i, want := range names {
				name, child := x.Entry(n, i)
				if name != want.Name() {
					t.Fatalf("%s: entry %d is %q, want %q", path, i, name, want.Name())
				}
				if x.Parent(child) != n {
					t.Fatalf("%s/%s: its parent is %d, want %d", path, name, x.Parent(child), n)
				}
				if got, ok := x.Lookup(n, []byte(name)); !ok || got != child {
					t.Fatalf("%s: Lookup(%q) = %d, %v, want %d", path, name, got, ok, child)
				}
				visit(child, path+"/"+name)
			}
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			must(t, err)
			want := ninep.Attr{Type: ninep.Symlink, Mode: 0o777, Links: 1, Size: uint64(len(target)), MTime: 1}
			if attr != want || x.Target(n) != target {
				t.Errorf("%s: %+v → %q, want %+v → %q", path, attr, x.Target(n), want, target)
			}
		default:
			want := ninep.Attr{Type: ninep.Regular, Mode: 0o444, Links: 1, Size: uint64(info.Size()), MTime: 1}
			if info.Mode()&0o100 != 0 {
				want.Mode = 0o555
			}
			if attr != want {
				t.Errorf("%s: %+v, want %+v", path, attr, want)
			}
			size += want.Size
			fd, err := x.Open(n)
			must(t, err)
			file := os.NewFile(uintptr(fd), path)
			defer file.Close()
			if opened, err := file.Stat(); err != nil || !os.SameFile(opened, info) {
				t.Errorf("%s: another file was opened (%v)", path, err)
			}
		}
	}
	visit(ninep.Root, x.Dir())
	if x.Parent(ninep.Root) != ninep.Root {
		t.Error("the root has a parent")
	}
	if x.Nodes() != len(seen) || x.Size() != size {
		t.Errorf("%d nodes, %d bytes; want %d, %d", x.Nodes(), x.Size(), len(seen), size)
	}
}

func TestBuild(t *testing.T) {
	deep := strings.Repeat("a-long-folder-name-to-get-there-sooner/", 120) // beyond PATH_MAX
	tests := map[string]map[string]string{
		"empty store": {},
		"one file":    {"a": "x"},
		"one link":    {"a": "->b"},
		"one folder":  {"a/": ""},
		"shapes": {
			"b-glibc/lib/libc.so.6": "ELF",
			"b-glibc/bin/ldd":       "#!/bin/sh",
			"b-glibc/empty/":        "",
			"b-glibc/lib64":         "->lib",
			"a-source":              "tarball",
			"c-env":                 "->../b-glibc",
			"c-env2/bin":            "->/nix/store/b-glibc/bin",
			"c-env2/a/b/c/d":        "deep",
			"d-empty/":              "",
			"e-zero":                "",
		},
		"names": {
			"x/ ":                      "space",
			"x/\xff\xfe":               "not UTF-8",
			"x/new\nline":              "line",
			"x/ünïcödé":                "é",
			"x/" + repeat('n', 255):    "longest",
			"x/-":                      "dash",
			"x/...":                    "dots",
			"x/a":                      "a",
			"x/aa":                     "aa",
			"x/A":                      "A",
			"x/a/../b":                 "b",
			"x/target":                 "->" + repeat('t', 4000),
			"x/" + repeat('n', 254):    "nearly longest",
			"x/z\x01\x02\x7f\\\"'$`*?": "shell",
		},
		"prefixes": {"a/b": "1", "a-b": "2", "a.b": "3", "ab/a": "4", "aa/a/a/a": "5", "aa/a/b/a": "6", "aa/b/": ""},
	}
	for name, files := range tests {
		t.Run(name, func(t *testing.T) { compare(t, build(t, plant(t, files))) })
	}

	t.Run("deeper than PATH_MAX", func(t *testing.T) {
		dir := plant(t, nil)
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		names := strings.Split(strings.TrimSuffix("top/"+deep, "/"), "/")
		for _, name := range names {
			must(t, unix.Mkdirat(fd, name, 0o755))
			next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY, 0)
			must(t, err)
			unix.Close(fd)
			fd = next
		}
		file, err := unix.Openat(fd, "end", unix.O_CREAT|unix.O_WRONLY, 0o644)
		must(t, err)
		unix.Close(file)
		unix.Close(fd)
		x := build(t, dir)
		if x.Nodes() != len(names)+2 {
			t.Fatalf("%d nodes, want %d", x.Nodes(), len(names)+2)
		}
		end, ok := x.Resolve(x.Dir() + "/top/" + deep + "end")
		if !ok {
			t.Fatal("the deepest file is not found")
		}
		opened, err := x.Open(end)
		must(t, err)
		unix.Close(opened)
	})

	t.Run("10000 entries", func(t *testing.T) {
		compare(t, build(t, forest(t, 1, 10_000)))
	})
}

func repeat(c byte, n int) string { return strings.Repeat(string(c), n) }

// forest makes a store of so many paths with so many files in each.
func forest(t testing.TB, paths, files int) string {
	dir := plant(t, nil)
	for p := range paths {
		top := filepath.Join(dir, fmt.Sprintf("%032d-package", p))
		must(t, os.Mkdir(top, 0o755))
		for f := range files {
			must(t, os.WriteFile(filepath.Join(top, fmt.Sprintf("file-%d.txt", f)), nil, 0o644))
		}
	}
	return dir
}

func TestBuildIsTheClosureAndNothingElse(t *testing.T) {
	dir := plant(t, map[string]string{"a/f": "1", "b": "2", "c/g": "3"})
	x, err := Build(context.Background(), dir, []string{dir + "/c", dir + "/a", dir + "/c"})
	must(t, err)
	defer x.Close()
	var names []string
	for i := range x.Entries(ninep.Root) {
		name, _ := x.Entry(ninep.Root, i)
		names = append(names, name)
	}
	if !slices.Equal(names, []string{"a", "c"}) {
		t.Errorf("the root lists %q", names)
	}
	if _, ok := x.Lookup(ninep.Root, []byte("b")); ok {
		t.Error("a path outside the closure is found")
	}
}

func TestBuildIsDeterministic(t *testing.T) {
	dir := forest(t, 20, 7)
	a, b := build(t, dir), build(t, dir)
	if !slices.Equal(a.nodes, b.nodes) || a.names != b.names || a.targets != b.targets {
		t.Error("two builds of one store differ")
	}
}

func TestBuildErrors(t *testing.T) {
	dir := plant(t, map[string]string{"a/f": "1"})
	must(t, unix.Mkfifo(dir+"/a-pipe", 0o644))
	must(t, os.Mkdir(dir+"/b", 0o755))
	must(t, unix.Mkfifo(dir+"/b/pipe", 0o644))
	tests := []struct {
		dir, path, want string
	}{
		{dir, dir + "/gone", "store path " + dir + "/gone is not in the store (garbage-collected?)"},
		{dir, dir + "/a-pipe", dir + "/a-pipe is a named pipe: a store holds only files, folders and symbolic links"},
		{dir, dir + "/b", dir + "/b/pipe is a named pipe"},
		{dir, "/elsewhere/a", "is not a path right below store folder"},
		{dir, dir, "is not a path right below store folder"},
		{dir, dir + "/", "is not a path right below store folder"},
		{dir, dir + "/..", "is not a path right below store folder"},
		{dir, dir + "/a/f", "is not a path right below store folder"},
		{dir, dir + "/a\x00", "is not a path right below store folder"},
		{dir, dir + "/" + repeat('n', 256), "is not a path right below store folder"},
		{"store", "store/a", `store folder "store" is not an absolute path`},
		{"/", "/a", "the store folder cannot be /"},
		{dir + "/nowhere", dir + "/nowhere/a", "open store folder " + dir + "/nowhere"},
	}
	for _, test := range tests {
		x, err := Build(context.Background(), test.dir, []string{test.path})
		if err == nil {
			x.Close()
			t.Errorf("%q: no error", test.path)
		} else if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: error %q, want %q", test.path, err, test.want)
		}
	}
	if _, err := Build(context.Background(), dir, []string{dir + "/gone"}); !errors.Is(err, ErrMissing) {
		t.Errorf("a missing path is %v, want ErrMissing", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Build(ctx, dir, []string{dir + "/a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled build gives %v", err)
	}
}

func TestOpenRefusesWhatChanged(t *testing.T) {
	tests := map[string]struct {
		change func(path string) error
		want   error
	}{
		"longer":            {func(p string) error { return os.WriteFile(p, []byte("longer"), 0o644) }, ErrChanged},
		"gone":              {os.Remove, fs.ErrNotExist},
		"a folder":          {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o755)) }, ErrChanged},
		"a pipe":            {func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o644)) }, ErrChanged},
		"a link":            {func(p string) error { return errors.Join(os.Remove(p), os.Symlink("other", p)) }, unix.ELOOP},
		"a link on the way": {replaceFolder, unix.ELOOP},
	}
	for _, stepwise := range []bool{false, true} {
		for name, test := range tests {
			dir := plant(t, map[string]string{"a/b/file": "12345", "a/b/other": "12345"})
			x := build(t, dir)
			x.noResolve.Store(stepwise)
			n, ok := x.Resolve(dir + "/a/b/file")
			if !ok {
				t.Fatal("not found")
			}
			must(t, test.change(dir+"/a/b/file"))
			want := test.want
			if stepwise && name == "a link on the way" {
				want = unix.ENOTDIR // O_DIRECTORY is looked at before O_NOFOLLOW
			}
			if fd, err := x.Open(n); !errors.Is(err, want) {
				unix.Close(fd)
				t.Errorf("%s, stepwise %v: Open gives %v, want %v", name, stepwise, err, want)
			}
			if _, err := x.Open(x.Parent(n)); err == nil {
				t.Error("a folder can be opened")
			}
		}
	}
}

// replaceFolder moves the folder of file away and puts a link to it there.
func replaceFolder(file string) error {
	folder := filepath.Dir(file)
	return errors.Join(os.Rename(folder, folder+"2"), os.Symlink("b2", folder))
}

func TestStepwiseOpensTheSame(t *testing.T) {
	x := build(t, plant(t, map[string]string{"a/b/c/d": "1", "a/e": "2", "f": "3"}))
	x.noResolve.Store(true)
	compare(t, x)
}

func TestResolve(t *testing.T) {
	dir := plant(t, map[string]string{
		"system/init":      "->/bin/init",
		"system/sh":        "->../shell/bin/sh",
		"system/sw":        "->STORE/sw",
		"shell/bin/sh":     "#!",
		"sw/bin":           "->../shell/bin",
		"top":              "->shell",
		"loop":             "->loop",
		"ping":             "->pong",
		"pong":             "->./ping",
		"up":               "->../../etc",
		"self":             "->.",
		"system/dangling":  "->nothing",
		"system/slashes":   "->..//shell//bin/",
		"system/sh-folder": "->../shell/bin/sh/x",
	})
	must(t, os.Remove(dir+"/system/sw"))
	must(t, os.Symlink(dir+"/sw", dir+"/system/sw"))
	x := build(t, dir)
	tests := map[string]string{ // "" is not found
		"":                     "/",
		"/":                    "/",
		"/shell/bin/sh":        "/shell/bin/sh",
		"/system/sh":           "/shell/bin/sh",
		"/system/sw/bin/sh":    "/shell/bin/sh",
		"//sw/./bin//../bin":   "/shell/bin",
		"/top/bin/sh":          "/shell/bin/sh",
		"/system/slashes/sh":   "/shell/bin/sh",
		"/system":              "/system",
		"/self":                "/",
		"/system/init":         "",
		"/loop":                "",
		"/ping":                "",
		"/up/passwd":           "",
		"/..":                  "",
		"/system/dangling":     "",
		"/system/sh-folder":    "",
		"/shell/bin/sh/../sh2": "",
		"/nothing":             "",
		"x/shell":              "",
	}
	for path, want := range tests {
		n, ok := x.Resolve(dir + path)
		got := ""
		if ok {
			got = "/" + x.relative(n)
		}
		if got != want {
			t.Errorf("Resolve(%q) = %q, want %q", path, got, want)
		}
	}
	if _, ok := x.Resolve("/shell"); ok {
		t.Error("a path outside the store folder is found")
	}
}

func TestQueriesDoNotAllocate(t *testing.T) {
	x := build(t, plant(t, map[string]string{"a/b/c": "1", "a/l": "->" + repeat('t', 100), "a/" + repeat('n', 100): "2"}))
	a, _ := x.Lookup(ninep.Root, []byte("a"))
	link, _ := x.Lookup(a, []byte("l"))
	long := []byte(repeat('n', 100))
	allocs := testing.AllocsPerRun(100, func() {
		x.Lookup(a, long)
		x.Lookup(a, long[:99])
		x.Attr(a)
		x.Entries(a)
		x.Entry(a, 1)
		x.Parent(a)
		x.Target(link)
		x.Nodes()
		x.Size()
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// FuzzLookup makes a folder of the names it is given and checks that all of
// them, and nothing else, are found.
func FuzzLookup(f *testing.F) {
	f.Add("a/b/c", "b")
	f.Add("a/aa/aaa/ab", "aab")
	f.Add("z/\xff/ /..x", "\xff\x00")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, text, probe string) {
		want := map[string]bool{}
		p := part{nodes: []node{{kind: ninep.Directory, nameLen: 3}}, names: []byte("top")}
		names := strings.Split(text, "/")
		sort.Strings(names)
		for _, name := range slices.Compact(names) {
			if name == "" || len(name) > 255 {
				continue
			}
			want[name] = true
			p.nodes = append(p.nodes, node{kind: ninep.Regular, name: uint32(len(p.names)), nameLen: uint8(len(name))})
			p.names = append(p.names, name...)
		}
		p.nodes[0].first, p.nodes[0].size = 1, uint64(len(want))
		x := &Index{store: -1}
		if err := x.join([]part{p}); err != nil {
			t.Fatal(err)
		}
		top, ok := x.Lookup(ninep.Root, []byte("top"))
		if !ok {
			t.Fatal("no top")
		}
		for name := range want {
			if n, ok := x.Lookup(top, []byte(name)); !ok || x.name(n) != name || x.Parent(n) != top {
				t.Errorf("Lookup(%q) = %d, %v", name, n, ok)
			}
		}
		if _, ok := x.Lookup(top, []byte(probe)); ok != want[probe] {
			t.Errorf("Lookup(%q) = %v, want %v", probe, ok, want[probe])
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	dir := forest(b, 100, 100)
	b.ReportAllocs()
	for b.Loop() {
		x := build(b, dir)
		b.ReportMetric(float64(len(x.names)+len(x.targets))/float64(x.Nodes())+float64(nodeSize), "bytes/node")
	}
}

func BenchmarkLookup(b *testing.B) {
	x := build(b, forest(b, 1, 10_000))
	_, top := x.Entry(ninep.Root, 0)
	name := []byte("file-7777.txt")
	for b.Loop() {
		x.Lookup(top, name)
	}
}
