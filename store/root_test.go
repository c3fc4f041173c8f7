package store

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRootsShareNothing(t *testing.T) {
	base := filepath.Join(t.TempDir(), "runtime/whiterun")
	first, err := newRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	second, err := newRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	if first.link() == second.link() {
		t.Fatalf("two machines have the link %s", first.link())
	}
	// A machine that was killed leaves its folder without the lock.
	if err := os.Symlink("/gone", second.link()); err != nil {
		t.Fatal(err)
	}
	second.lock.Close()
	third, err := newRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	if third.dir != second.dir {
		t.Errorf("took %s, and %s stays behind", third.dir, second.dir)
	}
	for _, r := range []*root{third, first, first, nil} {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(base); !os.IsNotExist(err) {
		t.Errorf("the runtime folder is left behind: %v", err)
	}
}

func TestRootFolderCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := newRoot(filepath.Join(file, "below")); err == nil {
		t.Errorf("got %+v", r)
	}
}
