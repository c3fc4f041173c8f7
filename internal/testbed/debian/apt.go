// Package debian unpacks Debian packages, with all they depend on, into a
// folder of their own. It needs apt-get and dpkg-deb and no privilege: apt is
// given private folders, no maintainer script runs, and nothing of the host's
// own system changes.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// keyring is the archive's keys, part of every Debian since 2012.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// errNoMirror is returned on a host whose apt names no Debian archive.
var errNoMirror = errors.New("apt on this host knows no Debian archive: add one to its sources")

// Suite is apt with the package lists of one Debian suite.
type Suite struct {
	name string
	dir  string // apt's private folders
}

// OpenSuite fetches the package lists of a suite such as "bookworm" from the
// mirror this host uses, keeping all of apt's state below dir.
func OpenSuite(ctx context.Context, name, dir string) (*Suite, error) {
	s := &Suite{name: name, dir: dir}
	for _, d := range []string{
		"etc/sources.list.d", "etc/preferences.d", "etc/apt.conf.d", "etc/trusted.gpg.d",
		"state/lists/partial", "log",
	} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	archive, err := mirror(ctx)
	if err != nil {
		return nil, err
	}
	files := map[string]string{
		"status":           "",
		"etc/sources.list": sourcesList(archive, name),
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	if _, err := s.aptGet(ctx, "archives", "update"); err != nil {
		return nil, fmt.Errorf("fetching the package lists of Debian %s: %w", name, err)
	}
	return s, nil
}

// Download fetches packages and what they depend on and returns the paths of
// the .deb files. Each set has a folder of its own, named set.
func (s *Suite) Download(ctx context.Context, set string, packages ...string) ([]string, error) {
	args := append([]string{"-y", "--download-only", "install"}, packages...)
	if _, err := s.aptGet(ctx, set, args...); err != nil {
		return nil, fmt.Errorf("fetching packages of Debian %s: %w", s.name, err)
	}
	return filepath.Glob(filepath.Join(s.archives(set), "*.deb"))
}

func (s *Suite) archives(set string) string { return filepath.Join(s.dir, set) }

func (s *Suite) aptGet(ctx context.Context, set string, args ...string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Join(s.archives(set), "partial"), 0o755); err != nil {
		return nil, err
	}
	return run(ctx, "apt-get", append(aptOptions(s.dir, s.archives(set)), args...)...)
}

// aptOptions returns the options that keep apt-get inside dir. apt's own
// status file is empty, so that every dependency counts as missing.
func aptOptions(dir, archives string) []string {
	return []string{
		"-qq",
		"-o", "Dir::Etc=" + dir + "/etc",
		"-o", "Dir::State=" + dir + "/state",
		"-o", "Dir::State::status=" + dir + "/status",
		"-o", "Dir::Cache=" + dir,
		"-o", "Dir::Cache::archives=" + archives,
		"-o", "Dir::Log=" + dir + "/log",
		"-o", "APT::Architecture=amd64",
		"-o", "APT::Architectures=amd64",
		"-o", "APT::Install-Recommends=false",
		"-o", "APT::Sandbox::User=",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::Retries=3",
	}
}

func sourcesList(mirror, suite string) string {
	return fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, suite)
}

// mirror returns the address of the Debian archive that the host's apt uses.
func mirror(ctx context.Context) (string, error) {
	// --print-uris works without package lists, as in a fresh container.
	uris, err := run(ctx, "apt-get", "--print-uris", "update")
	if err != nil {
		return "", fmt.Errorf("ask apt for its archive: %w", err)
	}
	return parseMirror(uris)
}

// parseMirror finds the first Debian archive in the output of
// apt-get --print-uris update: lines that start with an address in quotes.
func parseMirror(uris []byte) (string, error) {
	for line := range strings.Lines(string(uris)) {
		uri, _, _ := strings.Cut(strings.TrimPrefix(line, "'"), "'")
		base, _, found := strings.Cut(uri, "/dists/")
		if found && strings.HasSuffix(base, "/debian") {
			return base, nil
		}
	}
	return "", errNoMirror
}

// run runs a program and returns its output; its messages are part of the error.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var messages bytes.Buffer
	cmd.Stderr = &messages
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(messages.Bytes()))
	}
	return out, nil
}
