package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// describe is the function that nix applies to the attribute: what it is and,
// where it is or holds a system, the derivation of that. It is pure, and lazy
// enough that nothing but the way to the toplevel is evaluated.
const describe = `
x: let
  plain = builtins.unsafeDiscardStringContext;
  isDerivation = v: builtins.isAttrs v && v.type or null == "derivation";
  found = builtins.filter isDerivation (if isDerivation x then [ x ] else [
    (x.config.system.build.toplevel or null)
    (x.system.build.toplevel or null)
    (x.build.toplevel or null)
    (x.toplevel or null)
    (x.system or null)
  ]);
  derivation = builtins.head found;
in
  if found != [ ] then {
    kind = "derivation";
    name = plain (derivation.name or "unnamed");
    drvPath = plain derivation.drvPath;
    output = derivation.outputName or "out";
  }
  else if builtins.isAttrs x then { kind = "set"; attrs = builtins.attrNames x; }
  else { kind = builtins.typeOf x; }
`

// describeOnly is describe for a flake's set of NixOS configurations of which
// only one is expected.
const describeOnly = `
c: let names = builtins.attrNames c; name = builtins.head names; in
  if builtins.isAttrs c && builtins.length names == 1 then (` + describe + `) c.${name} // { only = name; }
  else { kind = "configurations"; attrs = names; }
`

// description is what describe and describeOnly return.
type description struct {
	Kind    string   `json:"kind"`    // "derivation", "set", "configurations", or what builtins.typeOf says
	Name    string   `json:"name"`    // of the derivation
	DrvPath string   `json:"drvPath"` // of the derivation
	Output  string   `json:"output"`  // which of the derivation's outputs
	Attrs   []string `json:"attrs"`   // of the set
	Only    string   `json:"only"`    // which configuration describeOnly chose
}

// features switches on what nix still calls experimental, whatever its
// configuration says.
var features = []string{"--extra-experimental-features", "nix-command flakes"}

// What nix says, in every version so far, when there is no such attribute and
// when there is no such flake. They choose a sentence, never what is done with
// a system.
var (
	missingAttr  = regexp.MustCompile(`does not provide attribute|attribute '[^']*' missing`)
	missingFlake = regexp.MustCompile(`(?s)flake\.nix.*(No such file|does not exist|could not find|not part of)|is not a flake|(No such file|does not exist|could not find).*flake\.nix|cannot find flake|is not a valid URL|path '[^']*' does not exist`)
)

// evaluate finds out what a flake reference names, and refuses everything that
// cannot be built into a system.
func (n *Nix) evaluate(ctx context.Context, ref reference) (description, error) {
	apply := describe
	if ref.attr == "" {
		apply = describeOnly
	}
	installables := ref.installables()
	for i, installable := range installables {
		last := i+1 == len(installables)
		// That an attribute is not there under its short name is no error yet, so
		// the words of that attempt are held back.
		var said bytes.Buffer
		words, held := io.Writer(&said), true
		if last && !n.Quiet {
			words, held = io.MultiWriter(&said, n.Words), false
		}
		args := append(slices.Clone(features), "eval", "--json", installable, "--apply", apply)
		out, err := n.logged(ctx, words, "nix", args...)
		missing := err != nil && missingAttr.Match(said.Bytes())
		if missing && !last && context.Cause(ctx) == nil {
			continue
		}
		if held && (err != nil || !n.Quiet) {
			n.pass(said.Bytes())
		}
		switch {
		case err == nil:
			return decodeDescription(ref, out)
		case context.Cause(ctx) != nil || errors.Is(err, ErrNoNix):
			return description{}, fmt.Errorf("evaluate %s: %w", ref.text, err)
		case missing && ref.attr == "":
			return description{}, fmt.Errorf("%s has no NixOS configurations: name an attribute, as in %s#vm", ref.text, ref.flake)
		case missing:
			return description{}, fmt.Errorf("%s names nothing: the flake %s has no attribute %s", ref.text, ref.flake, strings.Join(ref.attributes(), " and no "))
		case missingFlake.Match(said.Bytes()):
			return description{}, fmt.Errorf("%q is %w: there is no flake at %s", ref.text, ErrNoReference, ref.flake)
		}
		return description{}, fmt.Errorf("%s cannot be evaluated: %w", ref.text, err)
	}
	return description{}, fmt.Errorf("%s names nothing", ref.text)
}

// attributes returns the attribute paths that were looked for.
func (r reference) attributes() []string {
	names := r.installables()
	for i, name := range names {
		_, names[i], _ = strings.Cut(name, "#")
	}
	return names
}

func decodeDescription(ref reference, out []byte) (description, error) {
	var d description
	if err := json.Unmarshal(out, &d); err != nil {
		return d, fmt.Errorf("evaluate %s: nix printed no JSON: %w", ref.text, err)
	}
	switch d.Kind {
	case "derivation":
		if d.DrvPath == "" || d.Output == "" {
			return d, fmt.Errorf("%s is a derivation without a path", ref.text)
		}
		return d, nil
	case "configurations":
		if len(d.Attrs) == 0 {
			return d, fmt.Errorf("%s has no NixOS configurations: name an attribute, as in %s#vm", ref.text, ref.flake)
		}
		return d, fmt.Errorf("%s has the NixOS configurations %s: say which, as in %s#%s", ref.text, list(d.Attrs), ref.flake, d.Attrs[0])
	case "set":
		if len(d.Attrs) == 0 {
			return d, fmt.Errorf("%s is not a system: it is an empty set", ref.text)
		}
		return d, fmt.Errorf("%s is not a system: it is a set with the attributes %s", ref.text, list(d.Attrs))
	}
	return d, fmt.Errorf("%s is not a system: it is %s", ref.text, typeNames(d.Kind))
}

// list joins names for a sentence and breaks off after a few.
func list(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// typeNames turns what builtins.typeOf says into a noun with its article.
func typeNames(kind string) string {
	switch kind {
	case "lambda":
		return "a function"
	case "int":
		return "an integer"
	case "bool":
		return "a Boolean"
	case "null":
		return "null"
	}
	return "a " + kind // string, path, list, float
}
