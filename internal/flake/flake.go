// Package flake keeps flake.nix true: the hash that it states of the project's
// Go dependencies is computed here the way Nix does.
package flake

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"

	"github.com/nix-community/go-nix/pkg/nar"
)

// HashPath returns the SRI hash of the file tree at path, as `nix hash path`
// prints it: SHA-256 of its NAR serialisation.
func HashPath(path string) (string, error) {
	h := sha256.New()
	if err := nar.DumpPath(h, path); err != nil {
		return "", fmt.Errorf("serialise %s: %w", path, err)
	}
	return "sha256-" + base64.StdEncoding.EncodeToString(h.Sum(nil)), nil
}
