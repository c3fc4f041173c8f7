package store

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

const hash = "mb49b5z7icf8x42f5gcwg10b95v9wazf"

func TestParsePath(t *testing.T) {
	for _, c := range []struct{ dir, text string }{
		{"/nix/store", "/nix/store/" + hash + "-hello"},
		{"/nix/store", "/nix/store/" + hash + "-a.b+c_d?e=f-9"},
		{"/nix/store", "/nix/store/" + hash + "-" + strings.Repeat("n", 211)},
		{"/tmp/x/store", "/tmp/x/store/" + hash + "-h"},
	} {
		p, err := ParsePath(c.dir, c.text)
		if err != nil || p.String() != c.text || p.Hash() != hash || p.Hash()+"-"+p.Name() != p.Base || p.InGuest() != "/nix/store/"+p.Base {
			t.Errorf("%s: got %+v, %v", c.text, p, err)
		}
	}
	for text, want := range map[string]string{
		"":                                                      "not in /nix/store",
		"/nix/store":                                            "not in /nix/store",
		"/nix/store/":                                           "32 characters",
		"/gnu/store/" + hash + "-hello":                         "not in /nix/store",
		"/nix/storX/" + hash + "-hello":                         "not in /nix/store",
		"/nix/store/" + hash:                                    "32 characters",
		"/nix/store/" + hash + "-":                              "32 characters",
		"/nix/store/" + hash + "hello":                          "32 characters",
		"/nix/store/" + hash + "_hello":                         "32 characters",
		"/nix/store/" + hash + "-hello/x":                       "lies below one",
		"/nix/store/" + hash + "-hello/":                        "lies below one",
		"/nix/store/" + hash + "-.hello":                        "starts with a dot",
		"/nix/store/" + hash + "-he llo":                        "character that Nix does not use",
		"/nix/store/" + hash + "-hällo":                         "character that Nix does not use",
		"/nix/store/" + strings.Repeat("e", 32) + "-hello":      "character that Nix does not use",
		"/nix/store/" + hash + "-" + strings.Repeat("n", 212):   "too long",
		"/nix/store/../store/" + hash + "-hello":                "lies below one",
		"/nix/store/" + strings.ToUpper(hash) + "-hello":        "character that Nix does not use",
		"/nix/store/.links-and-more-than-thirty-two-characters": "32 characters",
	} {
		if p, err := ParsePath("/nix/store", text); !errors.Is(err, ErrNoStorePath) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %+v, %v, want an error with %q", text, p, err, want)
		}
	}
}

func TestContaining(t *testing.T) {
	p, err := Containing("/nix/store", "/nix/store/"+hash+"-hello/bin/hello")
	if err != nil || p.Base != hash+"-hello" {
		t.Errorf("got %+v, %v", p, err)
	}
	for _, text := range []string{"/etc/passwd", "/nix/store", "/nix/store/.links/x"} {
		if p, err := Containing("/nix/store", text); !errors.Is(err, ErrNoStorePath) {
			t.Errorf("%s: got %+v, %v", text, p, err)
		}
	}
}

// FuzzParsePath holds that what is accepted is one clean entry of the store.
func FuzzParsePath(f *testing.F) {
	f.Add("/nix/store/" + hash + "-hello")
	f.Add("/nix/store/" + hash + "-../..")
	f.Add(hash)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePath(DefaultDir, text)
		if err != nil {
			return
		}
		if p.String() != text || filepath.Clean(text) != text || filepath.Dir(text) != DefaultDir || len(p.Base) > 255 || p.Name() == "" {
			t.Errorf("%q: got %+v", text, p)
		}
	})
}
