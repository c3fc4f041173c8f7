package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/drzln/whiterun/pkg/manifest"
)

// Tag is the mount tag of a machine's store share: nixpkgs' own name for it.
const Tag = "nix-store"

// Machine is what the user chooses of a machine, beside the system.
type Machine struct {
	Name        string // "" takes the system's
	Kernel      string // "" takes the system's
	Initrds     []string
	CPUs        manifest.CPUs
	MemoryBytes uint64
	Append      []string // behind everything else on the kernel command line
}

// Manifest describes the machine that m makes of system s; a nil s makes a
// machine without a store, of m's kernel alone. Relative paths in m are those of
// the process.
func (m Machine) Manifest(s *System) (*manifest.Manifest, error) {
	out := &manifest.Manifest{
		Version:     manifest.Version,
		Name:        m.Name,
		CPUs:        m.CPUs,
		MemoryBytes: m.MemoryBytes,
	}
	initrds := m.Initrds
	var params []string
	var init string
	kernel := m.Kernel
	if s != nil {
		if s.Boot.Init == "" {
			return nil, fmt.Errorf("%s is not a system: it has no init", s.Toplevel)
		}
		params, init = s.Boot.Params, s.Toplevel.InGuest()+"/init"
		if kernel == "" {
			kernel = s.Boot.Kernel
		}
		if len(initrds) == 0 && s.Boot.Initrd != "" {
			initrds = []string{s.Boot.Initrd}
		}
		if out.Name == "" {
			out.Name = manifest.CleanName(s.Name)
		}
		out.Store = s.share()
	}
	if out.Name == "" {
		out.Name = "vm"
	}
	if kernel == "" {
		return nil, errors.New("the machine has no kernel: the system has none, and none is given")
	}

	var err error
	if out.Kernel, err = resolve("kernel", kernel); err != nil {
		return nil, err
	}
	for _, initrd := range initrds {
		path, err := resolve("initrd", initrd)
		if err != nil {
			return nil, err
		}
		out.Initrds = append(out.Initrds, path)
	}
	out.CommandLine = commandLine(params, init, m.Append)
	if err := out.Validate(); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *System) share() *manifest.Store {
	share := &manifest.Store{Tag: Tag, Dir: s.Toplevel.Dir, Toplevel: s.Toplevel.String()}
	for _, path := range s.Closure {
		share.Closure = append(share.Closure, path.String())
	}
	return share
}

// resolve returns the absolute path of an existing file. It follows links: the
// manifest is to name what was there when it was made.
func resolve(what, path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if err == nil {
		resolved, err = filepath.Abs(resolved)
	}
	if err != nil {
		return "", fmt.Errorf("find the %s: %w", what, err)
	}
	return resolved, nil
}

// commandLine joins the system's parameters, Whiterun's own, and the user's,
// in this order, since the kernel and most programs go by the last word.
//
// There is exactly one init=: the user's last, or init. The consoles are added
// where the system does not name them, hvc0 behind ttyS0, because the last one
// becomes /dev/console; but a system that has chosen hvc0 has chosen the order
// too, so then ttyS0 goes to the front.
func commandLine(system []string, init string, user []string) string {
	words := make([]string, 0, len(system)+len(user)+3)
	for _, param := range splitWords(strings.Join(system, " ")) {
		if !strings.HasPrefix(param, "init=") {
			words = append(words, param)
		}
	}
	serial, virtio := hasConsole(words, "ttyS0"), hasConsole(words, "hvc0")
	switch {
	case !serial && virtio:
		words = slices.Insert(words, 0, "console=ttyS0")
	case !serial:
		words = append(words, "console=ttyS0")
	}
	if !virtio {
		words = append(words, "console=hvc0")
	}

	var own []string
	for _, text := range user {
		for _, word := range splitWords(text) {
			if strings.HasPrefix(word, "init=") {
				init = strings.TrimPrefix(word, "init=")
				continue
			}
			own = append(own, word)
		}
	}
	if init != "" {
		words = append(words, "init="+init)
	}
	// Behind "--" come the arguments of init, so a user's "--" stays last.
	return strings.Join(append(words, own...), " ")
}

// hasConsole says whether a console= parameter names device, with or without
// options such as ",115200n8".
func hasConsole(params []string, device string) bool {
	return slices.ContainsFunc(params, func(param string) bool {
		value, ok := strings.CutPrefix(param, "console=")
		name, _, _ := strings.Cut(value, ",")
		return ok && name == device
	})
}

// splitWords splits a piece of command line at the spaces outside double
// quotes, as the kernel does (lib/cmdline.c, next_arg).
func splitWords(text string) []string {
	quoted := false
	return strings.FieldsFunc(text, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	})
}
