package ninep

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// client plays the guest's side of one session.
type client struct {
	t       testing.TB
	session *Session
	split   func(room int) [][]byte // the buffers of a reply
}

func oneBuffer(room int) [][]byte { return [][]byte{make([]byte, room)} }

// pages lays out the reply of a zero-copy read as Linux does.
func pages(room int) [][]byte {
	bufs := [][]byte{make([]byte, dataOffset)}
	for room -= dataOffset; room > 0; room -= 4096 {
		bufs = append(bufs, make([]byte, min(room, 4096)))
	}
	return bufs
}

// newClient returns a client of tree that has negotiated msize and whose fid 0
// is the root.
func newClient(t testing.TB, tree Tree, opts Options, msize uint32) *client {
	t.Helper()
	c := &client{t: t, session: NewServer(tree, opts).NewSession(), split: oneBuffer}
	t.Cleanup(c.session.Close)
	c.ok(message(Tversion, 0xFFFF, msize, Version))
	c.ok(message(Tattach, 0, uint32(0), uint32(noFid), "root", "", uint32(0)))
	return c
}

// call sends one request with room for a reply of that many bytes and returns
// the reply.
func (c *client) call(req []byte, room int) []byte {
	c.t.Helper()
	bufs := c.split(room)
	n, err := c.session.Handle(req, bufs)
	if err != nil {
		c.t.Fatalf("%v: %v", MessageType(req[4]), err)
	}
	reply := bytes.Join(bufs, nil)
	if uint64(n) > uint64(len(reply)) {
		c.t.Fatalf("%v: a reply of %d bytes in room for %d", MessageType(req[4]), n, len(reply))
	}
	reply = reply[:n]
	if n < headerSize || binary.LittleEndian.Uint32(reply) != n || !bytes.Equal(reply[5:7], req[5:7]) {
		c.t.Fatalf("%v: reply % x with a wrong size or tag", MessageType(req[4]), reply)
	}
	return reply
}

// ok sends a request that must succeed and returns the fields of the reply.
func (c *client) ok(req []byte) []byte {
	c.t.Helper()
	reply := c.call(req, 64<<10)
	if reply[4] != req[4]+1 {
		c.t.Fatalf("%v: reply % x", MessageType(req[4]), reply)
	}
	return reply[headerSize:]
}

// fails sends a request that must fail with want.
func (c *client) fails(req []byte, want unix.Errno) {
	c.t.Helper()
	reply := c.call(req, 64<<10)
	if MessageType(reply[4]) != Rlerror {
		c.t.Errorf("%v: reply % x, want %v", MessageType(req[4]), reply, want)
	} else if errno := unix.Errno(binary.LittleEndian.Uint32(reply[headerSize:])); errno != want || len(reply) != lerrorSize {
		c.t.Errorf("%v: %v, want %v", MessageType(req[4]), errno, want)
	}
}

func closureFiles() map[string]string {
	return map[string]string{
		"a-system/init":   "->../b-init/bin/init",
		"a-system/etc/":   "",
		"b-init/bin/init": "#!/bin/sh\n",
		"c-file":          strings.Repeat("0123456789abcdef", 1000),
	}
}

// In the tree of closureFiles: 1 a-system, 2 a-system/etc, 3 a-system/init,
// 4 b-init, 5 b-init/bin, 6 b-init/bin/init, 7 c-file.

