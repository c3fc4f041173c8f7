package machine

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// moduleIndex is the modules of a kernel.
type moduleIndex struct {
	folder  fs.FS             // the folder lib/modules/VERSION
	file    map[string]string // module name → path in the folder
	builtin map[string]bool   // names of what the kernel itself has
}

// indexModules finds a kernel's modules and reads modules.builtin, which lists
// one path a line.
func indexModules(folder fs.FS) (moduleIndex, error) {
	index := moduleIndex{folder, map[string]string{}, map[string]bool{}}
	builtin, err := fs.ReadFile(folder, "modules.builtin")
	if err != nil {
		return index, err
	}
	for line := range strings.Lines(string(builtin)) {
		index.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	err = fs.WalkDir(folder, "kernel", func(file string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(file, ".ko") {
			index.file[moduleName(file)] = file
		}
		return err
	})
	return index, err
}

// module is one to load.
type module struct {
	name  string
	image []byte
}

// order returns the named modules and all they need, each once, in the order
// they have to be loaded.
func (x moduleIndex) order(names ...string) ([]module, error) {
	var (
		modules []module
		seen    = map[string]bool{}
		visit   func(name string) error
	)
	visit = func(name string) error {
		name = moduleName(name)
		if seen[name] || x.builtin[name] {
			return nil
		}
		seen[name] = true
		file, found := x.file[name]
		if !found {
			return fmt.Errorf("no kernel module %s", name)
		}
		image, err := fs.ReadFile(x.folder, file)
		if err != nil {
			return err
		}
		needed, err := moduleNeeds(image)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, name := range needed {
			if err := visit(name); err != nil {
				return fmt.Errorf("%s needs %w", file, err)
			}
		}
		modules = append(modules, module{name, image})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return modules, nil
}

// moduleNeeds returns the names of the modules that a module depends on.
func moduleNeeds(image []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseNeeds(info), nil
}

// parseNeeds finds depends=a,b among the strings of .modinfo, which end in zeros.
func parseNeeds(modinfo []byte) []string {
	for field := range strings.SplitSeq(string(modinfo), "\x00") {
		if list, found := strings.CutPrefix(field, "depends="); found && list != "" {
			return strings.Split(list, ",")
		}
	}
	return nil
}

// moduleName turns a module's path into its name; in names '-' and '_' are one.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}
