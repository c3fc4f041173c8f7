package manifest

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
)

func example() *Manifest {
	return &Manifest{
		Version:     Version,
		Name:        "vm",
		Kernel:      "/nix/store/a-linux/bzImage",
		Initrds:     []string{"/nix/store/b-initrd/initrd"},
		CommandLine: "quiet a=<b>&c console=ttyS0 console=hvc0 init=/nix/store/c-system/init",
		CPUs:        CPUs{Sockets: 1, Cores: 2, Threads: 2},
		MemoryBytes: 256 * MiB,
		Store: &Store{
			Tag:      "nix-store",
			Dir:      "/nix/store",
			Toplevel: "/nix/store/c-system",
			Closure:  []string{"/nix/store/a-linux", "/nix/store/b-initrd", "/nix/store/c-system"},
		},
	}
}

func TestEncodeIsGolden(t *testing.T) {
	want, err := os.ReadFile("testdata/vm.json")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := example().Encode()
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("encoded to\n%s\nwant\n%s", got, want)
		}
	}
	m, err := Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, example()) {
		t.Errorf("decoded to %+v", m)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := example().Encode()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) string {
		out := strings.Replace(string(good), old, new, 1)
		if out == string(good) {
			t.Fatalf("nothing to replace: %q", old)
		}
		return out
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":            {"", "not valid JSON"},
		"cut off":          {string(good[:len(good)/2]), "not valid JSON: line"},
		"no object":        {"[]", "not valid JSON"},
		"no version":       {"{}", "has no version"},
		"newer version":    {edit(`"version": 1`, `"version": 2, "shiny": true`), "has version 2, this Whiterun reads version 1"},
		"unknown field":    {edit(`"name"`, `"nickname": "x", "name"`), `unknown field "nickname"`},
		"unknown in store": {edit(`"tag"`, `"colour": 1, "tag"`), `unknown field "colour"`},
		"wrong type":       {edit(`"cores": 2`, `"cores": "two"`), "line 11"},
		"trailing":         {string(good) + "{}", "not valid JSON"},
		"invalid":          {edit(`"cores": 2`, `"cores": 0`), "$.cpus.cores: is 0"},
	} {
		if m, err := Decode([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want an error with %q", name, m, err, c.want)
		}
	}
}

func TestValidateTellsEverything(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Manifest)
		want []string
	}{
		"good":            {func(*Manifest) {}, nil},
		"no store":        {func(m *Manifest) { m.Store = nil }, nil},
		"no initrd":       {func(m *Manifest) { m.Initrds = nil }, nil},
		"version":         {func(m *Manifest) { m.Version = 0 }, []string{"$.version: is 0"}},
		"no name":         {func(m *Manifest) { m.Name = "" }, []string{"$.name: is empty"}},
		"long name":       {func(m *Manifest) { m.Name = strings.Repeat("a", 64) }, []string{"$.name: is 64 bytes"}},
		"slash in name":   {func(m *Manifest) { m.Name = "a/b" }, []string{"$.name: is \"a/b\""}},
		"dots as name":    {func(m *Manifest) { m.Name = ".." }, []string{"$.name: is \"..\""}},
		"dash name":       {func(m *Manifest) { m.Name = "-f" }, []string{"$.name: is \"-f\""}},
		"no kernel":       {func(m *Manifest) { m.Kernel = "" }, []string{"$.kernel: is missing"}},
		"relative kernel": {func(m *Manifest) { m.Kernel = "bzImage" }, []string{"$.kernel: is \"bzImage\""}},
		"unclean initrd":  {func(m *Manifest) { m.Initrds = []string{"/a", "/a/../b"} }, []string{"$.initrds[1]: "}},
		"nul in path":     {func(m *Manifest) { m.Kernel = "/a\x00b" }, []string{"$.kernel: "}},
		"newline":         {func(m *Manifest) { m.CommandLine = "a\nb" }, []string{"$.commandLine: holds the control character '\\n' at byte 1"}},
		"latin-1":         {func(m *Manifest) { m.Kernel, m.CommandLine = "/\xe4", "\xe4" }, []string{"$.kernel: ", "$.commandLine: is not UTF-8"}},
		"cpus":            {func(m *Manifest) { m.CPUs = CPUs{0, 65, -1} }, []string{"$.cpus.sockets: is 0", "$.cpus.cores: is 65", "$.cpus.threads: is -1"}},
		"cpu product":     {func(m *Manifest) { m.CPUs = CPUs{5, 13, 1} }, []string{"$.cpus: makes 65 vCPUs"}},
		"cpu overflow":    {func(m *Manifest) { m.CPUs = CPUs{1 << 31, 1 << 31, 4} }, []string{"$.cpus.sockets", "$.cpus.cores"}},
		"little memory":   {func(m *Manifest) { m.MemoryBytes = MinMemoryBytes - 1 }, []string{"$.memoryBytes: is 67108863, must be at least"}},
		"much memory":     {func(m *Manifest) { m.MemoryBytes = MaxMemoryBytes + MiB }, []string{"$.memoryBytes: "}},
		"odd memory":      {func(m *Manifest) { m.MemoryBytes = 256*MiB + 1 }, []string{"$.memoryBytes: is 268435457, must be a multiple"}},
		"tag":             {func(m *Manifest) { m.Store.Tag = "a b" }, []string{"$.store.tag: "}},
		"dir":             {func(m *Manifest) { m.Store = &Store{Tag: "t", Dir: "x", Toplevel: "x/a", Closure: []string{"x/a"}} }, []string{"$.store.dir", "$.store.toplevel", "$.store.closure[0]"}},
		"toplevel inside": {func(m *Manifest) { m.Store.Toplevel += "/init" }, []string{"$.store.toplevel", "$.store.closure: does not hold"}},
		"empty closure":   {func(m *Manifest) { m.Store.Closure = nil }, []string{"$.store.closure: is empty"}},
		"foreign entry":   {func(m *Manifest) { m.Store.Closure[0] = "/etc/passwd" }, []string{"$.store.closure[0]: is \"/etc/passwd\""}},
		"dots entry":      {func(m *Manifest) { m.Store.Closure[0] = "/nix/store/.." }, []string{"$.store.closure[0]"}},
		"twice":           {func(m *Manifest) { m.Store.Closure[1] = m.Store.Closure[0] }, []string{"$.store.closure[1]: is \"/nix/store/a-linux\" a second"}},
		"unsorted":        {func(m *Manifest) { c := m.Store.Closure; c[0], c[1] = c[1], c[0] }, []string{"$.store.closure[1]: is \"/nix/store/a-linux\", must be sorted"}},
	} {
		m := example()
		c.edit(m)
		err := m.Validate()
		if c.want == nil {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var got Problems
		if !errors.As(err, &got) || len(got) != len(c.want) {
			t.Errorf("%s: got %v, want %d problems", name, err, len(c.want))
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i].String(), want) {
				t.Errorf("%s: problem %d is %q, want %q", name, i, got[i], want)
			}
		}
	}
}