func TestGoldenReplies(t *testing.T) {
	c := newClient(t, plant(t, closureFiles()), Options{}, MaxMessage)
	c.ok(twalk(1, 0, 1, "a-system"))
	c.ok(twalk(1, 0, 2, "a-system", "init"))
	c.ok(twalk(1, 0, 3, "b-init", "bin", "init"))
	c.ok(twalk(1, 0, 4, "a-system"))
	c.ok(message(Tlopen, 1, uint32(4), uint32(0x98800)))
	tests := []struct {
		name string
		req  []byte
		want string
	}{
		{"version, ours is smaller", message(Tversion, 0xFFFF, uint32(1<<20), "9P2000.L"), "15000000 65 ffff 00d00700 0800 3950323030302e4c"},
		{"attach", message(Tattach, 1, uint32(9), uint32(noFid), "", "/", uint32(0)), "14000000 69 0100 80 01000000 0100000000000000"},
		{"walk", twalk(2, 0, 10, "b-init", "bin", "init"), "30000000 6f 0200 0300" +
			"80 01000000 0500000000000000 80 01000000 0600000000000000 00 01000000 0700000000000000"},
		{"walk, partial", twalk(2, 0, 11, "a-system", "init", "x"), "23000000 6f 0200 0200" +
			"80 01000000 0200000000000000 02 01000000 0400000000000000"},
		{"walk, cloning", twalk(2, 3, 12), "09000000 6f 0200 0000"},
		{"getattr of a folder", message(Tgetattr, 3, uint32(1), uint64(0x7FF)), "a0000000 19 0300 ff07000000000000" +
			"80 01000000 0200000000000000 6d410000 00000000 00000000 0200000000000000 0000000000000000" +
			"0000000000000000 0000020000000000 0000000000000000" +
			strings.Repeat("0100000000000000 0000000000000000", 3) + strings.Repeat("0000000000000000", 4)},
		{"getattr of a link", message(Tgetattr, 3, uint32(2), uint64(0x3FFF)), "a0000000 19 0300 ff07000000000000" +
			"02 01000000 0400000000000000 ffa10000 00000000 00000000 0100000000000000 0000000000000000" +
			"1200000000000000 0000020000000000 0100000000000000" +
			strings.Repeat("0100000000000000 0000000000000000", 3) + strings.Repeat("0000000000000000", 4)},
		{"lopen", message(Tlopen, 4, uint32(3), uint32(0x8000)), "18000000 0d 0400 00 01000000 0700000000000000 00c00700"},
		{"read", message(Tread, 5, uint32(3), uint64(2), uint32(5)), "10000000 75 0500 05000000 2f62696e2f"},
		{"read at the end", message(Tread, 5, uint32(3), uint64(8), uint32(5)), "0d000000 75 0500 02000000 680a"},
		{"read behind the end", message(Tread, 5, uint32(3), uint64(10), uint32(5)), "0b000000 75 0500 00000000"},
		{"readdir", message(Treaddir, 6, uint32(4), uint64(0), uint32(4096)), "75000000 29 0600 6a000000" +
			"80 01000000 0200000000000000 0100000000000000 04 0100 2e" +
			"80 01000000 0100000000000000 0200000000000000 04 0200 2e2e" +
			"80 01000000 0300000000000000 0300000000000000 04 0300 657463" +
			"02 01000000 0400000000000000 0400000000000000 0a 0400 696e6974"},
		{"readlink", message(Treadlink, 7, uint32(2)), "1b000000 17 0700 1200 2e2e2f622d696e69742f62696e2f696e6974"},
		{"statfs", message(Tstatfs, 8, uint32(0)), "43000000 09 0800 97190201 00100000 0400000000000000" +
			"0000000000000000 0000000000000000 0800000000000000 0000000000000000 0000000000000000 ff000000"},
		{"flush", message(Tflush, 9, uint16(3)), "07000000 6d 0900"},
		{"fsync", message(Tfsync, 9, uint32(3), uint32(0)), "07000000 33 0900"},
		{"lock", message(Tlock, 9, uint32(3), uint8(1), uint32(1), uint64(0), uint64(0), uint32(7), "vm"), "08000000 35 0900 00"},
		{"getlock", message(Tgetlock, 9, uint32(3), uint8(1), uint64(2), uint64(3), uint32(7), "vm"),
			"20000000 37 0900 02 0200000000000000 0300000000000000 07000000 0200 766d"},
		{"clunk", message(Tclunk, 10, uint32(3)), "07000000 79 0a00"},
		{"an error", message(Tclunk, 10, uint32(3)), "0b000000 07 0a00 09000000"},
		{"xattrwalk", message(Txattrwalk, 11, uint32(1), uint32(20), "security.capability"), "0b000000 07 0b00 5f000000"},
		{"auth", message(Tauth, 11, uint32(1), "", "", uint32(0)), "0b000000 07 0b00 5f000000"},
		{"version, not ours", message(Tversion, 0xFFFF, uint32(8192), "9P2000.u"), "14000000 65 ffff 00200000 0700 756e6b6e6f776e"},
	}
	// The first starts a session of its own, the others share that of c.
	fresh := &client{t: t, session: NewServer(plant(t, nil), Options{}).NewSession(), split: oneBuffer}
	for i, test := range tests {
		to := c
		if i == 0 {
			to = fresh
		}
		if got, want := to.call(test.req, 64<<10), unhex(t, test.want); !bytes.Equal(got, want) {
			t.Errorf("%s:\n got % x\nwant % x", test.name, got, want)
		}
	}
}

