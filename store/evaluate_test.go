package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestDecodeDescription(t *testing.T) {
	ref := reference{text: ".#x", flake: ".", attr: "x"}
	good, err := decodeDescription(ref, []byte(`{"kind":"derivation","name":"n","drvPath":"/d.drv","output":"out","only":"vm"}`))
	if err != nil || good.DrvPath != "/d.drv" || good.Output != "out" || good.Only != "vm" {
		t.Errorf("got %+v, %v", good, err)
	}
	for out, want := range map[string]string{
		``:                                 "nix printed no JSON",
		`[]`:                               "nix printed no JSON",
		`{"kind":"derivation"}`:            "a derivation without a path",
		`{"kind":"lambda"}`:                ".#x is not a system: it is a function",
		`{"kind":"string"}`:                "it is a string",
		`{"kind":"null"}`:                  "it is null",
		`{"kind":"int"}`:                   "it is an integer",
		`{"kind":"bool"}`:                  "it is a Boolean",
		`{"kind":"set"}`:                   "it is an empty set",
		`{"kind":"set","attrs":["a","b"]}`: "it is a set with the attributes a, b",
		`{"kind":"set","attrs":["a","b","c","d","e","f","g","h","i","j"]}`: "a, b, c, d, e, f, g, h and 2 more",
		`{"kind":"configurations","attrs":[]}`:                             "no NixOS configurations",
		`{"kind":"configurations","attrs":["a","b"]}`:                      "has the NixOS configurations a, b: say which, as in .#a",
	} {
		if d, err := decodeDescription(ref, []byte(out)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", out, d, err, want)
		}
	}
}

// What nix 2.8 and 2.34 say on standard error of what is not there.
func TestEvaluateKnowsNixWords(t *testing.T) {
	failed := errors.New("nix ended with status 1")
	for name, c := range map[string]struct {
		ref   reference
		words []string // of each run; "" succeeds
		err   error
		want  string
		pass  string
	}{
		"2.8, both missing": {
			reference{text: ".#vm", flake: ".", attr: "vm"},
			[]string{"error: flake 'git+file:///x' does not provide attribute 'packages.x86_64-linux.vm', 'legacyPackages.x86_64-linux.vm' or 'vm'\n", "error: flake 'git+file:///x' does not provide attribute 'nixosConfigurations.vm'\n"},
			failed, "the flake . has no attribute vm and no nixosConfigurations.vm", "error: flake 'git+file:///x' does not provide attribute 'nixosConfigurations.vm'\n",
		},
		"found the second time": {
			reference{text: ".#vm", flake: ".", attr: "vm"},
			[]string{"error: flake 'x' does not provide attribute 'vm'\n", ""}, failed, "", "",
		},
		"no configurations": {
			reference{text: ".", flake: "."},
			[]string{"error: flake 'x' does not provide attribute 'nixosConfigurations'\n"}, failed, ". has no NixOS configurations: name an attribute, as in .#vm", "error: flake",
		},
		"2.8, no flake.nix": {
			reference{text: "path:/x#a.b", flake: "path:/x", attr: "a.b"},
			[]string{"error: getting status of '/nix/store/6bvk-source/flake.nix': No such file or directory\n"}, failed, "there is no flake at path:/x", "error: getting",
		},
		"2.8, no folder": {
			reference{text: "path:/x#a.b", flake: "path:/x", attr: "a.b"},
			[]string{"error: path '/x' does not contain a 'flake.nix', searching up\nerror: could not find a flake.nix file\n"}, failed, "there is no flake at", "error: path",
		},
		"2.34, no flake.nix": {
			reference{text: "path:/x#a.b", flake: "path:/x", attr: "a.b"},
			[]string{"error: source tree referenced by 'path:/x?lastModified=1&narHash=sha256-p' does not contain a '/flake.nix' file\n       path '/nix/store/a-source/flake.nix' does not exist\n"}, failed, "there is no flake at", "error: source",
		},
		"registry": {
			reference{text: "nope#a.b", flake: "nope", attr: "a.b"},
			[]string{"error: cannot find flake 'flake:nope' in the flake registries\n"}, failed, "there is no flake at nope", "error: cannot",
		},
		"its own error": {
			reference{text: ".#a.b", flake: ".", attr: "a.b"},
			[]string{"error: this configuration is broken\n"}, failed, ".#a.b cannot be evaluated: nix ended with status 1", "error: this configuration is broken\n",
		},
		"short name, its own error": {
			reference{text: ".#a", flake: ".", attr: "a"},
			[]string{"error: this configuration is broken\n"}, failed, ".#a cannot be evaluated", "error: this configuration is broken\n",
		},
		"no nix": {reference{text: ".#vm", flake: ".", attr: "vm"}, []string{"-"}, ErrNoNix, "evaluate .#vm: Nix is not installed", ""},
	} {
		for _, quiet := range []bool{false, true} {
			var passed bytes.Buffer
			n := New(Options{Words: &passed, Quiet: quiet})
			runs := 0
			n.run = func(_ context.Context, words io.Writer, program string, args ...string) ([]byte, error) {
				said := c.words[runs]
				runs++
				if said == "" {
					return []byte(`{"kind":"derivation","drvPath":"/d","output":"out"}`), nil
				}
				if said != "-" {
					io.WriteString(words, said)
				}
				return nil, c.err
			}
			_, err := n.evaluate(t.Context(), c.ref)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %q", name, err, c.want)
			}
			if runs != len(c.words) {
				t.Errorf("%s: ran nix %d times, want %d", name, runs, len(c.words))
			}
			if got := passed.String(); !strings.HasPrefix(got, c.pass) || c.pass == "" && got != "" {
				t.Errorf("%s, quiet %v: passed on %q, want %q", name, quiet, got, c.pass)
			}
		}
	}
}

func TestNixIsNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	n := New(Options{RuntimeDir: t.TempDir()})
	if s, err := n.System(t.Context(), "path:/x#vm"); !errors.Is(err, ErrNoNix) {
		t.Errorf("got %+v, %v", s, err)
	}
}
