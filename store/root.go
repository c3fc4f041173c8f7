package store

import (
	"crypto/sha1"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nix-community/go-nix/pkg/nixbase32"
	"golang.org/x/sys/unix"
)

// root is one machine's indirect root of the garbage collector: a symbolic link
// to the toplevel in a folder that the machine has to itself. The folder is
// locked while the machine lives, so one that a killed machine left behind is
// used again by the next.
type root struct {
	dir  string   // absolute
	lock *os.File // dir, opened and flock'ed
}

// newRoot takes the first free folder below the runtime folder.
func newRoot(runtimeDir string) (*root, error) {
	for i := 0; ; i++ {
		dir := filepath.Join(runtimeDir, fmt.Sprintf("machine-%d", i))
		// The runtime folder may go away at any time with its last machine.
		if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("make a folder for the machine's root: %w", err)
		}
		lock, err := lockDir(dir)
		if err != nil {
			return nil, fmt.Errorf("lock the folder for the machine's root: %w", err)
		}
		if lock != nil {
			return &root{dir, lock}, nil
		}
	}
}

// lockDir returns dir opened and locked, or nil when another machine has it or
// has just removed it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	locked, err := f.Stat()
	named, err2 := os.Stat(dir)
	if err != nil || err2 != nil || !os.SameFile(locked, named) {
		f.Close()
		return nil, nil
	}
	return f, nil
}

// link returns the path of the link that nix is told to make.
func (r *root) link() string { return filepath.Join(r.dir, "toplevel") }

// Close removes the link and everything that was made for it. It may be called
// again.
func (r *root) Close() error {
	if r == nil || r.lock == nil {
		return nil
	}
	r.removeAuto()
	err := os.RemoveAll(r.dir)
	_ = os.Remove(filepath.Dir(r.dir)) // the last machine's only
	err = errors.Join(err, r.lock.Close())
	r.lock = nil
	if err != nil {
		return fmt.Errorf("remove the machine's root: %w", err)
	}
	return nil
}

// removeAuto removes what nix made to find the link: gcroots/auto/HASH, where
// HASH is of the link's path. The collector removes it too once the link is
// gone; who may not do so here leaves it to the collector.
func (r *root) removeAuto() {
	state := os.Getenv("NIX_STATE_DIR")
	if state == "" {
		state = "/nix/var/nix"
	}
	hash := sha1.Sum([]byte(r.link()))
	auto := filepath.Join(state, "gcroots/auto", nixbase32.EncodeToString(hash[:]))
	if target, err := os.Readlink(auto); err == nil && target == r.link() {
		_ = os.Remove(auto)
	}
}

// runtimeDir returns the folder below which machines have theirs: that of the
// user's session, root's, or the user's cache.
func runtimeDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		if unix.Access(dir, unix.W_OK) == nil {
			return filepath.Join(dir, "whiterun"), nil
		}
	}
	if unix.Access("/run", unix.W_OK) == nil {
		return "/run/whiterun", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for the machine's root: neither XDG_RUNTIME_DIR nor a cache folder: %w", err)
	}
	return filepath.Join(cache, "whiterun/run"), nil
}