func TestConversations(t *testing.T) {
	const dir, link, file, folder = 1, 2, 3, 4 // fids; folder and file are open
	tests := []struct {
		name string
		req  []byte
		want unix.Errno // 0 is success
	}{
		{"attach to a fid in use", message(Tattach, 1, uint32(dir), uint32(noFid), "", "", uint32(0)), unix.EINVAL},
		{"attach to no fid", message(Tattach, 1, uint32(noFid), uint32(noFid), "", "", uint32(0)), unix.EBADF},
		{"attach with authentication", message(Tattach, 1, uint32(9), uint32(dir), "", "", uint32(0)), unix.EBADF},
		{"attach elsewhere", message(Tattach, 1, uint32(9), uint32(noFid), "", "/etc", uint32(0)), unix.ENOENT},
		{"walk from nowhere", twalk(1, 99, 10), unix.EBADF},
		{"walk to a fid in use", twalk(1, dir, file), unix.EINVAL},
		{"walk to no fid", twalk(1, dir, noFid), unix.EBADF},
		{"walk in place", twalk(1, dir, dir, ".."), 0},
		{"walk back in place", twalk(1, dir, dir, "a-system"), 0},
		{"walk an open fid in place", twalk(1, folder, folder, "etc"), unix.EINVAL},
		{"walk from an open fid", twalk(1, folder, 10, "etc"), 0},
		{"walk nothing in place", twalk(1, 10, 10), 0},
		{"walk to what is not there", twalk(1, 0, 11, "x"), unix.ENOENT},
		{"walk to a dot", twalk(1, 0, 11, "."), unix.ENOENT},
		{"walk to nothing", twalk(1, 0, 11, ""), unix.ENOENT},
		{"walk with a slash", twalk(1, 0, 11, "a-system/etc"), unix.ENOENT},
		{"walk above the root", twalk(1, 0, 11, "..", "..", "a-system", "..", "c-file"), 0},
		{"walk from a file", twalk(1, 11, 12, "x"), unix.ENOTDIR},
		{"walk up from a file", twalk(1, 11, 12, ".."), unix.ENOTDIR},
		{"walk through a link", twalk(1, link, 12, "x"), unix.ENOTDIR},
		{"walk partly", twalk(1, 0, 12, "a-system", "x"), 0},
		{"so there is no such fid", message(Tgetattr, 1, uint32(12), uint64(0)), unix.EBADF},
		{"lopen for writing", message(Tlopen, 1, uint32(dir), uint32(1)), unix.EROFS},
		{"lopen for both", message(Tlopen, 1, uint32(dir), uint32(2)), unix.EROFS},
		{"lopen to truncate", message(Tlopen, 1, uint32(dir), uint32(0o1000)), unix.EROFS},
		{"lopen to create", message(Tlopen, 1, uint32(dir), uint32(0o100)), unix.EROFS},
		{"lopen a link", message(Tlopen, 1, uint32(link), uint32(0)), unix.ELOOP},
		{"lopen a file as a folder", message(Tlopen, 1, uint32(11), uint32(0o200000)), unix.ENOTDIR},
		{"lopen again", message(Tlopen, 1, uint32(file), uint32(0)), unix.EINVAL},
		{"lopen nothing", message(Tlopen, 1, uint32(99), uint32(0)), unix.EBADF},
		{"read a closed fid", message(Tread, 1, uint32(dir), uint64(0), uint32(1)), unix.EBADF},
		{"read a folder", message(Tread, 1, uint32(folder), uint64(0), uint32(1)), unix.EISDIR},
		{"read nothing", message(Tread, 1, uint32(file), uint64(0), uint32(0)), 0},
		{"read at the end of the world", message(Tread, 1, uint32(file), uint64(1<<64-1), uint32(1<<32-1)), 0},
		{"readdir a closed fid", message(Treaddir, 1, uint32(dir), uint64(0), uint32(99)), unix.EBADF},
		{"readdir a file", message(Treaddir, 1, uint32(file), uint64(0), uint32(99)), unix.ENOTDIR},
		{"readdir with too little room", message(Treaddir, 1, uint32(folder), uint64(0), uint32(24)), unix.EINVAL},
		{"readdir behind the end", message(Treaddir, 1, uint32(folder), uint64(1<<64-1), uint32(24)), 0},
		{"readlink a file", message(Treadlink, 1, uint32(file)), unix.EINVAL},
		{"lock a closed fid", message(Tlock, 1, uint32(dir), uint8(1), uint32(1), uint64(0), uint64(0), uint32(7), "vm"), unix.EBADF},
		{"getlock a closed fid", message(Tgetlock, 1, uint32(dir), uint8(1), uint64(0), uint64(0), uint32(7), "vm"), unix.EBADF},
		{"clunk nothing", message(Tclunk, 1, uint32(99)), unix.EBADF},
		{"malformed", message(Tclunk, 1, uint32(0), uint8(0)), unix.EPROTO},
		{"unknown", message(112, 1, uint32(0), uint8(0)), unix.EOPNOTSUPP},
		{"longer than msize", message(Twrite, 1, uint32(file), uint64(0), uint32(9000), make([]byte, 9000)), unix.EMSGSIZE},

		{"write", message(Twrite, 1, uint32(file), uint64(0), uint32(1), []byte{1}), unix.EROFS},
		{"lcreate", message(Tlcreate, 1, uint32(dir), "f", uint32(0), uint32(0), uint32(0)), unix.EROFS},
		{"symlink", message(Tsymlink, 1, uint32(dir), "f", "t", uint32(0)), unix.EROFS},
		{"mknod", message(Tmknod, 1, uint32(dir), "f", uint32(0), uint32(0), uint32(0), uint32(0)), unix.EROFS},
		{"rename", message(Trename, 1, uint32(file), uint32(dir), "f"), unix.EROFS},
		{"setattr", message(Tsetattr, 1, uint32(file), make([]byte, 56)), unix.EROFS},
		{"xattrcreate", message(Txattrcreate, 1, uint32(file), "user.x", uint64(1), uint32(0)), unix.EROFS},
		{"link", message(Tlink, 1, uint32(dir), uint32(file), "f"), unix.EROFS},
		{"mkdir", message(Tmkdir, 1, uint32(dir), "f", uint32(0), uint32(0)), unix.EROFS},
		{"renameat", message(Trenameat, 1, uint32(dir), "a", uint32(dir), "b"), unix.EROFS},
		{"unlinkat", message(Tunlinkat, 1, uint32(dir), "a", uint32(0)), unix.EROFS},
		{"write to nothing", message(Twrite, 1, uint32(99), uint64(0), uint32(1), []byte{1}), unix.EBADF},
		{"remove", message(Tremove, 1, uint32(file)), unix.EROFS},
		{"so the fid is gone", message(Tclunk, 1, uint32(file)), unix.EBADF},

		{"version with too small a msize", message(Tversion, 0xFFFF, uint32(4095), Version), unix.EMSGSIZE},
		{"so there is no session", message(Tgetattr, 1, uint32(0), uint64(0)), unix.EPROTO},
		{"version of another protocol", message(Tversion, 0xFFFF, uint32(8192), "9P2000"), 0},
		{"so there is none either", message(Tattach, 1, uint32(0), uint32(noFid), "", "", uint32(0)), unix.EPROTO},
		{"version", message(Tversion, 0xFFFF, uint32(8192), Version), 0},
		{"which forgot all fids", message(Tgetattr, 1, uint32(0), uint64(0)), unix.EBADF},
	}
	c := newClient(t, plant(t, closureFiles()), Options{}, 8192)
	c.ok(twalk(1, 0, dir, "a-system"))
	c.ok(twalk(1, 0, link, "a-system", "init"))
	c.ok(twalk(1, 0, file, "b-init", "bin", "init"))
	c.ok(twalk(1, 0, folder, "a-system"))
	c.ok(message(Tlopen, 1, uint32(file), uint32(0)))
	c.ok(message(Tlopen, 1, uint32(folder), uint32(0)))
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c.t = t
			if test.want == 0 {
				c.ok(test.req)
			} else {
				c.fails(test.req, test.want)
			}
		})
	}
}

