package console

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/virtiotest"
)

const features = virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc

// guest is a console with both queues served.
type guest struct {
	console *Console
	rx, tx  *virtiotest.Driver
	rxq     *virtio.Queue
	txq     *virtio.Queue
}

func newGuest(t testing.TB, out io.Writer) *guest {
	t.Helper()
	memory := virtiotest.NewMemory(t, 4<<20)
	g := &guest{
		console: New(out),
		rx:      virtiotest.NewDriver(t, memory, 0x1_0000, queueSize, features),
		tx:      virtiotest.NewDriver(t, memory, 0x10_0000, queueSize, features),
	}
	g.activate(t)
	return g
}

func (g *guest) activate(t testing.TB) {
	t.Helper()
	g.rxq, g.txq = g.rx.NewQueue(), g.tx.NewQueue()
	if err := g.console.Activate(features, []*virtio.Queue{g.rxq, g.txq}); err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(virtiotest.Timeout):
		t.Fatalf("%s takes for ever", what)
	}
}

func TestOutput(t *testing.T) {
	var out bytes.Buffer
	g := newGuest(t, &out)
	var want []byte
	for i := range 200 {
		line := bytes.Repeat([]byte{byte('a' + i%26)}, 1+i*7)
		b := g.tx.AllocBytes(line)
		half := b.Len / 2
		first, second := b, b
		first.Len, second.GPA, second.Len = half, b.GPA+uint64(half), b.Len-half
		g.tx.OfferIndirect(first, second)
		g.tx.Kick(g.txq)
		g.tx.WaitUsed()
		want = append(want, line...)
	}
	g.console.Reset()
	within(t, "Close", func() { _ = g.console.Close() })
	if !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("%d bytes of output, want %d", out.Len(), len(want))
	}
}

func TestOutputBlocked(t *testing.T) {
	r, w := io.Pipe()
	g := newGuest(t, w)
	page := g.tx.AllocBytes(bytes.Repeat([]byte("x"), 4096))
	for range 40 { // more than the buffer holds
		g.tx.Offer(page)
		g.tx.Kick(g.txq)
	}
	returned := 0
	for start := time.Now(); time.Since(start) < 50*time.Millisecond; time.Sleep(time.Millisecond) {
		if _, _, ok := g.tx.Used(); ok {
			returned++
		}
	}
	if returned == 0 || returned > 20 {
		t.Fatalf("%d of 40 writes ended", returned)
	}
	within(t, "Reset", g.console.Reset)
	within(t, "second Reset", g.console.Reset)
	_ = r.CloseWithError(io.ErrClosedPipe)
	within(t, "Close", func() { _ = g.console.Close() })
	if g.console.Dropped() == 0 {
		t.Error("nothing was dropped")
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// A guest whose console nobody reads any more must go on.
func TestOutputFails(t *testing.T) {
	g := newGuest(t, failingWriter{})
	page := g.tx.Alloc(4096, false)
	for range 100 {
		g.tx.Offer(page)
		g.tx.Kick(g.txq)
		g.tx.WaitUsed()
	}
	g.console.Reset()
	within(t, "Close", func() { _ = g.console.Close() })
	if n := g.console.Dropped(); n != 100*4096 {
		t.Fatalf("%d bytes dropped", n)
	}
}

func TestInput(t *testing.T) {
	g := newGuest(t, io.Discard)
	ctx := context.Background()
	want := make([]byte, 3*inputSize)
	for i := range want {
		want[i] = byte(i * 7)
	}
	if n, err := g.console.Input(ctx, want[:10]); n != 10 || err != nil { // before there are buffers
		t.Fatal(n, err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, err := g.console.Input(ctx, want[10:]); n != len(want)-10 || err != nil {
			t.Error(n, err)
		}
	})
	var got []byte
	b := g.rx.Alloc(100, true)
	for len(got) < len(want) {
		g.rx.Offer(b)
		g.rx.Kick(g.rxq)
		_, n := g.rx.WaitUsed()
		got = append(got, g.rx.Data(b)[:n]...)
	}
	wg.Wait()
	if !bytes.Equal(got, want) {
		t.Fatal("input differs")
	}
	g.console.Reset()

	// What no driver took waits for the next one, as much as is buffered.
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if n, err := g.console.Input(short, want); n != inputSize || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(n, err)
	}
	g.activate(t)
	g.rx = nil
	g.console.Reset()
	within(t, "Close", func() { _ = g.console.Close() })
	if _, err := g.console.Input(ctx, want); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestResize(t *testing.T) {
	c := New(io.Discard)
	defer func() { _ = c.Close() }()
	changes := 0
	c.SetConfigChanged(func() { changes++ })
	c.Resize(132, 50)
	c.Resize(132, 50)
	p := make([]byte, 6)
	c.ReadConfig(0, p)
	if binary.LittleEndian.Uint16(p) != 132 || binary.LittleEndian.Uint16(p[2:]) != 50 || changes != 1 {
		t.Fatalf("%v after %d changes", p, changes)
	}
	c.ReadConfig(2, p[:1])
	if p[0] != 50 {
		t.Fatalf("rows %d", p[0])
	}
	c.ReadConfig(1<<31, p)
	if !bytes.Equal(p, make([]byte, 6)) {
		t.Fatalf("behind the end: %v", p)
	}
}

// Nothing is allocated for a request, only for the caller's context.
func TestAllocations(t *testing.T) {
	memory := virtiotest.NewMemory(t, 4<<20)
	c := New(io.Discard)
	defer func() { _ = c.Close() }()
	c.stopped = false
	d := virtiotest.NewDriver(t, memory, 0x1_0000, queueSize, features)
	q := d.NewQueue()
	out, in := d.Alloc(80, false), d.Alloc(80, true)
	line := make([]byte, 80)
	var chain virtio.Chain
	if n := testing.AllocsPerRun(1000, func() {
		d.Offer(out, in)
		if ok, err := q.Next(&chain); !ok || err != nil {
			t.Fatal(ok, err)
		}
		c.mu.Lock()
		c.input.put(line)
		c.mu.Unlock()
		_, _ = c.transmit(&chain)
		q.Push(&chain, c.takeInput(&chain))
		q.Interrupt()
		d.Used()
	}); n != 0 {
		t.Fatalf("%v allocations per request", n)
	}
}

// FuzzConsole serves chains of any shape while input arrives.
func FuzzConsole(f *testing.F) {
	f.Add([]byte{0, 10, 1, 200, 2, 3, 4, 255})
	f.Add([]byte{3, 0, 2, 0, 4, 1, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		g := newGuest(t, io.Discard)
		b := g.rx.Alloc(4096, false)
		expired, cancel := context.WithCancel(context.Background())
		cancel()
		chains := [2]int{}
		for ; len(script) >= 2; script = script[2:] {
			n := uint32(script[1]) * 16
			buffer := virtiotest.Buffer{GPA: b.GPA, Len: n, Writable: script[0]&1 != 0}
			switch op := script[0] % 5; {
			case op < 4 && chains[op/2] < queueSize:
				d, q := g.rx, g.rxq
				if op >= 2 {
					d, q = g.tx, g.txq
				}
				chains[op/2]++
				d.Offer(buffer)
				d.Kick(q)
			case op == 4:
				_, _ = g.console.Input(expired, make([]byte, n))
			}
		}
		within(t, "Reset", g.console.Reset)
		within(t, "Close", func() { _ = g.console.Close() })
	})
}