func TestProblemsAreOneALine(t *testing.T) {
	one := Problems{{"$.a", "is 1"}}
	if got := one.Error(); got != "$.a: is 1" {
		t.Errorf("got %q", got)
	}
	two := append(one, Problem{"$.b", "is 2"})
	if got := two.Error(); got != "the manifest has 2 problems\n  $.a: is 1\n  $.b: is 2" {
		t.Errorf("got %q", got)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]uint64{
		"1024": 1024 * MiB, "64": 64 * MiB, "512M": 512 * MiB, "512m": 512 * MiB, "512MiB": 512 * MiB, "2G": 2048 * MiB,
		"1GiB": 1024 * MiB, "1 GiB": 1024 * MiB, " 256 ": 256 * MiB, "131072K": 128 * MiB, "1T": 1 << 40, "64t": 1 << 46,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "write a number", "G": "write a number", "lots": "write a number", "1.5G": "write a number", "12X": "write a number",
		"+1": "write a number", "0x400": "write a number", "0": "at least 64 MiB", "63": "at least", "0G": "at least", "-5": "negative",
		"-1G": "negative", "65537K": "whole number", "65T": "no machine has more", "99999999999999999999": "no machine has more",
		"18446744073709551615": "no machine has more", "17592186044416T": "no machine has more",
	} {
		if n, err := ParseSize(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %d, %v, want an error with %q", text, n, err, want)
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for text, want := range map[string]CPUs{
		"1": {1, 1, 1}, "4": {1, 4, 1}, "64": {1, 64, 1}, "sockets=1,cores=2,threads=2": {1, 2, 2}, "threads=2": {1, 1, 2},
		"cores=3, sockets=2": {2, 3, 1},
	} {
		if got, err := ParseCPUs(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "write a number", "two": "write a number", "0": "1 to 64", "-1": "1 to 64", "65": "1 to 64", "cores": "write a number",
		"dies=2": "write a number", "cores=0": "cores must be", "cores=x": "cores must be", "cores=2,cores=2": "given twice",
		"sockets=2,cores=33": "that makes 66", "cores=2,": "write a number", "99999999999999999999": "write a number",
	} {
		if c, err := ParseCPUs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want an error with %q", text, c, err, want)
		}
	}
}

func TestCleanName(t *testing.T) {
	for text, want := range map[string]string{
		"vm": "vm", "": "vm", "...": "vm", "a b/c": "a-b-c", "-x-": "x", "übung": "bung", strings.Repeat("a", 70): strings.Repeat("a", 63),
		strings.Repeat("a", 62) + "-b": strings.Repeat("a", 62),
	} {
		got := CleanName(text)
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
		if err := CheckName(got); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzDecode holds that what is decoded is valid and encodes to bytes that
// decode to the same machine.
func FuzzDecode(f *testing.F) {
	good, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"name":"x","store":{"closure":["/"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			return
		}
		first, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(first)
		if err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		second, err := again.Encode()
		if err != nil || string(first) != string(second) {
			t.Fatalf("%v: not stable:\n%s\n%s", err, first, second)
		}
	})
}

// FuzzParse holds that what the two readers of user text accept is in bounds.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"1024", "2G", "-1", "sockets=1,cores=2,threads=2", "64", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseSize(text); err == nil {
			var p Problems
			if p.memory(n); p != nil {
				t.Errorf("%q: %v", text, p)
			}
		}
		if c, err := ParseCPUs(text); err == nil {
			var p Problems
			if p.cpus(c); p != nil {
				t.Errorf("%q: %v", text, p)
			}
		}
		if err := CheckName(CleanName(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	})
}
