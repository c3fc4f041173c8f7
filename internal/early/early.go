// Package early is what the first process of a machine does before there is a
// user land: it loads kernel modules and mounts file systems.
package early

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LoadModules loads every module in the folder dir, in the order of their
// names. One that the kernel has already is no error.
func LoadModules(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		image, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := unix.InitModule(image, ""); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load the kernel module %s: %w", filepath.Base(file), err)
		}
	}
	return nil
}

// Mount mounts a file system on target, which is made when it is missing.
func Mount(source, kind, target string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", source, kind, target, err)
	}
	return nil
}
