package p9

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/virtiotest"
	"github.com/drzln/whiterun/pkg/ninep"
)

const (
	memorySize  = 16 << 20
	features    = virtio.FeatureVersion1 | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx
	noFid       = uint32(0xFFFF_FFFF)
	replyHeader = 11 // of Rread: size[4] type[1] tag[2] count[4]
)

// oneFile is a tree whose root holds a single file called "f".
type oneFile struct {
	path string
	size uint64
}

func newFile(t testing.TB, data []byte) oneFile {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return oneFile{path, uint64(len(data))}
}

func (f oneFile) Attr(n ninep.Node) ninep.Attr {
	if n == ninep.Root {
		return ninep.Attr{Type: ninep.Directory, Mode: 0o555, Links: 2, MTime: 1}
	}
	return ninep.Attr{Type: ninep.Regular, Mode: 0o444, Links: 1, Size: f.size, MTime: 1}
}

func (f oneFile) Lookup(dir ninep.Node, name []byte) (ninep.Node, bool) {
	return 1, dir == ninep.Root && string(name) == "f"
}
func (oneFile) Parent(ninep.Node) ninep.Node               { return ninep.Root }
func (oneFile) Entries(dir ninep.Node) int                 { return 1 - int(dir) }
func (oneFile) Entry(ninep.Node, int) (string, ninep.Node) { return "f", 1 }
func (oneFile) Target(ninep.Node) string                   { return "" }
func (f oneFile) Open(ninep.Node) (int, error) {
	return unix.Open(f.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
}
func (oneFile) Nodes() int     { return 2 }
func (f oneFile) Size() uint64 { return f.size }

// guest is a driver and the device behind it.
type guest struct {
	*virtiotest.Driver
	t      testing.TB
	device *Device
	queue  *virtio.Queue
}

func newGuest(t testing.TB, server *ninep.Server) *guest {
	t.Helper()
	device, err := New("nix-store", server)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, device: device}
	g.restart(features)
	return g
}

// restart resets the device and gives it a new queue.
func (g *guest) restart(features uint64) {
	g.t.Helper()
	g.device.Reset()
	g.Driver = virtiotest.NewDriver(g.t, virtiotest.NewMemory(g.t, memorySize), 0x1000, queueSize, features)
	g.queue = g.NewQueue()
	if err := g.device.Activate(features|FeatureMountTag, []*virtio.Queue{g.queue}); err != nil {
		g.t.Fatal(err)
	}
	// Before the cleanups that take away the doorbell and the memory.
	g.t.Cleanup(g.device.Reset)
}

// send offers a chain and returns the number of bytes the device wrote.
func (g *guest) send(buffers ...virtiotest.Buffer) uint32 {
	g.t.Helper()
	g.OfferIndirect(buffers...)
	g.Kick(g.queue)
	_, written := g.WaitUsed()
	return written
}

// call sends one request with one buffer for the reply and returns the reply.
func (g *guest) call(req []byte) []byte {
	g.t.Helper()
	reply := g.Alloc(4096, true)
	return g.Data(reply)[:g.send(g.AllocBytes(req), reply)]
}

// ok sends a request that must succeed.
func (g *guest) ok(req []byte) {
	g.t.Helper()
	if reply := g.call(req); len(reply) < 7 || reply[4] != req[4]+1 {
		g.t.Fatalf("%v: reply % x", ninep.MessageType(req[4]), reply)
	}
}

// openFile takes a session to where fid 1 is the file, open.
func (g *guest) openFile() {
	g.t.Helper()
	g.ok(message(ninep.Tversion, uint32(ninep.MaxMessage), ninep.Version))
	g.ok(message(ninep.Tattach, uint32(0), noFid, "", "", uint32(0)))
	g.ok(message(ninep.Twalk, uint32(0), uint32(1), uint16(1), "f"))
	g.ok(message(ninep.Tlopen, uint32(1), uint32(0)))
}

// message builds a T-message with tag 1.
func message(t ninep.MessageType, fields ...any) []byte {
	msg := []byte{0, 0, 0, 0, byte(t), 1, 0}
	for _, field := range fields {
		if text, ok := field.(string); ok {
			msg = binary.LittleEndian.AppendUint16(msg, uint16(len(text)))
			field = []byte(text)
		}
		var err error
		if msg, err = binary.Append(msg, binary.LittleEndian, field); err != nil {
			panic(err)
		}
	}
	binary.LittleEndian.PutUint32(msg, uint32(len(msg)))
	return msg
}

// readChain is a read as Linux sends it: the request, room for the header of
// the reply, and one buffer per page.
func (g *guest) readChain(offset uint64, count uint32) (chain []virtiotest.Buffer) {
	chain = []virtiotest.Buffer{
		g.AllocBytes(message(ninep.Tread, uint32(1), offset, count)),
		g.Alloc(replyHeader, true),
	}
	for n := int(count); n > 0; n -= 4096 {
		chain = append(chain, g.Alloc(uint32(min(n, 4096)), true))
	}
	return chain
}

func (g *guest) payload(chain []virtiotest.Buffer, written uint32) []byte {
	var data []byte
	for _, buffer := range chain[2:] {
		data = append(data, g.Data(buffer)...)
	}
	return data[:written-replyHeader]
}

