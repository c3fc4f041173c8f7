package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"sync"
)

// Unpack unpacks .deb files into dir, which need not exist. keep, where not
// nil, is asked for each file and link by its path without a leading slash.
func Unpack(ctx context.Context, dir string, debs []string, keep func(name string) bool) error {
	root, err := makeRoot(dir)
	if err != nil {
		return fmt.Errorf("unpacking into %s: %w", dir, err)
	}
	defer root.Close()

	// Packages are unpacked in any order and at the same time: no two hold the same file.
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		failed  error
		next    = make(chan string)
	)
	for range runtime.NumCPU() {
		workers.Go(func() {
			for deb := range next {
				if err := unpackDeb(ctx, root, deb, keep); err != nil {
					mu.Lock()
					failed = errors.Join(failed, fmt.Errorf("unpacking %s: %w", path.Base(deb), err))
					mu.Unlock()
				}
			}
		})
	}
	for _, deb := range debs {
		next <- deb
	}
	close(next)
	workers.Wait()
	return failed
}

// makeRoot makes the folders every Debian root has, with /bin, /sbin and /lib
// merged into /usr, so that packages built before that merge fall in place.
func makeRoot(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		err := root.MkdirAll("usr/"+name, 0o755)
		if err == nil {
			err = root.Symlink("usr/"+name, name)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(err, root.Close())
		}
	}
	for _, name := range []string{"proc", "sys", "dev", "run", "tmp", "root", "etc", "var/tmp"} {
		if err := root.MkdirAll(name, 0o755); err != nil {
			return nil, errors.Join(err, root.Close())
		}
	}
	return root, nil
}

func unpackDeb(ctx context.Context, root *os.Root, deb string, keep func(string) bool) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = unpackTar(root, out, keep)
	if err == nil {
		// dpkg-deb wants its padding read, too.
		_, err = io.Copy(io.Discard, out)
	}
	out.Close()
	return errors.Join(err, cmd.Wait())
}

// unpackTar unpacks a package's tree. Ownership, times and special files are
// left out: nothing here needs them.
func unpackTar(root *os.Root, r io.Reader, keep func(string) bool) error {
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		if name == "" {
			continue
		}
		if header.Typeflag == tar.TypeDir {
			// A folder may already be a link: lib is usr/lib.
			if err := root.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		if keep != nil && !keep(name) {
			continue
		}
		if err := unpackEntry(root, name, header, archive); err != nil {
			return err
		}
	}
}

func unpackEntry(root *os.Root, name string, header *tar.Header, body io.Reader) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg:
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, header.FileInfo().Mode().Perm()|0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, body)
		return errors.Join(err, file.Close())
	case tar.TypeSymlink:
		if err := root.Symlink(header.Linkname, name); !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeLink:
		target := strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")
		if err := root.Link(target, name); !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