func TestNoSessionBeforeVersion(t *testing.T) {
	c := &client{t: t, session: NewServer(plant(t, nil), Options{}).NewSession(), split: oneBuffer}
	c.fails(message(Tattach, 1, uint32(0), uint32(noFid), "", "", uint32(0)), unix.EPROTO)
	c.fails(message(Tflush, 1, uint16(0)), unix.EPROTO)
}

func TestNoReply(t *testing.T) {
	c := newClient(t, plant(t, nil), Options{}, 8192)
	clunk := message(Tclunk, 1, uint32(0))
	for _, test := range []struct {
		req  []byte
		resp [][]byte
	}{
		{clunk, nil},
		{clunk, [][]byte{make([]byte, 10)}},
		{clunk, [][]byte{make([]byte, 4), {}, make([]byte, 6)}},
		{clunk[:6], oneBuffer(100)},
		{nil, oneBuffer(100)},
	} {
		if n, err := c.session.Handle(test.req, test.resp); n != 0 || !errors.Is(err, ErrNoReply) {
			t.Errorf("%d, %v, want ErrNoReply", n, err)
		}
	}
	c.ok(clunk) // it was never done
}

func TestReplyThatDoesNotFit(t *testing.T) {
	c := newClient(t, plant(t, map[string]string{"l": "->" + strings.Repeat("t", 4090)}), Options{}, 4096)
	if reply := c.call(message(Tgetattr, 1, uint32(0), uint64(0)), 159); MessageType(reply[4]) != Rlerror {
		t.Errorf("getattr in 159 bytes: % x", reply)
	}
	c.ok(twalk(1, 0, 1, "l"))
	c.fails(message(Treadlink, 1, uint32(1)), unix.EMSGSIZE)
}

