package ninep

import "encoding/binary"

// reply is an R-message under construction: the header, filled in at the end,
// and the fields so far. Its buffer is used again for the next reply.
type reply struct{ buf []byte }

// begin empties the reply but for the room of its header.
func (r *reply) begin() {
	var header [headerSize]byte
	r.buf = append(r.buf[:0], header[:]...)
}

// finish fills in the header of a message with dataLen more bytes behind the
// fields, and returns the length of the whole.
func (r *reply) finish(t MessageType, tag uint16, dataLen int) int {
	size := len(r.buf) + dataLen
	binary.LittleEndian.PutUint32(r.buf, uint32(size))
	r.buf[4] = uint8(t)
	binary.LittleEndian.PutUint16(r.buf[5:], tag)
	return size
}

func (r *reply) u8(v uint8)   { r.buf = append(r.buf, v) }
func (r *reply) u16(v uint16) { r.buf = binary.LittleEndian.AppendUint16(r.buf, v) }
func (r *reply) u32(v uint32) { r.buf = binary.LittleEndian.AppendUint32(r.buf, v) }
func (r *reply) u64(v uint64) { r.buf = binary.LittleEndian.AppendUint64(r.buf, v) }

func (r *reply) bytes(v []byte) {
	r.u16(uint16(len(v)))
	r.buf = append(r.buf, v...)
}

func (r *reply) string(v string) {
	r.u16(uint16(len(v)))
	r.buf = append(r.buf, v...)
}

// setU16 overwrites the two bytes at offset at of the message.
func (r *reply) setU16(at int, v uint16) { binary.LittleEndian.PutUint16(r.buf[at:], v) }

// direntry appends a directory entry: qid[13] offset[8] type[1] name[s], offset
// being where the next listing goes on.
func (r *reply) direntry(t Type, n Node, offset uint64, name string) {
	kind := uint8(entryRegular)
	switch t {
	case Directory:
		kind = entryDirectory
	case Symlink:
		kind = entrySymlink
	}
	r.qid(t, n)
	r.u64(offset)
	r.u8(kind)
	r.string(name)
}

// qid appends the qid of node n: type[1] version[4] path[8].
func (r *reply) qid(t Type, n Node) {
	kind := uint8(qidRegular)
	switch t {
	case Directory:
		kind = qidDirectory
	case Symlink:
		kind = qidSymlink
	}
	r.u8(kind)
	r.u32(qidVersion)
	r.u64(uint64(n) + 1)
}

// scatter writes one byte stream across the buffers of a reply, wherever they
// are split.
type scatter struct {
	bufs [][]byte
	off  int // bytes of bufs[0] that are behind the cursor
}

// skip moves the cursor n bytes on.
func (s *scatter) skip(n int) {
	s.off += n
	for len(s.bufs) > 0 && s.off >= len(s.bufs[0]) {
		s.off -= len(s.bufs[0])
		s.bufs = s.bufs[1:]
	}
}

// write stores p at the cursor and moves on. What does not fit is dropped:
// callers have checked the room.
func (s *scatter) write(p []byte) {
	for len(p) > 0 && len(s.bufs) > 0 {
		n := copy(s.bufs[0][s.off:], p)
		p = p[n:]
		s.skip(n)
	}
}
