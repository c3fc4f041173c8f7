package machine

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// moduleIndex is what depmod wrote about a kernel's modules.
type moduleIndex struct {
	file    map[string]string   // module name → path below the modules folder
	needs   map[string][]string // that path → the paths it depends on, in no useful order
	builtin map[string]bool     // names of what the kernel itself has
}

// parseModules reads modules.dep ("path: path path …") and modules.builtin
// (one path a line).
func parseModules(dep, builtin io.Reader) (moduleIndex, error) {
	index := moduleIndex{map[string]string{}, map[string][]string{}, map[string]bool{}}
	lines := bufio.NewScanner(dep)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		file, needs, found := strings.Cut(lines.Text(), ":")
		if !found {
			return index, fmt.Errorf("modules.dep: no colon in %q", lines.Text())
		}
		index.file[moduleName(file)] = file
		index.needs[file] = strings.Fields(needs)
	}
	if err := lines.Err(); err != nil {
		return index, err
	}
	lines = bufio.NewScanner(builtin)
	for lines.Scan() {
		index.builtin[moduleName(lines.Text())] = true
	}
	return index, lines.Err()
}

// order returns the paths of the named modules and of all they need, each
// once, in the order they have to be loaded.
func (x moduleIndex) order(names ...string) ([]string, error) {
	var (
		files []string
		seen  = map[string]bool{}
		visit func(file string)
	)
	visit = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		for _, needed := range x.needs[file] {
			visit(needed)
		}
		files = append(files, file)
	}
	for _, name := range names {
		name = moduleName(name)
		file, found := x.file[name]
		switch {
		case found:
			visit(file)
		case !x.builtin[name]:
			return nil, fmt.Errorf("no kernel module %s", name)
		}
	}
	return files, nil
}

// moduleName turns a module's path into its name; in names '-' and '_' are one.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}
