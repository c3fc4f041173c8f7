package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drzln/whiterun/internal/testbed/debian"
)

// Debian 13 has QEMU 10, whose emulated SVM is the more reliable, and the newer guest kernel.
const newSuite = "trixie"

var (
	qemuPackages   = []string{"qemu-system-x86"}
	kernelPackages = []string{"linux-image-amd64"}
)

// Debian 12 is the outer machine's user land. Its kernel is the outer one and
// the older guest kernel; its QEMU and virtiofsd are peers to measure against.
const outerSuite = "bookworm"

var outerPackages = []string{
	"base-files", "bash", "libc-bin", "coreutils", "findutils", "diffutils", "grep", "sed", "gawk", "tar",
	"procps", "util-linux", "mount", "kmod", "cpio", "gzip", "xz-utils", "zstd", "iproute2",
	"busybox-static", "nix-bin", "strace", "acpica-tools", "squashfs-tools", "erofs-utils",
	"qemu-system-x86", "linux-image-amd64",
}

// rootFiles are the files of the outer root that no package brings.
var rootFiles = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
	"etc/group":  "root:x:0:\nkvm:x:104:\nnogroup:x:65534:\n",
	"etc/hosts":  "127.0.0.1 localhost\n",
	"etc/nix/nix.conf": `experimental-features = nix-command flakes
build-users-group =
sandbox = false
substituters =
flake-registry =
`,
}

// rootLinks are links that maintainer scripts would have made.
var rootLinks = map[string]string{
	"usr/bin/sh":  "bash",
	"usr/bin/awk": "gawk",
}

// roots are the unpacked roots.
type roots struct {
	qemu, outer string
}

// makeRoots unpacks both roots into folders below dir.
func (p *preparation) makeRoots(ctx context.Context) (roots, error) {
	name := key(slices.Concat(
		[]string{"2", newSuite, outerSuite, fmt.Sprint(rootFiles), fmt.Sprint(rootLinks), fmt.Sprint(keptModules), fmt.Sprint(dropped)},
		qemuPackages, kernelPackages, outerPackages)...)
	dir := filepath.Join(p.cache, "roots-"+name)
	err := once(dir, func(dir string) error {
		apt, err := os.MkdirTemp(p.cache, "apt-*"+partial)
		if err != nil {
			return err
		}
		defer func() { _ = removeTree(apt) }()
		if err := p.newRoot(ctx, apt, dir); err != nil {
			return err
		}
		if err := p.outerRoot(ctx, apt, filepath.Join(dir, "outer")); err != nil {
			return err
		}
		return finishOuter(filepath.Join(dir, "outer"))
	})
	return roots{filepath.Join(dir, "qemu"), filepath.Join(dir, "outer")}, err
}

// newRoot unpacks Debian 13's QEMU into dir/qemu and its kernel into dir/outer.
func (p *preparation) newRoot(ctx context.Context, apt, dir string) error {
	done := p.stage("fetching QEMU and a kernel of Debian %s", newSuite)
	suite, err := debian.OpenSuite(ctx, newSuite, filepath.Join(apt, newSuite))
	if err != nil {
		return err
	}
	qemu, err := suite.Download(ctx, "qemu", qemuPackages...)
	if err != nil {
		return err
	}
	kernel, err := suite.Download(ctx, "kernel", kernelPackages...)
	if err != nil {
		return err
	}
	done()
	defer p.stage("unpacking them")()
	if err := debian.Unpack(ctx, filepath.Join(dir, "qemu"), qemu, keep); err != nil {
		return err
	}
	// Of what a kernel depends on, only the kernel itself.
	kernel = slices.DeleteFunc(kernel, func(deb string) bool {
		return !strings.HasPrefix(filepath.Base(deb), "linux-image-6")
	})
	return debian.Unpack(ctx, filepath.Join(dir, "outer"), kernel, keep)
}

func (p *preparation) outerRoot(ctx context.Context, apt, dir string) error {
	done := p.stage("fetching the outer machine's user land of Debian %s", outerSuite)
	suite, err := debian.OpenSuite(ctx, outerSuite, filepath.Join(apt, outerSuite))
	if err != nil {
		return err
	}
	debs, err := suite.Download(ctx, "outer", outerPackages...)
	if err != nil {
		return err
	}
	done()
	defer p.stage("unpacking it")()
	return debian.Unpack(ctx, dir, debs, keep)
}

// finishOuter does what maintainer scripts would do, as far as it is needed and
// needs no program of the root; the build script does the rest.
func finishOuter(dir string) error {
	for name, text := range rootFiles {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, target := range rootLinks {
		link := filepath.Join(dir, name)
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, link); err != nil {
			return err
		}
	}
	for _, name := range []string{"nix/store", "nix/var/nix/gcroots", "out"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// kernels returns the versions of the kernels in a root, the oldest first.
func kernels(root string) ([]string, error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return nil, fmt.Errorf("no kernel in %s", root)
	}
	var versions []string
	for _, image := range images {
		versions = append(versions, strings.TrimPrefix(filepath.Base(image), "vmlinuz-"))
	}
	slices.SortFunc(versions, compareVersions)
	return versions, nil
}

// compareVersions orders kernel versions by their numbers.
func compareVersions(a, b string) int {
	digits := func(s string) (numbers []int) {
		for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
			n := 0
			for _, digit := range field {
				n = n*10 + int(digit-'0')
			}
			numbers = append(numbers, n)
		}
		return numbers
	}
	return slices.Compare(digits(a), digits(b))
}
