package ninep

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// unhex turns "13000000 64 ffff …" into bytes.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenRequests are T-messages byte by byte, laid out as diod's protocol.md
// and the format strings in Linux' net/9p/client.c say, one line per field
// group: size type tag | fields.
var goldenRequests = []struct {
	name string
	hex  string
	want Request
}{
	{"version", "15000000 64 ffff 00d00700 0800 3950323030302e4c",
		Request{Type: Tversion, Tag: 0xFFFF, Message: 512000, Protocol: []byte("9P2000.L")}},
	{"auth", "19000000 66 0100 02000000 0400 726f6f74 0200 2f78 e8030000",
		Request{Type: Tauth, Tag: 1, AuthFid: 2, User: []byte("root"), Path: []byte("/x"), UserID: 1000}},
	{"attach", "19000000 68 0000 00000000 ffffffff 0200 6e6f 0000 ffffffff",
		Request{Type: Tattach, AuthFid: noFid, User: []byte("no"), Path: []byte{}, UserID: 0xFFFFFFFF}},
	{"flush", "09000000 6c 0700 0500", Request{Type: Tflush, Tag: 7, OldTag: 5}},
	{"walk", "1c000000 6e 0100 00000000 01000000 0200 0300 757372 0400 62696e00",
		Request{Type: Twalk, Tag: 1, NewFid: 1, NameCount: 2, Names: [16][]byte{[]byte("usr"), []byte("bin\x00")}}},
	{"walk, cloning", "11000000 6e 0100 03000000 04000000 0000", Request{Type: Twalk, Tag: 1, Fid: 3, NewFid: 4}},
	{"read", "17000000 74 0100 05000000 00100000 01000000 e8cf0700",
		Request{Type: Tread, Tag: 1, Fid: 5, Offset: 1<<32 + 4096, Count: 511976}},
	{"write", "1a000000 76 0100 05000000 0200000000000000 03000000 616263",
		Request{Type: Twrite, Tag: 1, Fid: 5, Offset: 2, Count: 3, Data: []byte("abc")}},
	{"clunk", "0b000000 78 0100 05000000", Request{Type: Tclunk, Tag: 1, Fid: 5}},
	{"remove", "0b000000 7a 0100 05000000", Request{Type: Tremove, Tag: 1, Fid: 5}},
	{"statfs", "0b000000 08 0100 05000000", Request{Type: Tstatfs, Tag: 1, Fid: 5}},
	{"lopen", "0f000000 0c 0100 05000000 00800800", Request{Type: Tlopen, Tag: 1, Fid: 5, Flags: 0x88000}},
	{"lcreate", "1a000000 0e 0100 05000000 0100 66 42000000 a4010000 64000000",
		Request{Type: Tlcreate, Tag: 1, Fid: 5, Name: []byte("f"), Flags: 0x42, Mode: 0o644, GroupID: 100}},
	{"symlink", "15000000 10 0100 05000000 0100 6c 0100 74 64000000",
		Request{Type: Tsymlink, Tag: 1, Fid: 5, Name: []byte("l"), Target: []byte("t"), GroupID: 100}},
	{"mknod", "1e000000 12 0100 05000000 0100 6e 00200000 01000000 03000000 64000000",
		Request{Type: Tmknod, Tag: 1, Fid: 5, Name: []byte("n"), Mode: 0x2000, Major: 1, Minor: 3, GroupID: 100}},
	{"rename", "12000000 14 0100 05000000 06000000 0100 6e",
		Request{Type: Trename, Tag: 1, Fid: 5, FolderFid: 6, Name: []byte("n")}},
	{"readlink", "0b000000 16 0100 05000000", Request{Type: Treadlink, Tag: 1, Fid: 5}},
	{"getattr", "13000000 18 0100 05000000 ff07000000000000",
		Request{Type: Tgetattr, Tag: 1, Fid: 5, Mask: 0x7FF}},
	{"setattr", "43000000 1a 0100 05000000 88010000 a4010000 01000000 02000000 0300000000000000" +
		"0400000000000000 0500000000000000 0600000000000000 0700000000000000",
		Request{Type: Tsetattr, Tag: 1, Fid: 5, Flags: 0x188, Mode: 0o644, UserID: 1, GroupID: 2, Size: 3,
			AccessTime: Time{4, 5}, ModifyTime: Time{6, 7}}},
	{"xattrwalk", "23000000 1e 0100 05000000 06000000 1200 73797374656d2e706f7369785f61636c5f61",
		Request{Type: Txattrwalk, Tag: 1, Fid: 5, NewFid: 6, Name: []byte("system.posix_acl_a")}},
	{"xattrcreate", "1c000000 20 0100 05000000 0300 757365 1000000000000000 01000000",
		Request{Type: Txattrcreate, Tag: 1, Fid: 5, Name: []byte("use"), Size: 16, Flags: 1}},
	{"readdir", "17000000 28 0100 05000000 0200000000000000 e8cf0700",
		Request{Type: Treaddir, Tag: 1, Fid: 5, Offset: 2, Count: 511976}},
	{"fsync", "0f000000 32 0100 05000000 01000000", Request{Type: Tfsync, Tag: 1, Fid: 5, Flags: 1}},
	{"lock", "2a000000 34 0100 05000000 01 01000000 0000000000000000 ffffffffffffff7f 2a000000 0400 686f7374",
		Request{Type: Tlock, Tag: 1, Fid: 5, LockType: 1, Flags: 1, LockLength: 1<<63 - 1, LockProcess: 42, LockClient: []byte("host")}},
	{"getlock", "26000000 36 0100 05000000 00 0a00000000000000 0b00000000000000 2a000000 0400 686f7374",
		Request{Type: Tgetlock, Tag: 1, Fid: 5, LockStart: 10, LockLength: 11, LockProcess: 42, LockClient: []byte("host")}},
	{"link", "12000000 46 0100 05000000 06000000 0100 6e",
		Request{Type: Tlink, Tag: 1, Fid: 5, FolderFid: 6, Name: []byte("n")}},
	{"mkdir", "16000000 48 0100 05000000 0100 64 ed010000 64000000",
		Request{Type: Tmkdir, Tag: 1, Fid: 5, Name: []byte("d"), Mode: 0o755, GroupID: 100}},
	{"renameat", "15000000 4a 0100 05000000 0100 61 06000000 0100 62",
		Request{Type: Trenameat, Tag: 1, Fid: 5, Name: []byte("a"), FolderFid: 6, NewName: []byte("b")}},
	{"unlinkat", "12000000 4c 0100 05000000 0100 61 00020000",
		Request{Type: Tunlinkat, Tag: 1, Fid: 5, Name: []byte("a"), Flags: 0x200}},
}

