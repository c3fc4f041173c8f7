package prepare

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/drzln/whiterun/internal/testbed/machine"
)

// flakes are the repository's folders that hold the systems to build.
var flakes = []string{"examples/debian", "tests/testdata/system"}

// script builds them with nix; it runs in the machine and is given the repository.
//
//go:embed build.sh
var script string

// Bed is a prepared testbed.
type Bed struct {
	QEMU    machine.QEMU
	Kernel  string // the outer machine's bzImage
	Modules string // folder of its modules
	Image   string // the prepared root as an ext4 image; empty for a bed on the host
	Root    string // the prepared root as a folder; empty for a bed in the outer machine
}

type preparation struct {
	cache string
	repo  string
	log   io.Writer
}

// Nested prepares the outer machine, whose prepared root is an image.
func Nested(ctx context.Context, repo string, log io.Writer) (Bed, error) {
	return prepare(ctx, repo, log, "prepared", (*preparation).buildImage)
}

// OnHost prepares a root folder to run in on a host with real KVM.
func OnHost(ctx context.Context, repo string, log io.Writer) (Bed, error) {
	return prepare(ctx, repo, log, "host", (*preparation).buildFolder)
}

func prepare(ctx context.Context, repo string, log io.Writer, kind string,
	build func(*preparation, context.Context, Bed, roots, string) error,
) (bed Bed, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("preparing the testbed: %w", err)
		}
	}()
	cache, err := cacheDir()
	if err != nil {
		return bed, err
	}
	p := &preparation{cache: cache, repo: repo, log: log}
	held, err := lock(cache, func() { p.say("waiting for another preparation") })
	if err != nil {
		return bed, err
	}
	defer held.Close()
	if err := prune(cache); err != nil {
		return bed, err
	}
	roots, err := p.makeRoots(ctx)
	if err != nil {
		return bed, err
	}
	versions, err := kernels(roots.outer)
	if err != nil {
		return bed, err
	}
	bed = Bed{
		QEMU:    machine.QEMU{Root: roots.qemu},
		Kernel:  filepath.Join(roots.outer, "boot", "vmlinuz-"+versions[0]),
		Modules: filepath.Join(roots.outer, "lib", "modules", versions[0]),
	}
	var sources []string
	for _, flake := range flakes {
		sources = append(sources, filepath.Join(repo, flake))
	}
	tree, err := treeKey(sources...)
	if err != nil {
		return bed, err
	}
	path := filepath.Join(cache, kind+"-"+key(filepath.Dir(roots.outer), tree, script))
	err = once(path, func(path string) error { return build(p, ctx, bed, roots, path) })
	if kind == "host" {
		bed.Root = path
	} else {
		bed.Image = path
	}
	return bed, err
}

// imageSize is the size of the outer machine's root in bytes; the file is sparse.
const imageSize = 8 << 30

// buildMemory is the memory of the machine that builds, in MiB.
const buildMemory = 4096

// buildImage makes an ext4 image of the outer root and boots it once to build
// the flakes in it.
func (p *preparation) buildImage(ctx context.Context, bed Bed, roots roots, path string) error {
	bed.Image = path
	job := p.buildJob()
	job.Keep = true
	return buildResult(machine.Retry(ctx, p.log, func() (int, error) {
		// A machine that failed may have left half of something on its disk.
		done := p.stage("making the outer machine's disk")
		if err := makeImage(ctx, roots.outer, path); err != nil {
			return 0, err
		}
		done()
		defer p.stage("building the systems with nix in the outer machine")()
		return machine.Run(ctx, bed.Config(buildMemory), job, machine.Streams{Out: p.log, Err: p.log})
	}))
}

// buildFolder copies the outer root and builds the flakes in it, in namespaces
// of this host.
func (p *preparation) buildFolder(ctx context.Context, bed Bed, roots roots, path string) error {
	done := p.stage("copying the root")
	cmd := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", roots.outer, path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w: %s", err, out)
	}
	done()
	defer p.stage("building the systems with nix")()
	job := p.buildJob()
	job.Keep = true
	status, err := machine.RunOnHost(ctx, path, job, machine.Streams{Out: p.log, Err: p.log})
	return buildResult(status, err)
}

func buildResult(status int, err error) error {
	if err == nil && status != 0 {
		err = fmt.Errorf("the build ended with status %d", status)
	}
	return err
}

// buildJob runs the script with the names of the flakes' folders.
func (p *preparation) buildJob() machine.Job {
	return machine.Job{
		Args:   append([]string{"/bin/bash", "-euc", script, "build", p.repo}, flakes...),
		Env:    machine.BaseEnv(),
		Dir:    "/",
		Shares: []machine.Share{{Source: p.repo, Target: p.repo}},
	}
}

// Config returns the outer machine with that much memory.
func (b Bed) Config(memoryMiB int) machine.Config {
	return machine.Config{
		QEMU: b.QEMU, Kernel: b.Kernel, Modules: b.Modules, Image: b.Image, MemoryMiB: memoryMiB,
	}
}

// makeImage packs a folder into a sparse ext4 image. It needs no journal: what
// is written to it later is thrown away.
func makeImage(ctx context.Context, dir, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(imageSize), file.Close()); err != nil {
		return err
	}
	program, err := exec.LookPath("mke2fs")
	if err != nil {
		// An ordinary user's PATH lacks the folder.
		program = "/usr/sbin/mke2fs"
	}
	cmd := exec.CommandContext(ctx, program, imageArgs(dir, path)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	return nil
}

func imageArgs(dir, path string) []string {
	return []string{
		"-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "400000",
		"-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0",
		"-d", dir, path,
	}
}

// stage says what begins; the function it returns says how long it took.
func (p *preparation) stage(format string, args ...any) func() {
	what, start := fmt.Sprintf(format, args...), time.Now()
	p.say("%s", what)
	return func() { p.say("%s: %s", what, time.Since(start).Round(100*time.Millisecond)) }
}

func (p *preparation) say(format string, args ...any) {
	fmt.Fprintf(p.log, "testbed: %s\n", strings.TrimSpace(fmt.Sprintf(format, args...)))
}
