package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nix-community/go-nix/pkg/storepath"
)

// DefaultDir is where the Nix store is unless NIX_STORE_DIR says otherwise. It
// is also where a guest finds its store, wherever the host keeps it.
const DefaultDir = "/nix/store"

const (
	hashLength    = 32  // base-32 characters of a 160-bit hash
	maxNameLength = 211 // Nix: so that a path with ".lock" and more fits 255 bytes
)

// ErrNoStorePath is what every error of ParsePath wraps.
var ErrNoStorePath = errors.New("not a store path")

// Dir returns the absolute path of the host's store.
func Dir() string {
	if dir := os.Getenv("NIX_STORE_DIR"); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return DefaultDir
}

// Path is a store path: dir/hash-name, nothing below it.
type Path struct {
	Dir  string // absolute, clean
	Base string // "hash-name"
}

// ParsePath reads the absolute path of one entry of the store dir. Everything
// that Nix would not have made is refused with an error that wraps
// ErrNoStorePath: go-nix, which checks the hash and the alphabet, is lenient
// about the prefix, the dash and the length of the name.
func ParsePath(dir, text string) (Path, error) {
	refuse := func(why string) (Path, error) {
		return Path{}, fmt.Errorf("%q is %w: %s", text, ErrNoStorePath, why)
	}
	base, inside := strings.CutPrefix(text, strings.TrimSuffix(dir, "/")+"/")
	switch {
	case !inside:
		return refuse("it is not in " + dir)
	case strings.Contains(base, "/"):
		return refuse("it lies below one")
	case len(base) < hashLength+2 || base[hashLength] != '-':
		return refuse("a hash of 32 characters, a dash and a name make one")
	case len(base) > hashLength+1+maxNameLength:
		return refuse("its name is too long")
	case base[hashLength+1] == '.':
		return refuse("its name starts with a dot")
	}
	if _, err := storepath.FromString(base); err != nil {
		return refuse("its hash or its name holds a character that Nix does not use")
	}
	return Path{Dir: dir, Base: base}, nil
}

// Containing returns the store path that text, a clean absolute path, is or
// lies in.
func Containing(dir, text string) (Path, error) {
	rest, inside := strings.CutPrefix(text, strings.TrimSuffix(dir, "/")+"/")
	if !inside {
		return ParsePath(dir, text)
	}
	base, _, _ := strings.Cut(rest, "/")
	return ParsePath(dir, filepath.Join(dir, base))
}

// String returns the absolute path on the host.
func (p Path) String() string { return p.Dir + "/" + p.Base }

// InGuest returns the absolute path in the guest.
func (p Path) InGuest() string { return DefaultDir + "/" + p.Base }

// Hash returns the base-32 hash, which names the contents for ever.
func (p Path) Hash() string { return p.Base[:hashLength] }

// Name returns what follows the hash.
func (p Path) Name() string { return p.Base[hashLength+1:] }
