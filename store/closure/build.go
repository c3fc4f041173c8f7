package closure

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/pkg/ninep"
)

// errTooLarge is the one limit of the representation: offsets of 32 bits.
var errTooLarge = errors.New("closure too large to index: more than 4 GiB of names or link targets, or 2^32 files")

// Build reads the file tree of paths, absolute store paths right below store
// folder dir, and returns their index. A path may be named twice. The same
// store always gives the same index. Errors name the path; one that does not
// exist wraps ErrMissing. Build ends early when ctx does.
func Build(ctx context.Context, dir string, paths []string) (*Index, error) {
	dir, err := cleanDir(dir)
	if err != nil {
		return nil, err
	}
	tops, err := baseNames(dir, paths)
	if err != nil {
		return nil, err
	}
	store, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open store folder %s: %w", dir, err)
	}
	x := &Index{dir: dir, store: store}
	parts, err := x.scan(ctx, tops)
	if err == nil {
		err = x.join(parts)
	}
	if err != nil {
		x.Close()
		return nil, err
	}
	return x, nil
}

// baseNames returns the names of paths in dir, sorted, each once.
func baseNames(dir string, paths []string) ([]string, error) {
	names := make([]string, 0, len(paths))
	for _, path := range paths {
		name, ok := strings.CutPrefix(path, dir+"/")
		if !ok || name == "" || name == "." || name == ".." || len(name) > unix.NAME_MAX ||
			strings.ContainsAny(name, "/\x00") {
			return nil, fmt.Errorf("%q is not a path right below store folder %s", path, dir)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// scan reads each store path, several at a time.
func (x *Index) scan(ctx context.Context, tops []string) ([]part, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	parts := make([]part, len(tops))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(len(tops), max(2, min(runtime.GOMAXPROCS(0), 8))) {
		workers.Go(func() {
			s := scanner{index: x, dirents: make([]byte, 64<<10)}
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(tops) {
					return
				}
				var err error
				if parts[i], err = s.scan(ctx, tops[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("index closure: %w", err)
	}
	return parts, nil
}

// part is the tree of one store path, in an index' representation but for its
// numbers, which count from the store path: it is node 0 and its own parent.
type part struct {
	nodes   []node
	names   []byte
	targets []byte
	bytes   uint64
}

// join makes the index of its parts, which are sorted by the names of their
// first nodes.
func (x *Index) join(parts []part) error {
	var nodes, names, targets uint64 = 1 + uint64(len(parts)), 0, 0
	for i := range parts {
		nodes += uint64(len(parts[i].nodes)) - 1
		names += uint64(len(parts[i].names))
		targets += uint64(len(parts[i].targets))
	}
	if max(nodes, names, targets) > math.MaxUint32 {
		return errTooLarge
	}
	root := node{kind: ninep.Directory, first: 1, size: uint64(len(parts))}
	tops := make([]node, 0, nodes)
	tops = append(tops, root)
	inner := tops[1+len(parts) : 1+len(parts)]
	var nameText, targetText strings.Builder
	nameText.Grow(int(names))
	targetText.Grow(int(targets))
	for i := range parts {
		p := &parts[i]
		top := uint32(1 + i)
		// What is node k of the part, k ≥ 1, is node base+k here.
		base := uint32(1+len(parts)+len(inner)) - 1
		for k, n := range p.nodes {
			n.name += uint32(nameText.Len())
			switch n.kind {
			case ninep.Directory:
				n.first += base
			case ninep.Symlink:
				n.first += uint32(targetText.Len())
			}
			switch {
			case k == 0:
				n.parent = uint32(ninep.Root)
				tops = append(tops, n)
				continue
			case n.parent == 0:
				n.parent = top
			default:
				n.parent += base
			}
			inner = append(inner, n)
		}
		if p.nodes[0].kind == ninep.Directory {
			tops[0].folders++
		}
		nameText.Write(p.names)
		targetText.Write(p.targets)
		x.bytes += p.bytes
		*p = part{}
	}
	x.nodes = tops[:nodes]
	x.names, x.targets = nameText.String(), targetText.String()
	return nil
}

// scanner reads store paths, one after the other.
type scanner struct {
	index   *Index
	top     string // the store path's name
	part    part
	found   []dirent // the entries of the folder being read
	names   []byte   // their names
	dirents []byte   // what getdents fills
}

// dirent is an entry of a folder as getdents tells of it.
type dirent struct {
	name []byte
	kind uint8 // DT_DIR …; DT_UNKNOWN where the file system does not say
}

// scan reads the tree of store path top.
func (s *scanner) scan(ctx context.Context, top string) (part, error) {
	s.top, s.part = top, part{}
	err := s.add(s.index.store, 0, dirent{name: []byte(top)})
	if errors.Is(err, unix.ENOENT) {
		return part{}, fmt.Errorf("store path %s/%s %w", s.index.dir, top, ErrMissing)
	}
	// Folders are read in the order their nodes were made. Each puts its
	// entries at the end, next to each other, and is done.
	for k := 0; k < len(s.part.nodes) && err == nil; k++ {
		if s.part.nodes[k].kind != ninep.Directory {
			continue
		}
		if err = ctx.Err(); err == nil {
			err = s.readFolder(uint32(k))
		}
	}
	if err != nil {
		return part{}, err
	}
	return s.part, nil
}

// readFolder makes the nodes of what is in folder k.
func (s *scanner) readFolder(k uint32) error {
	path := s.relative(k)
	fd, err := s.index.openBeneath(s.index.store, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open folder %s/%s: %w", s.index.dir, path, err)
	}
	defer unix.Close(fd)
	if err := s.list(fd); err != nil {
		return fmt.Errorf("list folder %s/%s: %w", s.index.dir, path, err)
	}
	slices.SortFunc(s.found, func(a, b dirent) int { return bytes.Compare(a.name, b.name) })
	first := len(s.part.nodes)
	for _, entry := range s.found {
		if err := s.add(fd, k, entry); err != nil {
			return err
		}
	}
	folder := &s.part.nodes[k]
	folder.first, folder.size = uint32(first), uint64(len(s.found))
	for _, n := range s.part.nodes[first:] {
		if n.kind == ninep.Directory {
			folder.folders++
		}
	}
	return nil
}

// list fills s.found with the entries of folder fd.
func (s *scanner) list(fd int) error {
	s.found, s.names = s.found[:0], s.names[:0]
	for {
		n, err := unix.ReadDirent(fd, s.dirents)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		// struct linux_dirent64 (getdents(2)): inode[8] offset[8] length[2]
		// type[1], and the name up to a NUL.
		for rest := s.dirents[:n]; len(rest) > 0; {
			record := rest[:binary.NativeEndian.Uint16(rest[16:])]
			rest = rest[len(record):]
			name, _, _ := bytes.Cut(record[19:], []byte{0})
			if string(name) == "." || string(name) == ".." {
				continue
			}
			start := len(s.names)
			s.names = append(s.names, name...)
			s.found = append(s.found, dirent{name: s.names[start:len(s.names):len(s.names)], kind: record[18]})
		}
	}
}

// add makes the node of one entry of folder dir, which is node parent.
func (s *scanner) add(dir int, parent uint32, entry dirent) error {
	name := string(entry.name)
	n := node{parent: parent, name: uint32(len(s.part.names)), nameLen: uint8(len(name))}
	var stat unix.Stat_t
	stat.Mode = uint32(entry.kind) << 12 // as DT_DIR and its like are defined
	// A folder needs no more than that, everything else its size or its mode.
	if entry.kind != unix.DT_DIR {
		if err := unix.Fstatat(dir, name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("stat %s: %w", s.path(parent, name), err)
		}
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.kind = ninep.Directory
	case unix.S_IFREG:
		n.kind = ninep.Regular
		n.size = uint64(stat.Size)
		n.executable = stat.Mode&unix.S_IXUSR != 0
		s.part.bytes += n.size
	case unix.S_IFLNK:
		target, err := readlink(dir, name)
		if err != nil {
			return fmt.Errorf("read link %s: %w", s.path(parent, name), err)
		}
		n.kind = ninep.Symlink
		n.first, n.size = uint32(len(s.part.targets)), uint64(len(target))
		s.part.targets = append(s.part.targets, target...)
	default:
		return fmt.Errorf("%s is a %s: a store holds only files, folders and symbolic links",
			s.path(parent, name), describe(stat.Mode))
	}
	s.part.names = append(s.part.names, name...)
	s.part.nodes = append(s.part.nodes, n)
	if max(uint64(len(s.part.nodes)), uint64(len(s.part.names)), uint64(len(s.part.targets))) > math.MaxUint32-unix.PathMax {
		return errTooLarge
	}
	return nil
}

// path returns the absolute path of entry name of folder node parent.
func (s *scanner) path(parent uint32, name string) string {
	if len(s.part.nodes) == 0 {
		return s.index.dir + "/" + name
	}
	return s.index.dir + "/" + s.relative(parent) + "/" + name
}

// relative returns the path of node k from the store folder.
func (s *scanner) relative(k uint32) string {
	var names []string
	for ; k != 0; k = s.part.nodes[k].parent {
		n := &s.part.nodes[k]
		names = append(names, string(s.part.names[n.name:n.name+uint32(n.nameLen)]))
	}
	names = append(names, s.top)
	slices.Reverse(names)
	return strings.Join(names, "/")
}

func readlink(dir int, name string) ([]byte, error) {
	var target [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, target[:])
	if err != nil {
		return nil, err
	}
	return bytes.Clone(target[:n]), nil
}

// describe names the file types that have no place in a store.
func describe(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "named pipe"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	}
	return fmt.Sprintf("file of unknown type %#o", mode&unix.S_IFMT)
}