func TestMessageSizeIsNegotiated(t *testing.T) {
	for _, test := range []struct{ asked, limit, want uint32 }{
		{4096, 0, 4096}, {8192, 0, 8192}, {512000, 0, 512000}, {1 << 31, 0, 512000},
		{512000, 65536, 65536}, {4096, 65536, 4096}, {8192, 1, 4096},
	} {
		c := &client{t: t, session: NewServer(plant(t, nil), Options{MaxMessage: test.limit}).NewSession(), split: oneBuffer}
		if got := binary.LittleEndian.Uint32(c.ok(message(Tversion, 0xFFFF, test.asked, Version))); got != test.want {
			t.Errorf("asked %d, limit %d: %d, want %d", test.asked, test.limit, got, test.want)
		}
	}
}

// TestRead reads files of every size that was ever trouble, in every shape of
// buffers.
func TestRead(t *testing.T) {
	files := map[string]string{}
	random := rand.New(rand.NewPCG(1, 2))
	for _, pages := range []int{0, 1, 3, 124, 125} {
		for _, tail := range []int{0, 1, 655, 1023, 1024, 1025, 4095} {
			text := make([]byte, pages*4096+tail)
			for i := range text {
				text[i] = byte(random.Uint32())
			}
			files[fmt.Sprintf("f%d-%d", pages, tail)] = string(text)
		}
	}
	files["x12943"] = strings.Repeat("y", 12943)
	tree := plant(t, files)
	shapes := map[string]func(int) [][]byte{
		"one buffer": oneBuffer,
		"pages":      pages,
		"odd": func(room int) (bufs [][]byte) {
			for n := 1; room > 0; n = n*3%8191 + 1 {
				n = min(n, room)
				bufs = append(bufs, nil, make([]byte, n))
				room -= n
			}
			return bufs
		},
		"bytes": func(room int) (bufs [][]byte) {
			all := make([]byte, 2*room)
			for i := range min(room, 5000) {
				bufs = append(bufs, all[2*i:2*i+1])
			}
			return append(bufs, make([]byte, max(0, room-5000)))
		},
	}
	for shape, split := range shapes {
		t.Run(shape, func(t *testing.T) {
			c := newClient(t, tree, Options{OpenFiles: 3}, MaxMessage)
			c.split = split
			for name, want := range files {
				c.ok(twalk(1, 0, 1, name))
				c.ok(message(Tlopen, 1, uint32(1), uint32(0)))
				for _, chunk := range []int{507904, 511976, 131072, 70001} {
					var got []byte
					for {
						reply := c.call(message(Tread, 1, uint32(1), uint64(len(got)), uint32(chunk)), chunk+dataOffset)
						if MessageType(reply[4]) != Tread+1 {
							t.Fatalf("%s: % x", name, reply[:lerrorSize])
						}
						data := reply[dataOffset:]
						if int(binary.LittleEndian.Uint32(reply[headerSize:])) != len(data) {
							t.Fatalf("%s: count is not the length of the data", name)
						}
						if len(data) == 0 {
							break
						}
						got = append(got, data...)
					}
					if string(got) != want {
						t.Fatalf("%s in reads of %d: %d bytes differ from the %d there are", name, chunk, len(got), len(want))
					}
				}
				c.ok(message(Tclunk, 1, uint32(1)))
			}
		})
	}
}

