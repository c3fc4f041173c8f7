package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/store"
)

// Boot makes a machine of the system that a reference names, and runs it.
func (s *Session) Boot(ctx context.Context, ref string, machine store.Machine, o RunOptions) error {
	m, release, err := s.describe(ctx, ref, machine)
	if err != nil {
		return err
	}
	defer release()
	return s.run(ctx, m, o)
}

// Manifest writes to standard output the manifest that Boot would run.
func (s *Session) Manifest(ctx context.Context, ref string, machine store.Machine) error {
	m, release, err := s.describe(ctx, ref, machine)
	if err != nil {
		return err
	}
	defer release()
	s.progress.Done()
	return s.print(m)
}

// describe leads from a reference to a manifest. What the manifest names stays
// in the store until release.
func (s *Session) describe(ctx context.Context, ref string, machine store.Machine) (*manifest.Manifest, func(), error) {
	system, err := s.nix().System(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	release := s.hold(system)
	m, err := machine.Manifest(system)
	if err != nil {
		release()
		return nil, nil, err
	}
	return m, release, nil
}

// Direct makes a machine of a kernel, initrds, and the toplevel that the link or
// store path rootfs leads to, and runs it. rootfs may be "" for a machine without
// a store, machine.Kernel for that of rootfs.
func (s *Session) Direct(ctx context.Context, rootfs string, machine store.Machine, o RunOptions) error {
	if rootfs == "" && machine.Kernel == "" {
		return Usage("there is nothing to boot: name a reference (boot REF), a manifest (run FILE), or --kernel, --initrd and --rootfs")
	}
	// The files first: a slip in one of them is told before Nix is asked.
	if err := exist("kernel", machine.Kernel); err != nil {
		return err
	}
	for _, initrd := range machine.Initrds {
		if err := exist("initrd", initrd); err != nil {
			return err
		}
	}
	if err := exist("rootfs", rootfs); err != nil {
		return err
	}
	var system *store.System
	if rootfs != "" {
		var err error
		if system, err = s.nix().Toplevel(ctx, rootfs); err != nil {
			return err
		}
		defer s.hold(system)()
	}
	m, err := machine.Manifest(system)
	if err != nil {
		return err
	}
	return s.run(ctx, m, o)
}

// exist returns a sentence for a file that does not, unless its name is "".
func exist(flag, name string) error {
	if name == "" {
		return nil
	}
	_, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("--%s %s: there is no such file", flag, name)
	case err != nil:
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return nil
}

// maxManifest bounds a manifest's length in bytes: far beyond the closure of
// any system.
const maxManifest = 64 << 20

// Run runs the machine of a manifest file.
func (s *Session) Run(ctx context.Context, name string, o RunOptions) error {
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("read the manifest: %w", err)
	}
	if info.IsDir() || info.Size() > maxManifest {
		return fmt.Errorf("read the manifest: %s is not a file of at most %d MiB", name, maxManifest>>20)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read the manifest: %w", err)
	}
	m, err := manifest.Decode(data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return s.run(ctx, m, o)
}

// print writes a manifest to standard output.
func (s *Session) print(m *manifest.Manifest) error {
	text, err := m.Encode()
	if err != nil {
		return err
	}
	if _, err := bytes.NewReader(text).WriteTo(s.Stdout); err != nil {
		return fmt.Errorf("print the manifest: %w", err)
	}
	return nil
}
