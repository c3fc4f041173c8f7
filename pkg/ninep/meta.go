package ninep

import "golang.org/x/sys/unix"

// The requests that are answered from the tree alone.

// walk goes from f along the names and calls what it reaches NewFid. When the
// first name fails so does the walk; when a later one does, the reply ends
// before it and NewFid stays what it was (Plan 9's walk(5)).
func (s *Session) walk(r *Request, f fid) unix.Errno {
	if r.NewFid == r.Fid {
		// An open fid cannot be moved; it can be walked from.
		if f.open {
			return unix.EINVAL
		}
	} else if errno := s.mayUse(r.NewFid); errno != 0 {
		return errno
	}
	tree := s.srv.tree
	s.reply.u16(uint16(r.NameCount))
	node := f.node
	for i, name := range r.Names[:r.NameCount] {
		next, errno := s.step(node, name)
		if errno != 0 {
			if i == 0 {
				return errno
			}
			s.reply.setU16(headerSize, uint16(i))
			return 0
		}
		node = next
		s.reply.qid(tree.Attr(node).Type, node)
	}
	s.fids[r.NewFid] = fid{node: node}
	return 0
}

// step goes from folder dir to its entry called name.
func (s *Session) step(dir Node, name []byte) (Node, unix.Errno) {
	tree := s.srv.tree
	if tree.Attr(dir).Type != Directory {
		return 0, unix.ENOTDIR
	}
	if string(name) == ".." {
		return tree.Parent(dir), 0
	}
	node, ok := tree.Lookup(dir, name)
	if !ok {
		return 0, unix.ENOENT
	}
	return node, 0
}

func (s *Session) getattr(f fid) unix.Errno {
	attr := s.srv.tree.Attr(f.node)
	mode := attr.Mode
	switch attr.Type {
	case Directory:
		mode |= modeDirectory
	case Regular:
		mode |= modeRegular
	case Symlink:
		mode |= modeSymlink
	}
	out := &s.reply
	out.u64(getattrBasic)
	out.qid(attr.Type, f.node)
	out.u32(mode)
	out.u32(0) // uid: the store belongs to root
	out.u32(0) // gid
	out.u64(uint64(attr.Links))
	out.u64(0) // rdev
	out.u64(attr.Size)
	out.u64(uint64(s.blockSize()))
	out.u64((attr.Size + 511) / 512)
	for range 3 { // access, modification, change
		out.u64(uint64(attr.MTime))
		out.u64(0)
	}
	out.u64(0) // birth time and its nanoseconds, generation, data version:
	out.u64(0) // not among the basic attributes
	out.u64(0)
	out.u64(0)
	return 0
}

// blockSize is the st_blksize of every file: how much a program is advised to
// read at once. A client without a page cache makes each such read a request,
// so it is the largest power of two that fits one, up to 128 KiB, where cp and
// stdio stop gaining.
func (s *Session) blockSize() uint32 {
	size := uint32(128 << 10)
	for size > s.msize-ioHeaderSize {
		size >>= 1
	}
	return size
}

// lopen opens f for reading. It asks the host nothing: a client whose page
// cache already has the file opens it without ever reading it.
func (s *Session) lopen(r *Request, f fid) unix.Errno {
	if r.Flags&openAccess != 0 || r.Flags&(openCreate|openTruncate) != 0 {
		return unix.EROFS
	}
	if f.open {
		return unix.EINVAL
	}
	kind := s.srv.tree.Attr(f.node).Type
	switch {
	case kind == Symlink:
		return unix.ELOOP
	case kind != Directory && r.Flags&openDirectory != 0:
		return unix.ENOTDIR
	}
	f.open = true
	s.fids[r.Fid] = f
	s.reply.qid(kind, f.node)
	// The iounit: whole pages, so that a long read is cut where pages end.
	s.reply.u32((s.msize - ioHeaderSize) &^ 4095)
	if kind == Regular && s.srv.opts.OnOpen != nil {
		s.srv.opts.OnOpen(f.node)
	}
	return 0
}

// readdir lists open folder f into the data of the reply. The offset of an
// entry is its number plus one: "." is 0, ".." is 1, and the tree's own follow.
func (s *Session) readdir(r *Request, f fid) (dataLen int, errno unix.Errno) {
	tree := s.srv.tree
	if !f.open {
		return 0, unix.EBADF
	}
	if tree.Attr(f.node).Type != Directory {
		return 0, unix.ENOTDIR
	}
	room := s.dataRoom(r.Count)
	s.resp.skip(dataOffset)
	for i, end := r.Offset, uint64(tree.Entries(f.node))+2; i < end; i++ {
		name, node := ".", f.node
		switch i {
		case 0:
		case 1:
			name, node = "..", tree.Parent(f.node)
		default:
			name, node = tree.Entry(f.node, int(i-2))
		}
		s.entry.buf = s.entry.buf[:0]
		s.entry.direntry(tree.Attr(node).Type, node, i+1, name)
		if dataLen+len(s.entry.buf) > room {
			if dataLen == 0 {
				// No data would mean the end of the folder.
				return 0, unix.EINVAL
			}
			break
		}
		s.resp.write(s.entry.buf)
		dataLen += len(s.entry.buf)
	}
	s.reply.u32(uint32(dataLen))
	return dataLen, 0
}

// dataRoom returns how many of count data bytes a Rread or Rreaddir can hold.
func (s *Session) dataRoom(count uint32) int {
	return int(min(uint64(count), uint64(s.room-dataOffset)))
}

func (s *Session) readlink(f fid) unix.Errno {
	if s.srv.tree.Attr(f.node).Type != Symlink {
		return unix.EINVAL
	}
	s.reply.string(s.srv.tree.Target(f.node))
	return 0
}

func (s *Session) statfs() unix.Errno {
	out := &s.reply
	out.u32(statfsType)
	out.u32(statfsBlock)
	out.u64((s.srv.tree.Size() + statfsBlock - 1) / statfsBlock)
	out.u64(0) // free blocks
	out.u64(0) // free blocks for users
	out.u64(uint64(s.srv.tree.Nodes()))
	out.u64(0) // free nodes
	out.u64(0) // file system id
	out.u32(statfsNameMax)
	return 0
}
