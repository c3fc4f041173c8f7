package p9

import (
	"testing"
	"time"

	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/virtiotest"
	"github.com/drzln/whiterun/pkg/ninep"
)

// FuzzDevice sends messages through the queue to the serving thread, in chains
// of any shape. Each record is how the chain is made, the room for the reply in
// units of 16 bytes, the length of a message, and the message.
func FuzzDevice(f *testing.F) {
	record := func(shape, room byte, msg []byte) []byte { return append([]byte{shape, room, byte(len(msg))}, msg...) }
	whole := func(shape, room byte) (script []byte) {
		for _, msg := range [][]byte{
			message(ninep.Tversion, uint32(8192), ninep.Version),
			message(ninep.Tattach, uint32(0), noFid, "", "", uint32(0)),
			message(ninep.Twalk, uint32(0), uint32(1), uint16(1), "f"),
			message(ninep.Tlopen, uint32(1), uint32(0)),
			message(ninep.Tread, uint32(1), uint64(1), uint32(4096)),
			message(ninep.Treaddir, uint32(1), uint64(0), uint32(512)),
		} {
			script = append(script, record(shape, room, msg)...)
		}
		return script
	}
	f.Add(whole(0, 255))
	f.Add(whole(1, 1))
	f.Add(whole(2, 40))
	f.Add(append(whole(6, 0), record(15, 255, []byte{1})...))
	server := ninep.NewServer(newFile(f, make([]byte, 5000)), ninep.Options{MaxFids: 8, OpenFiles: 2})
	device, err := New("fuzz", server)
	if err != nil {
		f.Fatal(err)
	}
	memory := virtiotest.NewMemory(f, memorySize)
	f.Fuzz(func(t *testing.T, script []byte) {
		g := &guest{t: t, device: device}
		g.Driver = virtiotest.NewDriver(t, memory, 0x1000, queueSize, features)
		g.queue = g.NewQueue()
		if err := device.Activate(features, []*virtio.Queue{g.queue}); err != nil {
			t.Fatal(err)
		}
		sent := 0
		for ; len(script) >= 3 && sent < queueSize/8; sent++ {
			shape, room := script[0], uint32(script[1])*16
			n := min(int(script[2]), len(script)-3)
			msg := g.AllocBytes(script[3 : 3+n])
			script = script[3+n:]
			chain := []virtiotest.Buffer{msg}
			if shape&1 != 0 { // the request in two pieces
				half := msg.Len / 2
				chain = []virtiotest.Buffer{{GPA: msg.GPA, Len: half}, {GPA: msg.GPA + uint64(half), Len: msg.Len - half}}
			}
			reply := g.Alloc(room+16, true)
			if shape&2 != 0 { // the header of the reply apart
				chain = append(chain, virtiotest.Buffer{GPA: reply.GPA, Len: replyHeader, Writable: true})
				reply.GPA, reply.Len = reply.GPA+replyHeader, reply.Len-replyHeader
			}
			chain = append(chain, reply)
			if shape&4 != 0 { // the reply over the request
				chain = append(chain, virtiotest.Buffer{GPA: msg.GPA, Len: msg.Len, Writable: true})
			}
			if shape&8 != 0 {
				g.Offer(chain...)
			} else {
				g.OfferIndirect(chain...)
			}
			g.Kick(g.queue)
		}
		for range sent {
			g.WaitUsed()
		}
		if err := g.Failure(); err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); device.Reset() }()
		select {
		case <-done:
		case <-time.After(virtiotest.Timeout):
			t.Fatal("reset takes for ever")
		}
	})
}