func TestDescription(t *testing.T) {
	d, err := New("nix-store", ninep.NewServer(newFile(t, nil), ninep.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if d.ID() != 9 || d.Features() != 1 || len(d.QueueSizes()) != 1 || d.QueueSizes()[0] < 128 {
		t.Errorf("id %d, features %#x, queues %v", d.ID(), d.Features(), d.QueueSizes())
	}
	want := "\x09\x00nix-store\x00\x00"
	for offset := range len(want) {
		got := bytes.Repeat([]byte{0xAA}, len(want)-offset)
		d.ReadConfig(uint32(offset), got)
		if string(got) != want[offset:] {
			t.Errorf("config from %d is %q, want %q", offset, got, want[offset:])
		}
	}
	far := []byte{1, 2}
	d.ReadConfig(0xFFFF_FFFF, far)
	if !bytes.Equal(far, []byte{0, 0}) {
		t.Errorf("config far behind its end is % x", far)
	}
	d.WriteConfig(0, []byte{7})
	first := make([]byte, 1)
	if d.ReadConfig(0, first); first[0] != 9 {
		t.Error("the configuration can be written")
	}
}

func TestBadTags(t *testing.T) {
	server := ninep.NewServer(newFile(t, nil), ninep.Options{})
	for _, tag := range []string{"", "a\x00b", strings.Repeat("x", 256)} {
		if _, err := New(tag, server); err == nil {
			t.Errorf("tag %q is taken", tag)
		}
	}
}

func TestRead(t *testing.T) {
	data := make([]byte, 3<<20+655)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	for _, features := range []uint64{features, virtio.FeatureVersion1} {
		g := newGuest(t, ninep.NewServer(newFile(t, data), ninep.Options{}))
		g.restart(features | virtio.FeatureIndirectDesc)
		g.openFile()
		var got []byte
		for {
			chain := g.readChain(uint64(len(got)), 507904)
			g.Offer(chain...)
			g.Kick(g.queue)
			_, written := g.WaitUsed()
			if written < replyHeader {
				t.Fatalf("%d bytes written", written)
			}
			part := g.payload(chain, written)
			if len(part) == 0 {
				break
			}
			got = append(got, part...)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%d bytes read that differ from the %d there are", len(got), len(data))
		}
		if err := g.Failure(); err != nil {
			t.Error(err)
		}
	}
}

func TestRequestsThatCannotBeAnswered(t *testing.T) {
	g := newGuest(t, ninep.NewServer(newFile(t, nil), ninep.Options{}))
	g.openFile()
	clunk := message(ninep.Tclunk, uint32(1))
	if n := g.send(g.AllocBytes(clunk)); n != 0 {
		t.Errorf("%d bytes written without a writable buffer", n)
	}
	if n := g.send(g.AllocBytes(clunk), g.Alloc(10, true)); n != 0 {
		t.Errorf("%d bytes written to 10", n)
	}
	if n := g.send(g.Alloc(4096, true)); n != 0 {
		t.Errorf("%d bytes written without a request", n)
	}
	// A message in many pieces is one message; one that is too long is refused.
	reply := g.Alloc(4096, true)
	if n := g.send(g.AllocBytes(clunk[:1]), g.AllocBytes(clunk[1:6]), g.AllocBytes(clunk[6:]), reply); n != 7 {
		t.Errorf("clunk in pieces: % x", g.Data(reply)[:n])
	}
	long := make([]byte, ninep.MaxMessage+1)
	binary.LittleEndian.PutUint32(long, uint32(len(long)))
	long[4] = byte(ninep.Twrite)
	if n := g.send(g.AllocBytes(long), reply); n != 11 || unix.Errno(g.Data(reply)[7]) != unix.EPROTO {
		t.Errorf("too long: % x", g.Data(reply)[:n])
	}
	if err := g.Failure(); err != nil {
		t.Error(err)
	}
}

func TestReset(t *testing.T) {
	server := ninep.NewServer(newFile(t, []byte("data")), ninep.Options{})
	d, err := New("t", server)
	if err != nil {
		t.Fatal(err)
	}
	d.Reset()
	d.Reset()
	if err := d.Activate(0, []*virtio.Queue{nil}); err != nil {
		t.Errorf("activate without a queue: %v", err)
	}
	d.Reset()

	g := newGuest(t, server)
	before := openFiles(t)
	for range 3 {
		g.restart(features)
		// Nothing is left of the session before.
		if reply := g.call(message(ninep.Tgetattr, uint32(1), uint64(0))); unix.Errno(reply[7]) != unix.EPROTO {
			t.Errorf("getattr before version: % x", reply)
		}
		g.openFile()
		g.ok(message(ninep.Tread, uint32(1), uint64(0), uint32(4)))
	}
	if err := g.device.Activate(0, []*virtio.Queue{g.queue}); err == nil {
		t.Error("an active device can be activated")
	}
	g.device.Reset()
	// Each restart has a doorbell that lives as long as the test.
	if n := openFiles(t) - before; n != 3 {
		t.Errorf("%d files open after reset, want the 3 doorbells", n)
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func BenchmarkRead(b *testing.B) {
	g := newGuest(b, ninep.NewServer(newFile(b, make([]byte, 1<<20)), ninep.Options{}))
	g.openFile()
	chain := g.readChain(0, 507904)
	b.SetBytes(507904)
	b.ReportAllocs()
	for b.Loop() {
		g.send(chain...)
	}
}
