// Package ninep is the 9P2000.L server (diod's protocol.md and Linux'
// include/net/9p/9p.h): the codec of its messages, and a read-only server over
// an immutable file tree that answers metadata from memory and reads file data
// straight into the caller's buffers.
package ninep

// Node numbers one file, folder or symbolic link of a Tree. The root is Root.
// A number names the same file for the life of the tree, and no other.
type Node uint32

// Root is the node of a tree's top folder.
const Root Node = 0

// Type says what a node is.
type Type uint8

// The three things a Nix store path can hold.
const (
	Directory Type = iota + 1
	Regular
	Symlink
)

// Attr is what stat tells of a node.
type Attr struct {
	Type  Type
	Mode  uint32 // permission bits, without the type
	Links uint32 // hard links; folders: 2 + sub-folders
	Size  uint64 // length in bytes: of the data, or of the link's target
	MTime int64  // seconds since the epoch; access and change time are the same
}

// Tree is an immutable file tree in memory. Its methods make no system call
// but Open, allocate nothing, and are safe for concurrent use. A Node that the
// tree did not hand out is a programmer error.
type Tree interface {
	// Attr returns the attributes of n.
	Attr(n Node) Attr
	// Lookup returns the entry called name of folder dir. ok is false when
	// there is none or dir is no folder. "." and ".." are never found.
	Lookup(dir Node, name []byte) (n Node, ok bool)
	// Parent returns the folder that holds n; the root's parent is the root.
	Parent(n Node) Node
	// Entries returns the number of entries of folder dir, without "." and "..".
	Entries(dir Node) int
	// Entry returns entry i of folder dir, 0 ≤ i < Entries(dir), in an order
	// that never changes.
	Entry(dir Node, i int) (name string, n Node)
	// Target returns what symbolic link n points at.
	Target(n Node) string
	// Open opens regular file n for reading and returns a host file
	// descriptor that the caller closes.
	Open(n Node) (fd int, err error)
	// Nodes returns the number of nodes; every Node is below it.
	Nodes() int
	// Size returns the sum of the lengths of all regular files, in bytes.
	Size() uint64
}
