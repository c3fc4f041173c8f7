// Package closure owns the closure index: the immutable file tree of a set of
// store paths, read from disk once and then held in memory. It knows names,
// types, sizes, modes and link targets; file data stays in the store and is
// opened on demand.
//
// The index is a table of fixed-size nodes and two texts, one of names and one
// of link targets, to which the nodes point by offset. It holds no pointers
// per node, so the garbage collector has nothing to trace however many files
// there are. The nodes of one folder are neighbours, sorted by name, so that a
// lookup is a binary search. Node 0 is the root, its entries the store paths;
// behind these follow, path by path, the nodes inside each of them. Every
// number in a node is an index or an offset, which makes the representation
// its own binary form: a stored index is the header, the table and the texts,
// and what a store path contributes differs between closures only by constants
// added to its numbers.
package closure

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/pkg/ninep"
)

// ErrMissing is wrapped when a store path of the closure is not on disk.
var ErrMissing = errors.New("is not in the store (garbage-collected?)")

// ErrChanged is wrapped when a file is not what it was when the index was
// built, which cannot happen to a store that only Nix writes to.
var ErrChanged = errors.New("changed since it was indexed")

// maxLinks bounds the symbolic links that Resolve follows, as Linux does.
const maxLinks = 40

// node is one file, folder or symbolic link.
type node struct {
	parent uint32 // the folder's node; the root's is itself
	name   uint32 // offset into names
	// first is a folder's first entry, a symbolic link's offset into targets.
	first uint32
	// folders counts the folders in a folder.
	folders uint32
	// size is a regular file's length in bytes, a folder's number of entries,
	// the length of a symbolic link's target.
	size       uint64
	nameLen    uint8
	kind       ninep.Type
	executable bool
}

// Index is a closure's file tree. It implements ninep.Tree.
type Index struct {
	dir     string // the store folder, clean and absolute
	nodes   []node
	names   string
	targets string
	bytes   uint64 // the sum of all regular files' lengths

	store     int         // an O_PATH descriptor of dir
	noResolve atomic.Bool // the host has no openat2
}

var _ ninep.Tree = (*Index)(nil)

// Close gives back the index' hold on the store folder. Only Open must not be
// called any more.
func (x *Index) Close() error {
	if x.store < 0 {
		return nil
	}
	err := unix.Close(x.store)
	x.store = -1
	if err != nil {
		return fmt.Errorf("close store folder %s: %w", x.dir, err)
	}
	return nil
}

func (x *Index) name(n ninep.Node) string {
	entry := &x.nodes[n]
	return x.names[entry.name : entry.name+uint32(entry.nameLen)]
}

// Attr returns the attributes of n. They are normal as Nix makes them: nobody
// may write, times are 1, and a file is executable for all or for none. Files
// that share their data on disk are separate here.
func (x *Index) Attr(n ninep.Node) ninep.Attr {
	entry := &x.nodes[n]
	switch entry.kind {
	case ninep.Directory:
		return ninep.Attr{Type: ninep.Directory, Mode: 0o555, Links: 2 + entry.folders, MTime: 1}
	case ninep.Symlink:
		return ninep.Attr{Type: ninep.Symlink, Mode: 0o777, Links: 1, Size: entry.size, MTime: 1}
	}
	mode := uint32(0o444)
	if entry.executable {
		mode = 0o555
	}
	return ninep.Attr{Type: ninep.Regular, Mode: mode, Links: 1, Size: entry.size, MTime: 1}
}

// Lookup returns the entry called name of folder dir.
func (x *Index) Lookup(dir ninep.Node, name []byte) (n ninep.Node, ok bool) {
	folder := &x.nodes[dir]
	if folder.kind != ninep.Directory {
		return 0, false
	}
	low, high := folder.first, folder.first+uint32(folder.size)
	for low < high {
		mid := low + (high-low)/2
		if x.name(ninep.Node(mid)) < string(name) {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == folder.first+uint32(folder.size) || x.name(ninep.Node(low)) != string(name) {
		return 0, false
	}
	return ninep.Node(low), true
}

// Parent returns the folder that holds n.
func (x *Index) Parent(n ninep.Node) ninep.Node { return ninep.Node(x.nodes[n].parent) }

// Entries returns the number of entries of folder dir, 0 for anything else.
func (x *Index) Entries(dir ninep.Node) int {
	if x.nodes[dir].kind != ninep.Directory {
		return 0
	}
	return int(x.nodes[dir].size)
}

// Entry returns entry i of folder dir; entries are sorted by name.
func (x *Index) Entry(dir ninep.Node, i int) (name string, n ninep.Node) {
	n = ninep.Node(x.nodes[dir].first + uint32(i))
	return x.name(n), n
}

// Target returns what symbolic link n points at, "" for anything else.
func (x *Index) Target(n ninep.Node) string {
	entry := &x.nodes[n]
	if entry.kind != ninep.Symlink {
		return ""
	}
	return x.targets[entry.first : entry.first+uint32(entry.size)]
}

// Nodes returns the number of nodes.
func (x *Index) Nodes() int { return len(x.nodes) }

// Size returns the sum of the lengths of all regular files, in bytes.
func (x *Index) Size() uint64 { return x.bytes }

// Dir returns the store folder.
func (x *Index) Dir() string { return x.dir }

// Path returns the absolute path of n on the host.
func (x *Index) Path(n ninep.Node) string {
	if n == ninep.Root {
		return x.dir
	}
	return x.dir + "/" + x.relative(n)
}

// relative returns the path of n from the store folder, "" for the root.
func (x *Index) relative(n ninep.Node) string {
	length := 0
	for at := n; at != ninep.Root; at = x.Parent(at) {
		length += int(x.nodes[at].nameLen) + 1
	}
	if length == 0 {
		return ""
	}
	path := make([]byte, length-1)
	end := len(path)
	for at := n; at != ninep.Root; at = x.Parent(at) {
		name := x.name(at)
		copy(path[end-len(name):], name)
		if end -= len(name) + 1; end >= 0 {
			path[end] = '/'
		}
	}
	return string(path)
}

// Resolve returns what an absolute path leads to as the guest would find it,
// following symbolic links also at its end. ok is false when the path leads
// nowhere or out of the closure.
func (x *Index) Resolve(path string) (n ninep.Node, ok bool) {
	rest, ok := x.inside(path)
	if !ok {
		return 0, false
	}
	at := ninep.Root
	for links := 0; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if at == ninep.Root {
				return 0, false
			}
			at = x.Parent(at)
			continue
		}
		next, ok := x.Lookup(at, []byte(name))
		if !ok {
			return 0, false
		}
		if x.nodes[next].kind != ninep.Symlink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return 0, false
		}
		target := x.Target(next)
		if strings.HasPrefix(target, "/") {
			if target, ok = x.inside(target); !ok {
				return 0, false
			}
			at = ninep.Root
		}
		rest = target + "/" + rest
	}
	return at, true
}

// inside cuts the store folder off an absolute path. A path that leads there
// in another way than by its name is taken to be outside.
func (x *Index) inside(path string) (relative string, ok bool) {
	relative, ok = strings.CutPrefix(path, x.dir)
	if !ok || relative != "" && relative[0] != '/' {
		return "", false
	}
	return relative, true
}

// cleanDir returns the store folder in the form an Index keeps.
func cleanDir(dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("store folder %q is not an absolute path", dir)
	}
	if dir = filepath.Clean(dir); dir == "/" {
		return "", errors.New("the store folder cannot be /")
	}
	return dir, nil
}
