package flake

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

var vendorHash = regexp.MustCompile(`vendorHash = "([^"]*)"`)

// buildGoModule hashes the vendor folder that `go mod vendor` makes.
func TestVendorHash(t *testing.T) {
	text, err := os.ReadFile("../../flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	stated := vendorHash.FindSubmatch(text)
	if stated == nil {
		t.Fatal("flake.nix states no vendorHash")
	}
	vendor := filepath.Join(t.TempDir(), "vendor")
	cmd := exec.Command("go", "mod", "vendor", "-o", vendor)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v\n%s", err, out)
	}
	hash, err := HashPath(vendor)
	if err != nil {
		t.Fatal(err)
	}
	if string(stated[1]) != hash {
		t.Errorf("flake.nix says vendorHash = %q, the dependencies have %q", stated[1], hash)
	}
}

func TestLockFile(t *testing.T) {
	text, err := os.ReadFile("../../flake.lock")
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Version int
		Nodes   map[string]struct {
			Locked struct{ Rev, NarHash, Type string }
		}
	}
	if err := json.Unmarshal(text, &lock); err != nil {
		t.Fatal(err)
	}
	if lock.Version != 7 {
		t.Errorf("lock file version %d", lock.Version)
	}
	locked := lock.Nodes["nixpkgs"].Locked
	if len(locked.Rev) != 40 || locked.NarHash == "" || locked.Type != "github" {
		t.Errorf("nixpkgs is not locked: %+v", locked)
	}
}
