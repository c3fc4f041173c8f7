package manifest

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// The bounds of a machine. What the host can really give is smaller, and found
// out when it is asked.
const (
	MaxVCPUs       = 64
	MiB            = 1 << 20
	MinMemoryBytes = 64 * MiB
	MaxMemoryBytes = 1 << 46 // the guest-physical addresses of a 46-bit processor
	MaxNameBytes   = 63      // a host name label, RFC 1035
	maxTagBytes    = 31      // what Linux' 9p mount helper and QEMU both take
)

// Problem is one thing wrong with a manifest.
type Problem struct {
	Path string // where, as a JSON path: "$.cpus.cores"
	What string // what, as a clause: "is 0, must be at least 1"
}

func (p Problem) String() string { return p.Path + ": " + p.What }

// Problems is everything wrong with a manifest, in the order of the document.
type Problems []Problem

// Error lists one problem a line.
func (p Problems) Error() string {
	lines := make([]string, 0, len(p)+1)
	if len(p) != 1 {
		lines = append(lines, fmt.Sprintf("the manifest has %d problems", len(p)))
	}
	for _, one := range p {
		lines = append(lines, one.String())
	}
	return strings.Join(lines, "\n  ")
}

func (p *Problems) add(path, format string, args ...any) {
	*p = append(*p, Problem{path, fmt.Sprintf(format, args...)})
}

// Validate returns a Problems with every problem of the manifest, or nil. It
// looks at the document alone: whether files exist is for those who open them.
func (m *Manifest) Validate() error {
	var p Problems
	if m.Version != Version {
		p.add("$.version", "is %d, must be %d", m.Version, Version)
	}
	if why := nameProblem(m.Name); why != "" {
		p.add("$.name", "%s", why)
	}
	p.path("$.kernel", m.Kernel)
	for i, initrd := range m.Initrds {
		p.path(fmt.Sprintf("$.initrds[%d]", i), initrd)
	}
	if !utf8.ValidString(m.CommandLine) {
		p.add("$.commandLine", "is not UTF-8")
	} else if i := strings.IndexFunc(m.CommandLine, isControl); i >= 0 {
		p.add("$.commandLine", "holds the control character %q at byte %d", m.CommandLine[i], i)
	}
	p.cpus(m.CPUs)
	p.memory(m.MemoryBytes)
	if m.Store != nil {
		p.store(m.Store)
	}
	if p != nil {
		return p
	}
	return nil
}

func (p *Problems) cpus(c CPUs) {
	one := func(path string, n int) bool {
		if n < 1 || n > MaxVCPUs {
			p.add(path, "is %d, must be 1 to %d", n, MaxVCPUs)
			return false
		}
		return true
	}
	// All three are looked at, so that all three are told.
	sockets, cores, threads := one("$.cpus.sockets", c.Sockets), one("$.cpus.cores", c.Cores), one("$.cpus.threads", c.Threads)
	if sockets && cores && threads && c.Count() > MaxVCPUs {
		p.add("$.cpus", "makes %d vCPUs, at most %d are possible", c.Count(), MaxVCPUs)
	}
}

func (p *Problems) memory(n uint64) {
	switch {
	case n < MinMemoryBytes:
		p.add("$.memoryBytes", "is %d, must be at least %d (%d MiB)", n, MinMemoryBytes, MinMemoryBytes/MiB)
	case n > MaxMemoryBytes:
		p.add("$.memoryBytes", "is %d, must be at most %d", n, uint64(MaxMemoryBytes))
	case n%MiB != 0:
		p.add("$.memoryBytes", "is %d, must be a multiple of 1 MiB (%d)", n, MiB)
	}
}

func (p *Problems) store(s *Store) {
	if s.Tag == "" || len(s.Tag) > maxTagBytes || strings.ContainsFunc(s.Tag, notName) {
		p.add("$.store.tag", "is %q, must be 1 to %d letters, digits, '.', '_' or '-'", s.Tag, maxTagBytes)
	}
	p.path("$.store.dir", s.Dir)
	inDir := func(path string) bool { return clean(path) && path != "/" && filepath.Dir(path) == s.Dir }
	if !inDir(s.Toplevel) {
		p.add("$.store.toplevel", "is %q, must be an entry of %s", s.Toplevel, s.Dir)
	}
	if len(s.Closure) == 0 {
		p.add("$.store.closure", "is empty, must hold at least the toplevel")
		return
	}
	found := false
	for i, entry := range s.Closure {
		found = found || entry == s.Toplevel
		at := fmt.Sprintf("$.store.closure[%d]", i)
		if !inDir(entry) {
			p.add(at, "is %q, must be an entry of %s", entry, s.Dir)
			continue
		}
		if i == 0 {
			continue
		}
		switch before := s.Closure[i-1]; {
		case entry == before:
			p.add(at, "is %q a second time", entry)
		case entry < before:
			p.add(at, "is %q, must be sorted behind %q", entry, before)
		}
	}
	if !found {
		p.add("$.store.closure", "does not hold the toplevel %q", s.Toplevel)
	}
}

func (p *Problems) path(at, path string) {
	switch {
	case path == "":
		p.add(at, "is missing, must be an absolute path")
	case !filepath.IsAbs(path):
		p.add(at, "is %q, must be an absolute path", path)
	case !clean(path):
		p.add(at, "is %q, must be a clean UTF-8 path: no NUL, no '//', no '/./', no '/../' and no '/' at its end", path)
	}
}

// clean says whether path is absolute, could be opened as it stands, and
// survives JSON.
func clean(path string) bool {
	return utf8.ValidString(path) && filepath.IsAbs(path) && filepath.Clean(path) == path && !strings.Contains(path, "\x00")
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func notName(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}

func nameProblem(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > MaxNameBytes:
		return fmt.Sprintf("is %d bytes long, must be at most %d", len(name), MaxNameBytes)
	case strings.ContainsFunc(name, notName):
		return fmt.Sprintf("is %q, must be letters, digits, '.', '_' and '-' only", name)
	case strings.Trim(name, ".") == "" || name[0] == '-':
		// The name becomes a file name and an argument.
		return fmt.Sprintf("is %q, must not start with '-' nor be dots only", name)
	}
	return ""
}

// CheckName returns an error that says why name is no machine name, or nil.
func CheckName(name string) error {
	if why := nameProblem(name); why != "" {
		return fmt.Errorf("the machine's name %s", why)
	}
	return nil
}

// CleanName makes a machine name of any text: what a name cannot hold becomes
// '-', and a text without anything usable becomes "vm".
func CleanName(text string) string {
	name := strings.Map(func(r rune) rune {
		if notName(r) {
			return '-'
		}
		return r
	}, text)
	name = strings.Trim(name, "-.")
	name = strings.TrimRight(name[:min(len(name), MaxNameBytes)], "-.")
	if name == "" {
		return "vm"
	}
	return name
}
