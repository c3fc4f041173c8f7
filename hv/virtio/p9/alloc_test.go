//go:build !race

// The race detector allocates on behalf of the code it watches.

package p9

import (
	"testing"

	"github.com/drzln/whiterun/hv/virtio/virtiotest"
	"github.com/drzln/whiterun/pkg/ninep"
)

// TestRequestsDoNotAllocate sends requests through the queue to the serving
// thread and back.
func TestRequestsDoNotAllocate(t *testing.T) {
	g := newGuest(t, ninep.NewServer(newFile(t, make([]byte, 1<<20)), ninep.Options{}))
	g.openFile()
	chain := g.readChain(0, 131072)
	getattr := []virtiotest.Buffer{g.AllocBytes(message(ninep.Tgetattr, uint32(1), uint64(0x7FF))), g.Alloc(4096, true)}
	if allocs := testing.AllocsPerRun(100, func() {
		if n := g.send(chain...); n != replyHeader+131072 {
			t.Fatalf("%d bytes written", n)
		}
		if n := g.send(getattr...); n != 160 {
			t.Fatalf("%d bytes written", n)
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