func TestReadStaysInsideItsBuffers(t *testing.T) {
	c := newClient(t, plant(t, closureFiles()), Options{}, MaxMessage)
	c.ok(twalk(1, 0, 1, "c-file"))
	c.ok(message(Tlopen, 1, uint32(1), uint32(0)))
	memory := bytes.Repeat([]byte{0xAA}, 300)
	c.split = func(int) [][]byte { return [][]byte{memory[10:30], memory[100:150]} }
	if reply := c.call(message(Tread, 1, uint32(1), uint64(0), uint32(1000)), 0); len(reply) != 70 || string(reply[dataOffset:dataOffset+16]) != "0123456789abcdef" {
		t.Errorf("reply % x", reply)
	}
	for i, b := range memory {
		if inside := i >= 10 && i < 30 || i >= 100 && i < 150; !inside && b != 0xAA {
			t.Fatalf("byte %d was written", i)
		}
	}
}

// TestReaddir lists a large folder in listings of every size and expects each
// entry once.
func TestReaddir(t *testing.T) {
	files := map[string]string{}
	for i := range 1000 {
		files[fmt.Sprintf("%0*d/", 1+i%200, i)] = ""
	}
	c := newClient(t, plant(t, files), Options{}, MaxMessage)
	c.split = pages
	c.ok(message(Tlopen, 1, uint32(0), uint32(0)))
	for _, count := range []uint32{24 + 200, 512, 4096, 65536} {
		seen := map[string]int{}
		for offset := uint64(0); ; {
			data := c.ok(message(Treaddir, 1, uint32(0), offset, count))
			if n := binary.LittleEndian.Uint32(data); n > count || int(n) != len(data)-4 {
				t.Fatalf("%d bytes of data for %d", n, count)
			}
			if data = data[4:]; len(data) == 0 {
				break
			}
			for len(data) > 0 {
				offset = binary.LittleEndian.Uint64(data[13:])
				n := 24 + int(binary.LittleEndian.Uint16(data[22:]))
				seen[string(data[24:n])]++
				data = data[n:]
			}
		}
		if len(seen) != len(files)+2 {
			t.Errorf("count %d: %d entries, want %d", count, len(seen), len(files)+2)
		}
		for name, times := range seen {
			if times != 1 {
				t.Errorf("count %d: %q listed %d times", count, name, times)
			}
		}
	}
}

func TestHostErrors(t *testing.T) {
	tree := plant(t, closureFiles())
	var reported []error
	c := newClient(t, tree, Options{OnError: func(n Node, err error) { reported = append(reported, fmt.Errorf("node %d: %w", n, err)) }}, 8192)
	c.ok(twalk(1, 0, 1, "c-file"))
	c.ok(message(Tlopen, 1, uint32(1), uint32(0)))
	read := message(Tread, 1, uint32(1), uint64(0), uint32(4096))
	tree.fail = unix.EACCES
	c.fails(read, unix.EIO)
	tree.fail = fmt.Errorf("no more files: %w", unix.EMFILE)
	c.fails(read, unix.EIO)
	if len(reported) != 2 || !errors.Is(reported[0], unix.EACCES) || !errors.Is(reported[1], unix.EMFILE) {
		t.Errorf("reported %v", reported)
	}
	if tree.opens != 3 {
		t.Errorf("the file was opened %d times: once, and twice when there were too many", tree.opens)
	}
	// A file that has become shorter gives what there is, then an error.
	tree.fail = nil
	if err := os.Truncate(tree.path(7), 100); err != nil {
		t.Fatal(err)
	}
	if data := c.ok(read); len(data) != 104 {
		t.Errorf("%d bytes of a file of 100", len(data)-4)
	}
	c.fails(message(Tread, 1, uint32(1), uint64(100), uint32(4096)), unix.EIO)
}

func TestFidsAreBounded(t *testing.T) {
	c := newClient(t, plant(t, nil), Options{MaxFids: 10}, 8192)
	for fid := range uint32(9) {
		c.ok(twalk(1, 0, 1000+fid))
	}
	c.fails(twalk(1, 0, 5), unix.ENFILE)
	c.fails(message(Tattach, 1, uint32(5), uint32(noFid), "", "", uint32(0)), unix.ENFILE)
	c.ok(message(Tclunk, 1, uint32(1003)))
	c.ok(twalk(1, 0, 5))
}

