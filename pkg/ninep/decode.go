package ninep

import (
	"encoding/binary"
	"errors"
)

// ErrMalformed is returned for bytes that are no message of the protocol: too
// short for their fields, longer than their fields, or of a size that is not
// their length.
var ErrMalformed = errors.New("malformed 9P message")

// ErrUnknownMessage is returned for a well-formed header of a message type
// that 9P2000.L does not have. Type and Tag are set.
var ErrUnknownMessage = errors.New("unknown 9P message type")

// Request is one decoded T-message. Decode sets the fields that its type has;
// the others keep what an earlier message left there. Byte slices lie in the
// decoded buffer.
type Request struct {
	Type MessageType
	Tag  uint16

	Fid       uint32 // the file or folder the request is about
	NewFid    uint32 // walk, xattrwalk
	AuthFid   uint32 // auth, attach
	FolderFid uint32 // rename, renameat: the new folder; link: the linked file

	Names     [maxNames][]byte // walk
	NameCount int              // walk: how many of Names

	Name    []byte // the entry in folder Fid; the extended attribute
	NewName []byte // renameat
	Target  []byte // symlink
	User    []byte // auth, attach
	UserID  uint32 // auth, attach, setattr
	GroupID uint32 // lcreate, symlink, mknod, mkdir, setattr
	Path    []byte // auth, attach: the tree that is asked for (aname)

	Flags  uint32 // lopen, lcreate, unlinkat, xattrcreate, lock; fsync: data only; setattr: valid
	Mode   uint32 // lcreate, mknod, mkdir, setattr
	Major  uint32 // mknod
	Minor  uint32 // mknod
	Mask   uint64 // getattr: the attributes asked for
	Size   uint64 // setattr, xattrcreate
	Offset uint64 // read, write, readdir
	Count  uint32 // read, write, readdir
	Data   []byte // write

	AccessTime, ModifyTime Time // setattr

	Message  uint32 // version: msize, the largest message in bytes
	Protocol []byte // version
	OldTag   uint16 // flush

	LockType    uint8  // lock, getlock
	LockStart   uint64 // lock, getlock
	LockLength  uint64 // lock, getlock
	LockProcess uint32 // lock, getlock
	LockClient  []byte // lock, getlock
}

// Time is a time as setattr sends it.
type Time struct{ Seconds, Nanoseconds uint64 }

// Decode decodes the one T-message that msg consists of. It allocates nothing
// and returns ErrMalformed or ErrUnknownMessage, unwrapped. When msg has at
// least a header, Type and Tag are set in any case, so that it can be answered.
func (r *Request) Decode(msg []byte) error {
	d := decoder{rest: msg}
	size := d.u32()
	r.Type, r.Tag = MessageType(d.u8()), d.u16()
	if d.failed || uint64(size) != uint64(len(msg)) {
		return ErrMalformed
	}
	switch r.Type {
	case Tversion:
		r.Message, r.Protocol = d.u32(), d.bytes()
	case Tauth:
		r.AuthFid, r.User, r.Path, r.UserID = d.u32(), d.bytes(), d.bytes(), d.u32()
	case Tattach:
		r.Fid, r.AuthFid, r.User, r.Path, r.UserID = d.u32(), d.u32(), d.bytes(), d.bytes(), d.u32()
	case Tflush:
		r.OldTag = d.u16()
	case Twalk:
		r.Fid, r.NewFid, r.NameCount = d.u32(), d.u32(), int(d.u16())
		if r.NameCount > maxNames {
			return ErrMalformed
		}
		for i := range r.NameCount {
			r.Names[i] = d.bytes()
		}
	case Tread, Treaddir:
		r.Fid, r.Offset, r.Count = d.u32(), d.u64(), d.u32()
	case Twrite:
		r.Fid, r.Offset, r.Count = d.u32(), d.u64(), d.u32()
		r.Data = d.take(int(r.Count))
	case Tclunk, Tremove, Treadlink, Tstatfs:
		r.Fid = d.u32()
	case Tlopen, Tfsync:
		r.Fid, r.Flags = d.u32(), d.u32()
	case Tgetattr:
		r.Fid, r.Mask = d.u32(), d.u64()
	case Tsetattr:
		r.Fid, r.Flags, r.Mode, r.UserID, r.GroupID, r.Size = d.u32(), d.u32(), d.u32(), d.u32(), d.u32(), d.u64()
		r.AccessTime = Time{d.u64(), d.u64()}
		r.ModifyTime = Time{d.u64(), d.u64()}
	case Txattrwalk:
		r.Fid, r.NewFid, r.Name = d.u32(), d.u32(), d.bytes()
	case Txattrcreate:
		r.Fid, r.Name, r.Size, r.Flags = d.u32(), d.bytes(), d.u64(), d.u32()
	case Tlcreate:
		r.Fid, r.Name, r.Flags, r.Mode, r.GroupID = d.u32(), d.bytes(), d.u32(), d.u32(), d.u32()
	case Tsymlink:
		r.Fid, r.Name, r.Target, r.GroupID = d.u32(), d.bytes(), d.bytes(), d.u32()
	case Tmknod:
		r.Fid, r.Name, r.Mode, r.Major, r.Minor, r.GroupID = d.u32(), d.bytes(), d.u32(), d.u32(), d.u32(), d.u32()
	case Tmkdir:
		r.Fid, r.Name, r.Mode, r.GroupID = d.u32(), d.bytes(), d.u32(), d.u32()
	case Trename:
		r.Fid, r.FolderFid, r.Name = d.u32(), d.u32(), d.bytes()
	case Tlink:
		r.Fid, r.FolderFid, r.Name = d.u32(), d.u32(), d.bytes()
	case Trenameat:
		r.Fid, r.Name, r.FolderFid, r.NewName = d.u32(), d.bytes(), d.u32(), d.bytes()
	case Tunlinkat:
		r.Fid, r.Name, r.Flags = d.u32(), d.bytes(), d.u32()
	case Tlock:
		r.Fid, r.LockType, r.Flags = d.u32(), d.u8(), d.u32()
		r.LockStart, r.LockLength, r.LockProcess, r.LockClient = d.u64(), d.u64(), d.u32(), d.bytes()
	case Tgetlock:
		r.Fid, r.LockType = d.u32(), d.u8()
		r.LockStart, r.LockLength, r.LockProcess, r.LockClient = d.u64(), d.u64(), d.u32(), d.bytes()
	default:
		return ErrUnknownMessage
	}
	if d.failed || len(d.rest) != 0 {
		return ErrMalformed
	}
	return nil
}

// decoder takes little-endian fields off the front of a buffer. After the
// first that is not there it is failed and gives zeros.
type decoder struct {
	rest   []byte
	failed bool
}

// take returns the next n bytes, or nil.
func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.rest, d.failed = nil, true
		return nil
	}
	field := d.rest[:n:n]
	d.rest = d.rest[n:]
	return field
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// bytes takes a string: its length in two bytes, then its bytes.
func (d *decoder) bytes() []byte { return d.take(int(d.u16())) }
