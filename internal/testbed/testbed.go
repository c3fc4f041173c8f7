// Package testbed is what a test that needs real KVM, nix and built systems
// asks for them. Such tests lie in tests/ and run with
//
//	go test -exec 'go run ./internal/testbed/cmd/testbed exec --' ./tests/...
//
// or make test; anywhere else they are skipped. See README.md.
package testbed

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// flakes is where the testbed keeps copies of the repository's flakes, built is
// where it keeps links to the systems it has built from them.
const (
	flakes = "/srv/whiterun"
	built  = "/srv/whiterun/systems"
)

// Flakes of the testbed.
const (
	Example = "examples/debian"       // the example: vm, vm-6_1, vm-6_12
	Test    = "tests/testdata/system" // odd contents and many probes: vm-6_1, vm-6_12
)

// Inside tells whether this process runs in the testbed.
func Inside() bool { return os.Getenv("WHITERUN_TESTBED_INSIDE") != "" }

// Require skips a test that does not run in the testbed.
func Require(t testing.TB) {
	t.Helper()
	if !Inside() {
		t.Skip("needs the testbed: run it with make test, or go test -exec 'testbed exec --'")
	}
}

// Whiterun returns the path of the whiterun binary under test, in memory.
func Whiterun(t testing.TB) string {
	t.Helper()
	Require(t)
	binary := os.Getenv("WHITERUN_BIN")
	if binary == "" {
		t.Fatal("no whiterun binary: run make build first, or name one with testbed exec --whiterun")
	}
	return binary
}

// Reference returns a flake reference, for whiterun boot, of a system in one of
// the testbed's flakes.
func Reference(t testing.TB, flake, name string) string {
	t.Helper()
	Require(t)
	return fmt.Sprintf("path:%s#nixosConfigurations.%s", filepath.Join(flakes, flake), name)
}

// System returns the store path of a system's toplevel, built when the testbed
// was prepared.
func System(t testing.TB, flake, name string) string {
	t.Helper()
	Require(t)
	toplevel, err := os.Readlink(filepath.Join(built, filepath.Base(flake), name))
	if err != nil {
		t.Fatalf("the testbed has no system %s of %s: %v", name, flake, err)
	}
	return toplevel
}

// Systems returns the names of a flake's systems that have a kernel version in
// their name, such as vm-6_1: one for each guest kernel.
func Systems(t testing.TB, flake string) []string {
	t.Helper()
	Require(t)
	links, err := filepath.Glob(filepath.Join(built, filepath.Base(flake), "vm-*"))
	if err != nil || len(links) == 0 {
		t.Fatalf("the testbed has no system of %s: %v", flake, err)
	}
	var names []string
	for _, link := range links {
		names = append(names, filepath.Base(link))
	}
	slices.Sort(names)
	return names
}

// Kernels returns the paths of the testbed's kernel images, bzImages of Debian.
func Kernels(t testing.TB) []string {
	t.Helper()
	Require(t)
	images, err := filepath.Glob("/boot/vmlinuz-*")
	if err != nil || len(images) == 0 {
		t.Fatalf("the testbed has no kernel: %v", err)
	}
	return images
}

// Probe returns the path, on this side, of a probe script of the test system,
// which a test may run itself to learn what the guest should print.
func Probe(t testing.TB, name string) string {
	t.Helper()
	Require(t)
	return filepath.Join(flakes, Test, "probes", name+".sh")
}

// ProbeOutput returns what a probe printed, from the guest's console: the lines
// between "--- NAME begins" and "--- NAME ends: STATUS", and whether it ended
// with status 0.
func ProbeOutput(console, name string) (output string, ok bool) {
	console = strings.ReplaceAll(console, "\r", "")
	_, rest, found := strings.Cut(console, "--- "+name+" begins\n")
	if !found {
		return "", false
	}
	output, rest, found = strings.Cut(rest, "--- "+name+" ends: ")
	status, _, _ := strings.Cut(rest, "\n")
	return output, found && status == "0"
}