func TestHostFilesAreSharedAndBounded(t *testing.T) {
	files := map[string]string{}
	for i := range 20 {
		files[fmt.Sprintf("f%02d", i)] = fmt.Sprintf("text %02d", i)
	}
	tree := plant(t, files)
	before := openFiles(t)
	c := newClient(t, tree, Options{OpenFiles: 4}, 8192)
	read := func(fid, i int) {
		t.Helper()
		data := c.ok(message(Tread, 1, uint32(fid), uint64(0), uint32(100)))
		if want := fmt.Sprintf("text %02d", i); string(data[4:]) != want {
			t.Errorf("fid %d reads %q, want %q", fid, data[4:], want)
		}
	}
	for i := range 20 {
		for _, fid := range []int{1 + i, 101 + i} {
			c.ok(twalk(1, 0, uint32(fid), fmt.Sprintf("f%02d", i)))
			c.ok(message(Tlopen, 1, uint32(fid), uint32(0)))
		}
	}
	if tree.opens != 0 {
		t.Errorf("%d files opened before the first read", tree.opens)
	}
	for i := range 20 {
		read(1+i, i)
		read(101+i, i)
	}
	if tree.opens != 20 {
		t.Errorf("%d opens for 20 files", tree.opens)
	}
	// 16 … 19 are open now; 16 is used again, so 17 is the one that goes.
	read(17, 16)
	read(1, 0)
	read(17, 16)
	if tree.opens != 21 {
		t.Errorf("%d opens, want 21: the file used last was closed", tree.opens)
	}
	read(18, 17)
	if tree.opens != 22 {
		t.Errorf("%d opens, want 22: the file used longest ago was kept", tree.opens)
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		i := random.IntN(20)
		read(1+i, i)
	}
	if n := openFiles(t) - before; n != 4 {
		t.Errorf("%d host files open, want 4", n)
	}
	c.session.Close()
	if n := openFiles(t) - before; n != 0 {
		t.Errorf("%d host files open after Close", n)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func TestCallbacksAndStats(t *testing.T) {
	var attached int
	var opened []Node
	c := newClient(t, plant(t, closureFiles()), Options{
		OnAttach: func() { attached++ },
		OnOpen:   func(n Node) { opened = append(opened, n) },
	}, 8192)
	c.ok(message(Tlopen, 1, uint32(0), uint32(0)))
	c.ok(twalk(1, 0, 1, "c-file"))
	c.ok(message(Tlopen, 1, uint32(1), uint32(0)))
	c.ok(message(Tread, 1, uint32(1), uint64(0), uint32(1000)))
	c.fails(message(Tclunk, 1, uint32(9)), unix.EBADF)
	if attached != 1 || len(opened) != 1 || opened[0] != 7 {
		t.Errorf("attached %d times, opened %v", attached, opened)
	}
	want := "lopen 2, version 1, attach 1, walk 1, read 1, clunk 1, errors 1, bytes read 1000, host files opened 1"
	if got := c.session.srv.Stats().String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRequestsDoNotAllocate(t *testing.T) {
	c := newClient(t, plant(t, closureFiles()), Options{}, MaxMessage)
	c.ok(twalk(1, 0, 1, "c-file"))
	c.ok(twalk(1, 0, 2, "a-system"))
	c.ok(twalk(1, 0, 3, "a-system", "init"))
	c.ok(message(Tlopen, 1, uint32(1), uint32(0)))
	c.ok(message(Tlopen, 1, uint32(2), uint32(0)))
	clunk := message(Tclunk, 1, uint32(9))
	tests := map[string][][]byte{
		"getattr":  {message(Tgetattr, 1, uint32(1), uint64(0x7FF))},
		"clone":    {twalk(1, 0, 9), clunk},
		"walk 1":   {twalk(1, 0, 9, "c-file"), clunk},
		"walk 3":   {twalk(1, 0, 9, "b-init", "bin", "init"), clunk},
		"lopen":    {twalk(1, 0, 9, "c-file"), message(Tlopen, 1, uint32(9), uint32(0)), clunk},
		"read":     {message(Tread, 1, uint32(1), uint64(0), uint32(100000))},
		"readdir":  {message(Treaddir, 1, uint32(2), uint64(0), uint32(100000))},
		"readlink": {message(Treadlink, 1, uint32(3))},
		"statfs":   {message(Tstatfs, 1, uint32(0))},
		"error":    {message(Tclunk, 1, uint32(99))},
	}
	for name, requests := range tests {
		resp := pages(128 << 10)
		if allocs := testing.AllocsPerRun(200, func() {
			for _, req := range requests {
				if _, err := c.session.Handle(req, resp); err != nil {
					t.Fatal(err)
				}
			}
		}); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
}

// FuzzServer sends a sequence of messages, each of them preceded by its length
// in one byte, to a session that is ready.
func FuzzServer(f *testing.F) {
	record := func(messages ...[]byte) (script []byte) {
		for _, msg := range messages {
			script = append(append(script, byte(len(msg))), msg...)
		}
		return script
	}
	for _, golden := range goldenRequests {
		f.Add(record(unhex(f, golden.hex)), uint16(4096))
	}
	f.Add(record(twalk(1, 0, 1, "c-file"), message(Tlopen, 1, uint32(1), uint32(0)),
		message(Tread, 1, uint32(1), uint64(15990), uint32(100)), message(Tread, 1, uint32(1), uint64(1<<63), uint32(1<<31)),
		message(Tclunk, 1, uint32(1))), uint16(200))
	f.Add(record(message(Tlopen, 1, uint32(0), uint32(0)), message(Treaddir, 1, uint32(0), uint64(1), uint32(100)),
		message(Tversion, 0xFFFF, uint32(4096), Version)), uint16(11))
	tree := plant(f, closureFiles())
	f.Fuzz(func(t *testing.T, script []byte, room uint16) {
		c := newClient(t, tree, Options{MaxFids: 8, OpenFiles: 2}, 8192)
		defer c.session.Close()
		memory := make([]byte, int(room)+2)
		resp := memory[1 : 1+int(room)]
		half := len(resp) / 3
		for len(script) > 0 {
			n := min(int(script[0]), len(script)-1)
			req := script[1 : 1+n]
			script = script[1+n:]
			clear(memory)
			written, err := c.session.Handle(req, [][]byte{resp[:half], {}, resp[half:]})
			if err != nil {
				if written != 0 || len(req) >= headerSize && len(resp) >= lerrorSize {
					t.Fatalf("%d bytes written, and %v", written, err)
				}
				continue
			}
			if int(written) > len(resp) || written < headerSize || binary.LittleEndian.Uint32(resp) != written {
				t.Fatalf("%d bytes written, reply % x", written, resp[:min(len(resp), 32)])
			}
			if !bytes.Equal(resp[5:7], req[5:7]) || resp[4] != byte(Rlerror) && resp[4] != req[4]+1 {
				t.Fatalf("reply % x to % x", resp[:headerSize], req[:headerSize])
			}
			if memory[0] != 0 || memory[len(memory)-1] != 0 {
				t.Fatal("written outside the buffers")
			}
			if len(c.session.fids) > 8 || len(c.session.files.slots) > 2 {
				t.Fatal("limits do not hold")
			}
		}
	})
}

func BenchmarkGetattr(b *testing.B) {
	c := newClient(b, plant(b, closureFiles()), Options{}, MaxMessage)
	req, resp := message(Tgetattr, 1, uint32(0), uint64(0x7FF)), oneBuffer(4096)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.session.Handle(req, resp)
	}
}

func BenchmarkWalkClunk(b *testing.B) {
	c := newClient(b, plant(b, closureFiles()), Options{}, MaxMessage)
	walk, clunk, resp := twalk(1, 0, 9, "b-init", "bin", "init"), message(Tclunk, 1, uint32(9)), oneBuffer(4096)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.session.Handle(walk, resp)
		_, _ = c.session.Handle(clunk, resp)
	}
}

func BenchmarkRead(b *testing.B) {
	c := newClient(b, plant(b, map[string]string{"f": strings.Repeat("x", 1<<20)}), Options{}, MaxMessage)
	c.ok(twalk(1, 0, 1, "f"))
	c.ok(message(Tlopen, 1, uint32(1), uint32(0)))
	req, resp := message(Tread, 1, uint32(1), uint64(0), uint32(507904)), pages(507904+dataOffset)
	b.SetBytes(507904)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = c.session.Handle(req, resp)
	}
}
