package ninep

import "fmt"

// MessageType is the type byte of a message. A request is even; its reply is
// the number above it, or Rlerror.
type MessageType uint8

// The messages of 9P2000.L, and the few of 9P2000 that it kept.
const (
	Rlerror      MessageType = 7
	Tstatfs      MessageType = 8
	Tlopen       MessageType = 12
	Tlcreate     MessageType = 14
	Tsymlink     MessageType = 16
	Tmknod       MessageType = 18
	Trename      MessageType = 20
	Treadlink    MessageType = 22
	Tgetattr     MessageType = 24
	Tsetattr     MessageType = 26
	Txattrwalk   MessageType = 30
	Txattrcreate MessageType = 32
	Treaddir     MessageType = 40
	Tfsync       MessageType = 50
	Tlock        MessageType = 52
	Tgetlock     MessageType = 54
	Tlink        MessageType = 70
	Tmkdir       MessageType = 72
	Trenameat    MessageType = 74
	Tunlinkat    MessageType = 76
	Tversion     MessageType = 100
	Tauth        MessageType = 102
	Tattach      MessageType = 104
	Tflush       MessageType = 108
	Twalk        MessageType = 110
	Tread        MessageType = 116
	Twrite       MessageType = 118
	Tclunk       MessageType = 120
	Tremove      MessageType = 122
)

var messageNames = map[MessageType]string{
	Rlerror: "lerror", Tstatfs: "statfs", Tlopen: "lopen", Tlcreate: "lcreate",
	Tsymlink: "symlink", Tmknod: "mknod", Trename: "rename", Treadlink: "readlink",
	Tgetattr: "getattr", Tsetattr: "setattr", Txattrwalk: "xattrwalk",
	Txattrcreate: "xattrcreate", Treaddir: "readdir", Tfsync: "fsync", Tlock: "lock",
	Tgetlock: "getlock", Tlink: "link", Tmkdir: "mkdir", Trenameat: "renameat",
	Tunlinkat: "unlinkat", Tversion: "version", Tauth: "auth", Tattach: "attach",
	Tflush: "flush", Twalk: "walk", Tread: "read", Twrite: "write", Tclunk: "clunk",
	Tremove: "remove",
}

// String returns the name of the message without its T or R.
func (t MessageType) String() string {
	if name, ok := messageNames[t]; ok {
		return name
	}
	return fmt.Sprintf("message %d", uint8(t))
}

const (
	// Version is the one protocol the server speaks.
	Version = "9P2000.L"

	// MinMessage is the smallest message size, in bytes, a session can be
	// negotiated down to: Linux refuses to mount with less.
	MinMessage = 4096
	// MaxMessage is the largest message size, in bytes, that Linux' virtio
	// transport asks for: 125 pages, what 128 descriptors carry beside headers.
	MaxMessage = 125 * 4096

	headerSize   = 4 + 1 + 2      // size, type, tag
	lerrorSize   = headerSize + 4 // the smallest room that any request can be answered in
	dataOffset   = headerSize + 4 // where the data of Rread and Rreaddir begins
	ioHeaderSize = 24             // what Linux keeps back from msize for the header of a read or write

	noFid    = 0xFFFF_FFFF // "no fid", as afid of Tattach
	maxNames = 16          // names in one Twalk
)

// qid types (the top byte of a mode in 9P2000).
const (
	qidDirectory = 0x80
	qidSymlink   = 0x02
	qidRegular   = 0x00
)

// qidVersion is the version of every qid. The tree never changes, so neither
// does it; Linux stops caching pages of a file whose version is 0.
const qidVersion = 1

// The bits of Tlopen's flags that the server looks at: Linux' generic numbers,
// whatever the architecture of the guest.
const (
	openAccess    = 0o3 // 0 is read only
	openCreate    = 0o100
	openTruncate  = 0o1000
	openDirectory = 0o200000
)

// The type bits of Rgetattr's mode (stat(2)) and of directory entries
// (readdir(3)), again Linux' generic numbers.
const (
	modeDirectory = 0o040000
	modeRegular   = 0o100000
	modeSymlink   = 0o120000

	entryDirectory = 4
	entryRegular   = 8
	entrySymlink   = 10
)

const (
	getattrBasic  = 0x7FF      // P9_GETATTR_BASIC: every field up to blocks
	statfsType    = 0x01021997 // V9FS_MAGIC
	statfsBlock   = 4096
	statfsNameMax = 255

	lockSuccess = 0
	lockUnlock  = 2 // F_UNLCK: in a Rgetlock, that nobody holds the lock
)
