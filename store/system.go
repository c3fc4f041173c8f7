package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoKernel is wrapped by the error for a toplevel that cannot be booted.
var ErrNoKernel = errors.New("holds no kernel")

// System is a built NixOS system and everything a machine needs of it. The
// garbage collector leaves it alone until Close.
type System struct {
	Name     string // what to call a machine that runs it, not yet fit for a manifest
	Toplevel Path
	Boot     Boot
	Closure  []Path // sorted, Toplevel among them
	root     *root
}

// Close lets go of the garbage collector's root. It may be called again.
func (s *System) Close() error { return s.root.Close() }

// System finds, builds where need be, and holds the system that a reference
// names. The caller closes it.
func (n *Nix) System(ctx context.Context, text string) (*System, error) {
	s, err := n.hold(ctx, text)
	if err != nil {
		return nil, err
	}
	if s.Boot.Kernel == "" {
		s.Close()
		return nil, noKernel(text, s)
	}
	return s, nil
}

// Toplevel is System for the folder of a toplevel whose kernel is given by the
// caller and may be missing here. A reference that needs evaluation is refused.
func (n *Nix) Toplevel(ctx context.Context, path string) (*System, error) {
	ref, err := parseReference(n.dir, path)
	if err != nil {
		return nil, err
	}
	if ref.path == "" {
		return nil, fmt.Errorf("%q is no built system: it is a flake, which boot takes", path)
	}
	return n.hold(ctx, path)
}

func (n *Nix) hold(ctx context.Context, text string) (_ *System, err error) {
	ref, err := parseReference(n.dir, text)
	if err != nil {
		return nil, err
	}
	name := ref.name()

	// wanted is what nix-store is asked to have: a store path that is there or
	// can be fetched, or one output of a derivation.
	var wanted string
	if ref.path != "" {
		path, err := Containing(n.dir, ref.path)
		if err != nil {
			return nil, err
		}
		wanted, name = path.String(), hostName(path.Name())
	} else {
		n.Stage("evaluate")
		d, err := n.evaluate(ctx, ref)
		if err != nil {
			return nil, err
		}
		wanted = d.DrvPath + "!" + d.Output
		if d.Only != "" {
			name = d.Only
		}
	}

	n.Stage("build")
	root, toplevel, err := n.realise(ctx, ref, wanted)
	if err != nil {
		return nil, err
	}
	s := &System{Name: name, Toplevel: toplevel, root: root}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.Boot, err = readBoot(toplevel, n.Log); err != nil {
		return nil, err
	}

	n.Stage("closure")
	if s.Closure, err = n.closure(ctx, toplevel); err != nil {
		return nil, err
	}
	return s, nil
}

// realise has nix build or fetch what is wanted, with a root on it from the
// moment it exists, and returns that root and the store path.
func (n *Nix) realise(ctx context.Context, ref reference, wanted string) (_ *root, _ Path, err error) {
	base := n.RuntimeDir
	if base == "" {
		if base, err = runtimeDir(); err != nil {
			return nil, Path{}, err
		}
	}
	root, err := newRoot(base)
	if err != nil {
		return nil, Path{}, err
	}
	defer func() {
		if err != nil {
			root.Close()
		}
	}()

	if _, err := n.call(ctx, "nix-store", "--realise", wanted, "--add-root", root.link(), "--indirect"); err != nil {
		switch {
		case context.Cause(ctx) != nil || errors.Is(err, ErrNoNix):
			return nil, Path{}, fmt.Errorf("build %s: %w", ref.text, err)
		case ref.path != "":
			return nil, Path{}, fmt.Errorf("%s is not in the store, and nix cannot fetch it: %w", wanted, err)
		}
		return nil, Path{}, fmt.Errorf("%s cannot be built: %w", ref.text, err)
	}
	// The link, not the evaluation, knows the path: a content-addressed
	// derivation has none before it is built.
	target, err := filepath.EvalSymlinks(root.link())
	if err != nil {
		return nil, Path{}, fmt.Errorf("read the root of %s: %w", ref.text, err)
	}
	toplevel, err := ParsePath(n.dir, target)
	if err != nil {
		return nil, Path{}, fmt.Errorf("build %s: %w", ref.text, err)
	}
	return root, toplevel, nil
}

// closure returns every store path that path needs, itself among them, sorted.
func (n *Nix) closure(ctx context.Context, path Path) ([]Path, error) {
	out, err := n.call(ctx, "nix-store", "--query", "--requisites", path.String())
	if err != nil {
		return nil, fmt.Errorf("find the closure of %s: %w", path, err)
	}
	var all []Path
	for line := range strings.Lines(string(out)) {
		one, err := ParsePath(n.dir, strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("find the closure of %s: %w", path, err)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Path) int { return strings.Compare(a.Base, b.Base) })
	all = slices.Compact(all)
	if !slices.Contains(all, path) {
		return nil, fmt.Errorf("find the closure of %s: nix-store left the path itself out", path)
	}
	return all, nil
}

// noKernel says what a toplevel without a kernel is.
func noKernel(text string, s *System) error {
	switch {
	case s.Boot.Init != "":
		return fmt.Errorf("%s cannot be booted: its toplevel %w, as that of a container (boot.isContainer) does", text, ErrNoKernel)
	case strings.Contains(text, "#"):
		return fmt.Errorf("%s is not a system: it is a derivation named %s that %w", text, s.Toplevel.Name(), ErrNoKernel)
	}
	return fmt.Errorf("%s is not a system: it is a store path named %s that %w", text, s.Toplevel.Name(), ErrNoKernel)
}
