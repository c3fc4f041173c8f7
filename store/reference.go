package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// ErrNoReference is wrapped by the error for a text that names nothing that
// could be booted.
var ErrNoReference = errors.New("not a reference")

// reference is what the user typed, told apart by its form. Exactly one of
// path and flake is set.
type reference struct {
	text string // as typed
	path string // an existing path, every symbolic link resolved, or a store path to be fetched
	// flake is the flake's own reference, before the '#'.
	flake string
	// attr is the attribute path behind the '#'; "" means that the flake's only
	// NixOS configuration is asked for.
	attr string
}

// scheme matches the flake references that start with one: path:, git+ssh:,
// github:, https: and so on.
var scheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)

// parseReference tells the forms apart, in this order: what exists is a path
// (a folder with a flake.nix is a flake); what has a '#' or a scheme is a flake;
// what lies in the store but does not exist may still be fetched by Nix.
func parseReference(dir, text string) (reference, error) {
	refuse := func(format string, args ...any) (reference, error) {
		return reference{}, fmt.Errorf("%q is %w: %s", text, ErrNoReference, fmt.Sprintf(format, args...))
	}
	if text == "" || strings.HasPrefix(text, "-") {
		return refuse("write a flake's attribute such as .#vm, a result link, or a store path")
	}

	resolved, err := filepath.EvalSymlinks(text)
	switch {
	case err == nil:
		return existing(dir, text, resolved)
	case !errors.Is(err, fs.ErrNotExist) && !strings.Contains(text, "#") && !scheme.MatchString(text):
		return refuse("%v", err)
	}

	if flake, attr, ok := strings.Cut(text, "#"); ok || scheme.MatchString(text) {
		if flake == "" {
			flake = "." // as nix itself reads "#vm"
		}
		return reference{text: text, flake: flake, attr: attr}, nil
	}
	if _, err := ParsePath(dir, text); err == nil {
		return reference{text: text, path: text}, nil
	}
	if target, err := os.Readlink(text); err == nil {
		return refuse("it is a link to %s, which does not exist", target)
	}
	if strings.HasPrefix(text, dir+"/") {
		return refuse("there is no such path in the store")
	}
	if strings.HasPrefix(text, ".") || strings.Contains(text, "/") {
		return refuse("there is no such file or folder")
	}
	return refuse("there is no such file, and a flake is written with its attribute, as in %s#vm", text)
}

func existing(dir, text, resolved string) (reference, error) {
	absolute, err := filepath.Abs(resolved)
	if err != nil {
		return reference{}, fmt.Errorf("resolve %s: %w", text, err)
	}
	if _, err := os.Stat(filepath.Join(absolute, "flake.nix")); err == nil {
		// A plain name would be looked up in the flake registry.
		if !strings.HasPrefix(text, "/") && !strings.HasPrefix(text, ".") {
			text = "./" + text
		}
		return reference{text: text, flake: text}, nil
	}
	if _, err := Containing(dir, absolute); err != nil {
		return reference{}, fmt.Errorf("%q is %w: it leads to %s, which is not in %s and holds no flake.nix", text, ErrNoReference, absolute, dir)
	}
	return reference{text: text, path: absolute}, nil
}

// plainAttr matches the attributes that may be short for one of
// nixosConfigurations.
var plainAttr = regexp.MustCompile(`^[A-Za-z0-9_'-]+$`)

// installables returns what nix is asked for, in order: the attribute as it was
// given, then the NixOS configuration of that name.
func (r reference) installables() []string {
	switch {
	case r.attr == "":
		return []string{r.flake + "#nixosConfigurations"}
	case plainAttr.MatchString(r.attr):
		return []string{r.flake + "#" + r.attr, r.flake + "#nixosConfigurations." + r.attr}
	}
	return []string{r.flake + "#" + r.attr}
}

// name returns the last part of the attribute that a person would call the
// machine by, or "".
func (r reference) name() string {
	attr := r.attr
	for _, suffix := range []string{".toplevel", ".build", ".system", ".config"} {
		attr = strings.TrimSuffix(attr, suffix)
	}
	attr = strings.TrimSuffix(attr, `"`)
	if i := strings.LastIndexAny(attr, `."`); i >= 0 {
		attr = attr[i+1:]
	}
	return attr
}
