// Package prepare makes what the outer machine runs from: an unpacked QEMU, the
// outer machine's root, and the prepared root in which real nix has built the
// systems the tests boot. All of it lies in one cache folder, each part under
// a key that changes exactly when what it is made from changes.
package prepare

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cacheDir returns the testbed's cache folder, making it.
func cacheDir() (string, error) {
	dir := os.Getenv("WHITERUN_TESTBED_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			// A bare container may lack even HOME.
			base = "/var/tmp"
		}
		dir = filepath.Join(base, "whiterun", "testbed")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// Without links, as the kernel names mount points.
	return filepath.EvalSymlinks(dir)
}

// lock waits for the cache's lock; closing the file releases it.
func lock(dir string, waiting func()) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		waiting()
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", file.Name(), err), file.Close())
	}
	return file, nil
}

// key returns a short hash of texts.
func key(texts ...string) string {
	hash := sha256.New()
	for _, text := range texts {
		fmt.Fprintf(hash, "%d:%s", len(text), text)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}

// treeKey returns a short hash of the names, kinds, execute bits and contents
// of all that lies in folders.
func treeKey(dirs ...string) (string, error) {
	hash := sha256.New()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			fmt.Fprintf(hash, "%q %v %t\n", name, info.Mode().Type(), info.Mode()&0o100 != 0)
			switch {
			case info.Mode().IsRegular():
				return hashFile(hash, path)
			case info.Mode().Type() == fs.ModeSymlink:
				target, err := os.Readlink(path)
				fmt.Fprintf(hash, "%q\n", target)
				return err
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func hashFile(w io.Writer, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(w, file)
	return err
}

// stale is the time after which a part of the cache nobody used goes.
const stale = 2 * 24 * time.Hour

// prune removes leftovers of broken preparations and parts not used for long.
// The caller holds the lock.
func prune(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || entry.Name() == "lock" {
			continue
		}
		if strings.HasSuffix(entry.Name(), partial) || time.Since(info.ModTime()) > stale {
			if err := removeTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// partial ends the name of what is not finished.
const partial = ".partial"

// once makes the part of the cache at path by calling build with a path beside
// it, unless it is there. A part is there only as a whole. The caller holds the lock.
func once(path string, build func(path string) error) error {
	now := time.Now()
	if os.Chtimes(path, now, now) == nil {
		return nil
	}
	unfinished := path + partial
	if err := removeTree(unfinished); err != nil {
		return err
	}
	if err := build(unfinished); err != nil {
		return errors.Join(err, removeTree(unfinished))
	}
	return os.Rename(unfinished, path)
}

// removeTree removes a folder with all that lies in it, unless something is
// mounted there: that would be removed, too.
func removeTree(path string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if point := mountBelow(string(mounts), path); point != "" {
		return fmt.Errorf("not removing %s: something is mounted on %s", path, point)
	}
	return os.RemoveAll(path)
}

// mountBelow returns a mount point at or below path, or nothing. The mount
// point is the fifth field of a line of mountinfo (proc_pid_mountinfo(5)).
func mountBelow(mountinfo, path string) string {
	escaped := strings.NewReplacer("\\", `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(path)
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == escaped || strings.HasPrefix(fields[4], escaped+"/")) {
			return fields[4]
		}
	}
	return ""
}
