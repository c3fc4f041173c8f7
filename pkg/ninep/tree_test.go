package ninep

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memTree is a tree for tests: names and texts in memory, data in files of
// a temporary folder.
type memTree struct {
	nodes []memNode
	dir   string
	opens int
	fail  error // what Open returns, for tests of the host failing
}

type memNode struct {
	attr    Attr
	name    string
	parent  Node
	target  string
	entries []Node
}

// plant returns the tree of files: a name that ends in / is a folder, a text
// that starts with -> a symbolic link.
func plant(t testing.TB, files map[string]string) *memTree {
	t.Helper()
	tree := &memTree{dir: t.TempDir(), nodes: []memNode{{attr: Attr{Type: Directory, Mode: 0o555, Links: 2, MTime: 1}}}}
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		at := Root
		names := strings.Split(strings.TrimSuffix(path, "/"), "/")
		for i, name := range names {
			next, ok := tree.Lookup(at, []byte(name))
			if !ok {
				text := files[path]
				attr := Attr{Type: Regular, Mode: 0o444, Links: 1, Size: uint64(len(text)), MTime: 1}
				switch {
				case i < len(names)-1 || strings.HasSuffix(path, "/"):
					attr = Attr{Type: Directory, Mode: 0o555, Links: 2, MTime: 1}
				case strings.HasPrefix(text, "->"):
					text = text[2:]
					attr = Attr{Type: Symlink, Mode: 0o777, Links: 1, Size: uint64(len(text)), MTime: 1}
				}
				next = Node(len(tree.nodes))
				tree.nodes = append(tree.nodes, memNode{attr: attr, name: name, parent: at, target: text})
				tree.nodes[at].entries = append(tree.nodes[at].entries, next)
				if attr.Type == Regular {
					if err := os.WriteFile(tree.path(next), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			at = next
		}
	}
	return tree
}

func (m *memTree) path(n Node) string { return filepath.Join(m.dir, fmt.Sprint(n)) }

func (m *memTree) Attr(n Node) Attr     { return m.nodes[n].attr }
func (m *memTree) Parent(n Node) Node   { return m.nodes[n].parent }
func (m *memTree) Entries(n Node) int   { return len(m.nodes[n].entries) }
func (m *memTree) Target(n Node) string { return m.nodes[n].target }
func (m *memTree) Nodes() int           { return len(m.nodes) }
func (m *memTree) Size() (size uint64) {
	for i := range m.nodes {
		if m.nodes[i].attr.Type == Regular {
			size += m.nodes[i].attr.Size
		}
	}
	return size
}

func (m *memTree) Lookup(dir Node, name []byte) (Node, bool) {
	for _, n := range m.nodes[dir].entries {
		if m.nodes[n].name == string(name) {
			return n, true
		}
	}
	return 0, false
}

func (m *memTree) Entry(dir Node, i int) (string, Node) {
	n := m.nodes[dir].entries[i]
	return m.nodes[n].name, n
}

func (m *memTree) Open(n Node) (int, error) {
	m.opens++
	if m.fail != nil {
		return -1, m.fail
	}
	return unix.Open(m.path(n), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// message builds a T-message from its fields: integers by their width, texts
// as strings, raw bytes as they are.
func message(t MessageType, tag uint16, fields ...any) []byte {
	msg := []byte{0, 0, 0, 0, byte(t), byte(tag), byte(tag >> 8)}
	for _, field := range fields {
		switch v := field.(type) {
		case uint8:
			msg = append(msg, v)
		case uint16:
			msg = binary.LittleEndian.AppendUint16(msg, v)
		case uint32:
			msg = binary.LittleEndian.AppendUint32(msg, v)
		case uint64:
			msg = binary.LittleEndian.AppendUint64(msg, v)
		case string:
			msg = binary.LittleEndian.AppendUint16(msg, uint16(len(v)))
			msg = append(msg, v...)
		case []byte:
			msg = append(msg, v...)
		default:
			panic(fmt.Sprintf("field of type %T", field))
		}
	}
	binary.LittleEndian.PutUint32(msg, uint32(len(msg)))
	return msg
}

// twalk builds a Twalk.
func twalk(tag uint16, fid, newFid uint32, names ...string) []byte {
	fields := []any{fid, newFid, uint16(len(names))}
	for _, name := range names {
		fields = append(fields, name)
	}
	return message(Twalk, tag, fields...)
}