func TestDecode(t *testing.T) {
	for _, golden := range goldenRequests {
		t.Run(golden.name, func(t *testing.T) {
			msg := unhex(t, golden.hex)
			var got Request
			if err := got.Decode(msg); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, golden.want) {
				t.Errorf("got %+v\nwant %+v", got, golden.want)
			}
			// Every shorter message lacks a field, every longer one has bytes
			// that belong to none.
			for n := range msg {
				short := bytes.Clone(msg[:n])
				if n >= 4 {
					short[0], short[1] = byte(n), byte(n>>8)
				}
				if err := got.Decode(short); err != ErrMalformed {
					t.Errorf("%d of %d bytes: %v", n, len(msg), err)
				}
			}
			long := append(bytes.Clone(msg), 0)
			long[0]++
			if err := got.Decode(long); err != ErrMalformed {
				t.Errorf("a byte too many: %v", err)
			}
			if err := got.Decode(append(bytes.Clone(msg), 0)); err != ErrMalformed {
				t.Errorf("size is not the length: %v", err)
			}
			if allocs := testing.AllocsPerRun(10, func() { _ = got.Decode(msg) }); allocs != 0 {
				t.Errorf("%v allocations", allocs)
			}
		})
	}
}

func TestDecodeErrors(t *testing.T) {
	names := make([]string, 17)
	tests := map[string]struct {
		msg  []byte
		want error
	}{
		"empty":              {nil, ErrMalformed},
		"unknown type":       {message(200, 1), ErrUnknownMessage},
		"a reply":            {message(Tread+1, 1, uint32(0)), ErrUnknownMessage},
		"Terror":             {message(106, 1), ErrUnknownMessage},
		"Topen of 9P2000":    {message(112, 1, uint32(1), uint8(0)), ErrUnknownMessage},
		"17 names":           {twalk(1, 0, 1, names...), ErrMalformed},
		"name beyond end":    {message(Twalk, 1, uint32(0), uint32(1), uint16(1), uint16(2), []byte("a")), ErrMalformed},
		"write without data": {message(Twrite, 1, uint32(0), uint64(0), uint32(0xFFFFFFFF), []byte("a")), ErrMalformed},
	}
	for name, test := range tests {
		var r Request
		if err := r.Decode(test.msg); err != test.want {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, golden := range goldenRequests {
		f.Add(unhex(f, golden.hex))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var r Request
		err := r.Decode(msg)
		if err == nil && len(msg) < headerSize {
			t.Error("a message without a header")
		}
		if r.NameCount > maxNames && err == nil {
			t.Error("too many names")
		}
		if uint64(len(r.Data)) > uint64(r.Count) || len(r.Data) > len(msg) {
			t.Error("more data than the message has")
		}
	})
}
