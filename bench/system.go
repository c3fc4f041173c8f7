package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/internal/early"
)

// storeDir is where the store lies, here and in the guest.
const storeDir = "/nix/store"

// linksDir is Nix' own, and no store path: Whiterun does not serve it.
const linksDir = storeDir + "/.links"

// The store paths made here. Their hashes are made up: Nix is told that they
// are valid, and looks no further.
const (
	dataPath     = storeDir + "/00000000000000000000000000000000-bench-data"
	toplevelPath = storeDir + "/11111111111111111111111111111111-nixos-system-bench"
)

// guestModules are the drivers of every transport; each guest loads all of them.
var guestModules = []string{"virtio_pci", "virtio_mmio", "virtio_console", "9pnet_virtio", "9p", "virtiofs"}

// system is the machine that every peer boots.
type system struct {
	version string // the kernel's
	kernel  string // bzImage
	initrd  string
	nodes   int // files and folders of the store, with the store itself
	bytes   int64
}

// makeSystem puts into memory the closure of the example's machine, the data,
// and a toplevel of this binary, and mounts all that over /nix/store.
func makeSystem(ctx context.Context, scratch, kernel string) (system, error) {
	var sys system
	link := "/srv/whiterun/systems/debian/vm-" + strings.ReplaceAll(kernel, ".", "_")
	base, err := os.Readlink(link)
	if err != nil {
		return sys, fmt.Errorf("the testbed has no system with a kernel %s: %w", kernel, err)
	}
	output, err := command(ctx, "", "nix-store", "--query", "--requisites", base)
	if err != nil {
		return sys, err
	}
	closure := strings.Fields(string(output))

	store := filepath.Join(scratch, "store")
	if err := early.Mount("store", "tmpfs", store, 0, "mode=0755"); err != nil {
		return sys, err
	}
	if _, err := command(ctx, "", "cp", append(append([]string{"-a"}, closure...), store)...); err != nil {
		return sys, err
	}
	staged := func(path string) string { return filepath.Join(store, filepath.Base(path)) }
	if err := makeData(staged(dataPath)); err != nil {
		return sys, err
	}
	if err := os.Mkdir(staged(toplevelPath), 0o755); err != nil {
		return sys, err
	}
	if err := unix.Mount(store, storeDir, "", unix.MS_BIND, ""); err != nil {
		return sys, fmt.Errorf("mount %s on %s: %w", store, storeDir, err)
	}
	if sys.kernel, err = filepath.EvalSymlinks(filepath.Join(base, "kernel")); err != nil {
		return sys, err
	}
	version, err := os.ReadFile(filepath.Join(filepath.Dir(sys.kernel), "version"))
	if err != nil {
		return sys, err
	}
	sys.version = strings.TrimSpace(string(version))
	sys.initrd = filepath.Join(toplevelPath, "initrd")
	if err := makeToplevel(ctx, scratch, sys); err != nil {
		return sys, err
	}
	if _, err := command(ctx, registration(closure), "nix-store", "--load-db"); err != nil {
		return sys, err
	}
	if err := os.RemoveAll(linksDir); err != nil {
		return sys, err
	}
	all, err := walk(storeDir)
	sys.nodes, sys.bytes = all.items, all.bytes
	return sys, err
}

// makeToplevel makes the files by which a toplevel is known.
func makeToplevel(ctx context.Context, scratch string, sys system) error {
	in := func(name string) string { return filepath.Join(toplevelPath, name) }
	if err := makeInitrd(ctx, filepath.Join(scratch, "initrd"), sys.version, in("initrd")); err != nil {
		return fmt.Errorf("make the initrd: %w", err)
	}
	if err := os.Symlink(sys.kernel, in("kernel")); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"kernel-params": kernelParameters, "system": "x86_64-linux", "nixos-version": "bench",
	} {
		if err := os.WriteFile(in(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return copySelf(in("init"))
}

// makeInitrd packs this binary, as /init, and the modules of a kernel.
func makeInitrd(ctx context.Context, dir, version, target string) error {
	if err := os.MkdirAll(filepath.Join(dir, "modules"), 0o755); err != nil {
		return err
	}
	if err := copySelf(filepath.Join(dir, "init")); err != nil {
		return err
	}
	// Where no console has a driver yet, a Go program needs one to start with.
	null := filepath.Join(dir, "dev", "null")
	if err := os.Mkdir(filepath.Dir(null), 0o755); err != nil {
		return err
	}
	if err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return fmt.Errorf("make %s: %w", null, err)
	}
	var shown bytes.Buffer
	for _, module := range guestModules {
		output, err := command(ctx, "", "modprobe", "--set-version", version, "--show-depends", module)
		if err != nil {
			return err
		}
		shown.Write(output)
	}
	for i, file := range moduleFiles(shown.String()) {
		name := strings.TrimSuffix(filepath.Base(file), ".xz")
		show := "cat"
		if strings.HasSuffix(file, ".xz") {
			show = "xzcat"
		}
		image, err := command(ctx, "", show, file)
		if err != nil {
			return err
		}
		// The numbers keep the order.
		if err := os.WriteFile(filepath.Join(dir, "modules", fmt.Sprintf("%02d-%s", i, name)), image, 0o644); err != nil {
			return err
		}
	}
	archive, err := command(ctx, "", "sh", "-ec", `cd "$1"; find . | sort | cpio --quiet --create --format=newc`, "sh", dir)
	if err != nil {
		return err
	}
	return os.WriteFile(target, archive, 0o644)
}

// moduleFiles returns the files that `modprobe --show-depends` says are to be
// loaded, in order, each once.
func moduleFiles(shown string) []string {
	var files []string
	seen := map[string]bool{}
	for line := range strings.Lines(shown) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "insmod" && !seen[fields[1]] {
			seen[fields[1]] = true
			files = append(files, fields[1])
		}
	}
	return files
}

// registration returns the text by which `nix-store --load-db` takes the paths
// made here for valid: path, hash, size, deriver, and the references.
func registration(closure []string) string {
	var b strings.Builder
	register := func(path string, references []string) {
		fmt.Fprintf(&b, "%s\n%064d\n%d\n\n%d\n", path, 0, 1, len(references))
		for _, reference := range references {
			fmt.Fprintln(&b, reference)
		}
	}
	register(dataPath, nil)
	register(toplevelPath, append([]string{dataPath}, closure...))
	return b.String()
}

// copySelf copies this binary.
func copySelf(target string) error {
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(file, source); err != nil {
		return err
	}
	return file.Close()
}

// command runs a program to its end and returns what it prints.
func command(ctx context.Context, input string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(complaint.Bytes()))
	}
	return output, nil
}
