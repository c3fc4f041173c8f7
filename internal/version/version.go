// Package version owns Whiterun's version.
package version

import "runtime/debug"

// Number is the version that the changelog and flake.nix name.
const Number = "0.1.0"

// String returns the version and, where the build knows it, the commit.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Number
	}
	var revision, modified string
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = ", modified"
		}
	}
	if revision == "" {
		return Number
	}
	return Number + " (" + revision + modified + ")"
}
