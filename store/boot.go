package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/rs/zerolog"
)

// bootspecV1 is the key of version 1 of the boot specification (NixOS RFC 125)
// in a toplevel's boot.json.
const bootspecV1 = "org.nixos.bootspec.v1"

// maxBootFile bounds, in bytes, the small files that are read of a toplevel.
const maxBootFile = 1 << 20

// Boot is what a toplevel says of how it is booted. Paths are absolute, on the
// host; "" stands for what the toplevel does not have.
type Boot struct {
	Kernel string
	Initrd string
	Init   string // in the toplevel
	Params []string
	Label  string // "NixOS 26.05 (Linux 6.12.80)"
}

// readBoot reads a toplevel's boot.json or, where it is missing or of a version
// that is not known here, the toplevel's files.
func readBoot(toplevel Path, log zerolog.Logger) (Boot, error) {
	name := filepath.Join(toplevel.String(), "boot.json")
	text, err := readSmall(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return bootFromFiles(toplevel)
	case err != nil:
		return Boot{}, fmt.Errorf("read the boot specification: %w", err)
	}
	b, ok, err := parseBootspec(text)
	if err != nil {
		return Boot{}, fmt.Errorf("read %s: %w", name, err)
	}
	if !ok {
		log.Warn().Str("file", name).Msg("boot.json holds no " + bootspecV1 + ": going by the toplevel's files")
		return bootFromFiles(toplevel)
	}
	for _, file := range []struct{ what, path string }{{"kernel", b.Kernel}, {"initrd", b.Initrd}, {"init", b.Init}} {
		if file.path == "" {
			continue
		}
		if !filepath.IsAbs(file.path) {
			return Boot{}, fmt.Errorf("read %s: the %s is %q, not an absolute path", name, file.what, file.path)
		}
		if _, err := os.Stat(file.path); err != nil && file.what != "init" {
			return Boot{}, fmt.Errorf("read %s: the %s it names: %w", name, file.what, err)
		}
	}
	return b, nil
}

// parseBootspec reads a boot.json; ok is false when it holds no version 1.
func parseBootspec(text []byte) (b Boot, ok bool, err error) {
	var versions map[string]json.RawMessage
	if err := json.Unmarshal(text, &versions); err != nil {
		return Boot{}, false, err
	}
	v1, ok := versions[bootspecV1]
	if !ok {
		return Boot{}, false, nil
	}
	var spec struct {
		Kernel       string   `json:"kernel"`
		Initrd       string   `json:"initrd"`
		Init         string   `json:"init"`
		KernelParams []string `json:"kernelParams"`
		Label        string   `json:"label"`
	}
	if err := json.Unmarshal(v1, &spec); err != nil {
		return Boot{}, false, err
	}
	return Boot{
		Kernel: spec.Kernel,
		Initrd: spec.Initrd,
		Init:   spec.Init,
		Params: spec.KernelParams,
		Label:  spec.Label,
	}, true, nil
}

// bootFromFiles reads the files that every toplevel had before there was a
// boot.json: the links kernel and initrd, the text kernel-params, and init.
func bootFromFiles(toplevel Path) (Boot, error) {
	var b Boot
	for _, file := range []struct {
		name string
		path *string
	}{{"kernel", &b.Kernel}, {"initrd", &b.Initrd}} {
		name := filepath.Join(toplevel.String(), file.name)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		resolved, err := filepath.EvalSymlinks(name)
		if err != nil {
			return Boot{}, fmt.Errorf("find the %s of %s: %w", file.name, toplevel, err)
		}
		*file.path = resolved
	}
	params, err := readSmall(filepath.Join(toplevel.String(), "kernel-params"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return Boot{}, fmt.Errorf("read the kernel parameters: %w", err)
	}
	b.Params = splitWords(string(params))
	// init may be a link that leads somewhere only in the guest.
	init := filepath.Join(toplevel.String(), "init")
	if _, err := os.Lstat(init); err == nil {
		b.Init = init
	}
	return b, nil
}

// readSmall reads a file that is text of a reasonable size.
func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxBootFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", name, maxBootFile)
	}
	return os.ReadFile(name)
}

// toplevelName matches the name that NixOS gives a toplevel: the host's name and
// the release.
var toplevelName = regexp.MustCompile(`^nixos-system-(.+)-[0-9]+\.[0-9]+.*$`)

// hostName returns the host's name out of a toplevel's, or what comes closest.
func hostName(name string) string {
	if m := toplevelName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return strings.TrimPrefix(name, "nixos-system-")
}
