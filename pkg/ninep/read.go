package ninep

import (
	"errors"
	"math"

	"golang.org/x/sys/unix"
)

// read reads open file f straight into the data of the reply. The tree knows
// where the file ends, so only bytes that exist are asked of the host.
func (s *Session) read(r *Request, f fid) (dataLen int, errno unix.Errno) {
	if !f.open {
		return 0, unix.EBADF
	}
	attr := s.srv.tree.Attr(f.node)
	if attr.Type != Regular {
		return 0, unix.EISDIR
	}
	want := s.dataRoom(r.Count)
	if r.Offset >= attr.Size || want == 0 {
		s.reply.u32(0)
		return 0, 0
	}
	if rest := attr.Size - r.Offset; uint64(want) > rest {
		want = int(rest)
	}
	if r.Offset > math.MaxInt64-uint64(want) {
		return 0, unix.EOVERFLOW
	}
	fd, err := s.hostFile(f.node)
	if err != nil {
		s.report(f.node, err)
		return 0, unix.EIO
	}
	s.resp.skip(dataOffset)
	for dataLen < want {
		n, err := s.readSome(fd, int64(r.Offset)+int64(dataLen), want-dataLen)
		if err != 0 || n == 0 {
			if err == 0 {
				err = unix.ENODATA
			}
			// What has been read is worth more than why there is no more of
			// it: the client asks again for the rest.
			if dataLen > 0 {
				break
			}
			s.report(f.node, err)
			return 0, unix.EIO
		}
		s.resp.skip(n)
		dataLen += n
	}
	s.srv.stats.readBytes.Add(uint64(dataLen))
	s.reply.u32(uint32(dataLen))
	return dataLen, 0
}

// readSome reads at most want bytes, at least one, with one system call, to
// where the cursor of the reply is, and does not move it.
func (s *Session) readSome(fd int, offset int64, want int) (int, unix.Errno) {
	s.vec = s.vec[:0]
	skip := s.resp.off
	for _, buf := range s.resp.bufs {
		buf = buf[skip:]
		skip = 0
		buf = buf[:min(len(buf), want)]
		if len(buf) == 0 {
			continue
		}
		if len(s.vec) == maxIovecs {
			break
		}
		iov := unix.Iovec{Base: &buf[0]}
		iov.SetLen(len(buf))
		s.vec = append(s.vec, iov)
		if want -= len(buf); want == 0 {
			break
		}
	}
	for {
		n, errno := preadv(fd, s.vec, offset)
		if errno != unix.EINTR {
			return n, errno
		}
	}
}

// hostFile returns the host file behind regular file n, open. It stays the
// session's.
func (s *Session) hostFile(n Node) (fd int, err error) {
	if fd, ok := s.files.get(n); ok {
		return fd, nil
	}
	fd, err = s.srv.tree.Open(n)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		// Files kept open for later are the first to go.
		s.files.closeAll()
		fd, err = s.srv.tree.Open(n)
	}
	if err != nil {
		return -1, err
	}
	s.srv.stats.hostOpens.Add(1)
	s.files.put(n, fd)
	return fd, nil
}

func (s *Session) report(n Node, err error) {
	if s.srv.opts.OnError != nil {
		s.srv.opts.OnError(n, err)
	}
}
