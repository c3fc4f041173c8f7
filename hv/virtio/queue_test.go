package virtio_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/virtiotest"
)

const (
	bothFeatures = virtio.FeatureEventIdx | virtio.FeatureIndirectDesc
	ringBase     = 0x1_0000
)

func newDriver(t testing.TB, size uint16, features uint64) (*virtiotest.Driver, *virtio.Queue) {
	t.Helper()
	d := virtiotest.NewDriver(t, virtiotest.NewMemory(t, 4<<20), ringBase, size, features)
	return d, d.NewQueue()
}

// echo copies the readable part of c to its writable part.
func echo(c *virtio.Chain) (uint32, error) {
	var n int
	out := c.Writable
	for _, in := range c.Readable {
		for len(in) > 0 && len(out) > 0 {
			k := copy(out[0], in)
			in, n = in[k:], n+k
			if k == len(out[0]) {
				out = out[1:]
			} else {
				out[0] = out[0][k:]
			}
		}
	}
	return uint32(n), nil
}

func TestQueueChains(t *testing.T) {
	for _, test := range []struct {
		name  string
		offer func(d *virtiotest.Driver, buffers ...virtiotest.Buffer) uint16
	}{
		{"direct", (*virtiotest.Driver).Offer},
		{"indirect", (*virtiotest.Driver).OfferIndirect},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, q := newDriver(t, 8, bothFeatures)
			a, b := d.AllocBytes([]byte("hello ")), d.AllocBytes([]byte("world"))
			empty, w := d.Alloc(0, false), d.Alloc(32, true)
			var c virtio.Chain
			for range 20 { // more than once round the ring
				head := test.offer(d, a, empty, b, w)
				ok, err := q.Next(&c)
				if !ok || err != nil {
					t.Fatalf("Next = %v, %v", ok, err)
				}
				if len(c.Readable) != 2 || len(c.Writable) != 1 || c.ReadableLen() != 11 || c.WritableLen() != 32 {
					t.Fatalf("chain %d+%d buffers, %d+%d bytes", len(c.Readable), len(c.Writable), c.ReadableLen(), c.WritableLen())
				}
				if cap(c.Writable[0]) != 32 {
					t.Fatalf("buffer can grow to %d bytes", cap(c.Writable[0]))
				}
				n, _ := echo(&c)
				q.Push(&c, n)
				gotHead, written, ok := d.Used()
				if !ok || gotHead != head || written != 11 {
					t.Fatalf("Used = %d, %d, %v", gotHead, written, ok)
				}
				if got := d.Data(w)[:written]; !bytes.Equal(got, []byte("hello world")) {
					t.Fatalf("got %q", got)
				}
				if ok, err := q.Next(&c); ok || err != nil {
					t.Fatalf("Next on an empty ring = %v, %v", ok, err)
				}
			}
		})
	}
}

// A chain of normal descriptors may end in one indirect table, whose WRITE
// flag means nothing (virtio 1.2 §2.7.5.3.2).
func TestQueueMixedChain(t *testing.T) {
	d, q := newDriver(t, 8, bothFeatures)
	table := d.Alloc(16, false)
	w := d.Alloc(64, true)
	virtiotest.PutDescriptor(d.Data(table), w.GPA, w.Len, virtiotest.FlagWrite, 0)
	r := d.AllocBytes([]byte("x"))
	desc := d.Descriptors()
	virtiotest.PutDescriptor(desc[16*3:], r.GPA, r.Len, virtiotest.FlagNext, 5)
	virtiotest.PutDescriptor(desc[16*5:], table.GPA, 16, virtiotest.FlagIndirect|virtiotest.FlagWrite, 0)
	d.Publish(3)
	var c virtio.Chain
	if ok, err := q.Next(&c); !ok || err != nil {
		t.Fatalf("Next = %v, %v", ok, err)
	}
	if c.ReadableLen() != 1 || c.WritableLen() != 64 {
		t.Fatalf("%d readable, %d writable", c.ReadableLen(), c.WritableLen())
	}
}

func TestQueueOutOfOrder(t *testing.T) {
	d, q := newDriver(t, 4, 0)
	first, second := d.Offer(d.Alloc(8, true)), d.Offer(d.Alloc(8, true))
	var a, b virtio.Chain
	for _, c := range []*virtio.Chain{&a, &b} {
		if ok, err := q.Next(c); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	q.Push(&b, 2)
	q.Push(&a, 1)
	if head, n, _ := d.Used(); head != second || n != 2 {
		t.Fatalf("first back: %d, %d", head, n)
	}
	if head, n, _ := d.Used(); head != first || n != 1 {
		t.Fatalf("second back: %d, %d", head, n)
	}
}

func TestQueueRules(t *testing.T) {
	const size = 8
	type env struct {
		d    *virtiotest.Driver
		desc []byte
		r, w virtiotest.Buffer
	}
	put := func(e env, i int, gpa uint64, n uint32, flags, next uint16) {
		virtiotest.PutDescriptor(e.desc[16*i:], gpa, n, flags, next)
	}
	const next, write, indirect = virtiotest.FlagNext, virtiotest.FlagWrite, virtiotest.FlagIndirect
	for _, test := range []struct {
		name     string
		features uint64
		breakIt  func(e env)
	}{
		{"head outside the table", bothFeatures, func(e env) { e.d.Publish(size) }},
		{"next outside the table", bothFeatures, func(e env) { put(e, 0, e.r.GPA, 1, next, 65535); e.d.Publish(0) }},
		{"loop of one", bothFeatures, func(e env) { put(e, 0, e.r.GPA, 1, next, 0); e.d.Publish(0) }},
		{"loop of two", bothFeatures, func(e env) {
			put(e, 0, e.r.GPA, 1, next, 1)
			put(e, 1, e.r.GPA, 1, next, 0)
			e.d.Publish(0)
		}},
		{"loop of empty buffers", bothFeatures, func(e env) { put(e, 0, 0, 0, next, 0); e.d.Publish(0) }},
		{"readable behind writable", bothFeatures, func(e env) { e.d.Offer(e.w, e.r) }},
		{"buffer outside memory", bothFeatures, func(e env) { put(e, 0, 4<<20, 1, 0, 0); e.d.Publish(0) }},
		{"buffer over the end of memory", bothFeatures, func(e env) { put(e, 0, 4<<20-1, 2, 0, 0); e.d.Publish(0) }},
		{"buffer over the end of addresses", bothFeatures, func(e env) { put(e, 0, ^uint64(0), 2, 0, 0); e.d.Publish(0) }},
		{"avail.idx beyond the size", bothFeatures, func(e env) { e.d.SetAvailIdx(size + 1) }},
		{"avail.idx backwards", bothFeatures, func(e env) { e.d.SetAvailIdx(65535) }},
		{"indirect without the feature", 0, func(e env) { e.d.OfferIndirect(e.r) }},
		{"indirect and next", bothFeatures, func(e env) { put(e, 0, e.r.GPA, 16, indirect|next, 1); e.d.Publish(0) }},
		{"empty indirect table", bothFeatures, func(e env) { put(e, 0, e.r.GPA, 0, indirect, 0); e.d.Publish(0) }},
		{"odd indirect table", bothFeatures, func(e env) { put(e, 0, e.r.GPA, 24, indirect, 0); e.d.Publish(0) }},
		{"indirect table outside memory", bothFeatures, func(e env) { put(e, 0, 4<<20-16, 32, indirect, 0); e.d.Publish(0) }},
		{"nested indirect table", bothFeatures, func(e env) {
			virtiotest.PutDescriptor(e.d.Data(e.r), e.r.GPA, 16, indirect, 0)
			put(e, 0, e.r.GPA, 16, indirect, 0)
			e.d.Publish(0)
		}},
		{"next outside the indirect table", bothFeatures, func(e env) {
			virtiotest.PutDescriptor(e.d.Data(e.r), e.r.GPA, 1, next, 1)
			put(e, 0, e.r.GPA, 16, indirect, 0)
			e.d.Publish(0)
		}},
		{"loop in the indirect table", bothFeatures, func(e env) {
			virtiotest.PutDescriptor(e.d.Data(e.r), e.r.GPA, 1, next, 0)
			put(e, 0, e.r.GPA, 16, indirect, 0)
			e.d.Publish(0)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, q := newDriver(t, size, test.features)
			test.breakIt(env{d, d.Descriptors(), d.Alloc(64, false), d.Alloc(64, true)})
			var c virtio.Chain
			for range 2 {
				if ok, err := q.Next(&c); ok || !errors.Is(err, virtio.ErrQueueBroken) {
					t.Fatalf("Next = %v, %v", ok, err)
				}
			}
			if !errors.Is(d.Failure(), virtio.ErrQueueBroken) {
				t.Fatalf("transport was told %v", d.Failure())
			}
		})
	}
}

// A driver that offers more chains than it has descriptors, without waiting
// for any to come back, is found out even when every step is small.
func TestQueueTooManyInFlight(t *testing.T) {
	d, q := newDriver(t, 4, 0)
	b := d.Alloc(1, true)
	virtiotest.PutDescriptor(d.Descriptors(), b.GPA, 1, virtiotest.FlagWrite, 0)
	var c virtio.Chain
	for i := range 5 {
		d.Publish(0)
		ok, err := q.Next(&c)
		if i < 4 && (!ok || err != nil) {
			t.Fatalf("chain %d: %v, %v", i, ok, err)
		}
		if i == 4 && !errors.Is(err, virtio.ErrQueueBroken) {
			t.Fatalf("fifth chain: %v, %v", ok, err)
		}
	}
}

func TestQueueTotalBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("maps 5 GiB, of which it touches little")
	}
	d := virtiotest.NewDriver(t, virtiotest.NewMemory(t, 5<<30), ringBase, 4, 0)
	half := virtiotest.Buffer{GPA: 0, Len: 1 << 31, Writable: true}
	var c virtio.Chain
	q := d.NewQueue()
	d.Offer(half, half)
	if ok, err := q.Next(&c); !ok || err != nil || c.WritableLen() != 1<<32 {
		t.Fatalf("Next = %v, %v with %d bytes", ok, err, c.WritableLen())
	}
	q.Push(&c, 0)
	d.Used()
	d.Offer(half, half, virtiotest.Buffer{GPA: 0, Len: 1, Writable: true})
	if _, err := q.Next(&c); !errors.Is(err, virtio.ErrQueueBroken) {
		t.Fatalf("one byte more: %v", err)
	}
}

func TestNewQueue(t *testing.T) {
	memory := virtiotest.NewMemory(t, 1<<20)
	for _, test := range []struct {
		name   string
		change func(c *virtio.QueueConfig)
		ok     bool
	}{
		{"as laid out", func(*virtio.QueueConfig) {}, true},
		{"smaller", func(c *virtio.QueueConfig) { c.Size = 1 }, true},
		{"avail on two bytes", func(c *virtio.QueueConfig) { c.Avail += 2 }, true},
		{"no descriptors", func(c *virtio.QueueConfig) { c.Size = 0 }, false},
		{"not a power of two", func(c *virtio.QueueConfig) { c.Size = 12 }, false},
		{"too large", func(c *virtio.QueueConfig) { c.Size = 32 }, false},
		{"table on eight bytes", func(c *virtio.QueueConfig) { c.Desc += 8 }, false},
		{"avail on one byte", func(c *virtio.QueueConfig) { c.Avail++ }, false},
		{"used on two bytes", func(c *virtio.QueueConfig) { c.Used += 2 }, false},
		{"table over the end", func(c *virtio.QueueConfig) { c.Desc = 1<<20 - 16 }, false},
		{"avail outside", func(c *virtio.QueueConfig) { c.Avail = 1 << 63 }, false},
		{"used over the end of addresses", func(c *virtio.QueueConfig) { c.Used = ^uint64(0) - 3 }, false},
		{"used in the device hole", func(c *virtio.QueueConfig) { c.Used = mem.HoleStart }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := virtiotest.NewDriver(t, memory, ringBase, 16, bothFeatures).Config
			test.change(&c)
			_, err := virtio.NewQueue(c)
			if test.ok != (err == nil) || err != nil && !errors.Is(err, virtio.ErrQueueConfig) {
				t.Fatalf("NewQueue: %v", err)
			}
		})
	}
}

func TestQueueInterruptFlag(t *testing.T) {
	d, q := newDriver(t, 8, 0)
	var c virtio.Chain
	step := func() {
		d.Offer(d.Alloc(1, true))
		if ok, err := q.Next(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.Push(&c, 1)
		d.Used()
	}
	q.Interrupt() // nothing was pushed
	step()
	q.Interrupt()
	q.Interrupt()
	if n := d.Interrupts(); n != 1 {
		t.Fatalf("%d interrupts for one batch", n)
	}
	d.SetNoInterrupt(true)
	step()
	q.Interrupt()
	d.SetNoInterrupt(false)
	q.Interrupt() // too late for that one
	if n := d.Interrupts(); n != 1 {
		t.Fatalf("%d interrupts after NO_INTERRUPT", n)
	}
}

// With EVENT_IDX an interrupt comes exactly when used.idx passes used_event,
// all the way round its 65536 values.
func TestQueueInterruptEvent(t *testing.T) {
	d, q := newDriver(t, 8, virtio.FeatureEventIdx)
	b := d.Alloc(1, true)
	var c virtio.Chain
	push := func() {
		d.Offer(b)
		if ok, err := q.Next(&c); !ok || err != nil {
			t.Fatal(ok, err)
		}
		q.Push(&c, 1)
		d.Used()
	}
	want := uint64(0)
	for i := 0; i < 70000; i += 3 {
		// The three chains move used.idx from i to i+3, passing i, i+1, i+2.
		event := uint16(i + i%5) // i%5 of 3 and 4 are not passed
		d.SetUsedEvent(event)
		push()
		push()
		push()
		q.Interrupt()
		if i%5 < 3 {
			want++
		}
		if got := d.Interrupts(); got != want {
			t.Fatalf("at %d: %d interrupts, want %d", i, got, want)
		}
	}
	// A batch that goes the whole way round passes every event.
	d.SetUsedEvent(d.UsedIdx() - 1)
	for range 65536 {
		push()
	}
	q.Interrupt()
	if got := d.Interrupts(); got != want+1 {
		t.Fatalf("%d interrupts after a round, want %d", got, want+1)
	}
}

func TestQueueKick(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx} {
		d, q := newDriver(t, 8, features)
		b := d.Alloc(1, true)
		var c virtio.Chain
		for i := range 70000 {
			q.DisableKick()
			if q.EnableKick() {
				t.Fatalf("%d: pending on an empty ring", i)
			}
			d.Offer(b)
			if !d.KickWanted() {
				t.Fatalf("%d: no kick wanted", i)
			}
			q.DisableKick()
			d.Offer(b)
			if d.KickWanted() {
				t.Fatalf("%d: second kick wanted", i)
			}
			if !q.EnableKick() {
				t.Fatalf("%d: not pending", i)
			}
			for range 2 {
				if ok, err := q.Next(&c); !ok || err != nil {
					t.Fatal(ok, err)
				}
				q.Push(&c, 0)
				d.Used()
			}
		}
	}
}

func TestQueueServe(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx, bothFeatures} {
		d, q := newDriver(t, 16, features)
		done := make(chan error, 1)
		go func() { done <- q.Serve(echo) }()
		r, w := d.Alloc(8, false), d.Alloc(8, true)
		offer := d.Offer
		if features&virtio.FeatureIndirectDesc != 0 {
			offer = d.OfferIndirect
		}
		for i := range uint64(300) {
			binary.LittleEndian.PutUint64(d.Data(r), i)
			offer(r, w)
			d.Kick(q)
			if _, n := d.WaitUsed(); n != 8 || binary.LittleEndian.Uint64(d.Data(w)) != i {
				t.Fatalf("%d: %d bytes, %d", i, n, binary.LittleEndian.Uint64(d.Data(w)))
			}
			if i%100 == 0 {
				time.Sleep(time.Millisecond) // let it wait
			}
		}
		q.Stop()
		if err := <-done; err != nil {
			t.Fatalf("Serve: %v", err)
		}
		if q.Wait() {
			t.Fatal("Wait on a stopped queue")
		}
		stats := q.Stats()
		if stats.Chains != 300 || stats.Kicks == 0 || stats.Kicks > 300 || features == 0 && stats.Interrupts == 0 {
			t.Fatalf("%+v", stats)
		}
	}
}

func TestQueueServeFails(t *testing.T) {
	d, q := newDriver(t, 4, 0)
	boom := errors.New("boom")
	d.Offer(d.Alloc(1, true))
	if err := q.Serve(func(*virtio.Chain) (uint32, error) { return 0, boom }); !errors.Is(err, boom) {
		t.Fatalf("Serve: %v", err)
	}
	if !errors.Is(d.Failure(), boom) {
		t.Fatalf("transport was told %v", d.Failure())
	}
	var c virtio.Chain
	if _, err := q.Next(&c); !errors.Is(err, boom) {
		t.Fatalf("Next: %v", err)
	}
}

func TestQueueAllocations(t *testing.T) {
	d, q := newDriver(t, 64, bothFeatures)
	r, w := d.Alloc(11, false), d.Alloc(4096, true)
	var c virtio.Chain
	if n := testing.AllocsPerRun(1000, func() {
		d.Offer(r, r, w, w)
		d.OfferIndirect(r, w, w, w, w)
		d.SetUsedEvent(d.UsedIdx())
		for range 2 {
			if ok, err := q.Next(&c); !ok || err != nil {
				t.Fatal(ok, err)
			}
			q.Push(&c, 8)
		}
		q.Interrupt()
		q.EnableKick()
		q.Notify()
		q.Wait()
		q.DisableKick()
		d.Used()
		d.Used()
	}); n != 0 {
		t.Fatalf("%v allocations per request", n)
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, name := range []string{"direct", "indirect"} {
		b.Run(name, func(b *testing.B) {
			d, q := newDriver(b, 64, bothFeatures)
			r, w := d.Alloc(64, false), d.Alloc(4096, true)
			var c virtio.Chain
			b.ReportAllocs()
			for b.Loop() {
				if name == "direct" {
					d.Offer(r, w)
				} else {
					d.OfferIndirect(r, w)
				}
				if ok, err := q.Next(&c); !ok || err != nil {
					b.Fatal(ok, err)
				}
				q.Push(&c, 64)
				q.Interrupt()
				d.Used()
			}
		})
	}
}

// FuzzQueue lets a guest write anything anywhere: nothing may panic, hang or
// hand out a slice outside guest memory.
func FuzzQueue(f *testing.F) {
	const size, memorySize = 8, 64 << 10
	memory := virtiotest.NewMemory(f, memorySize)
	seed := func(build func(d *virtiotest.Driver)) {
		image := memory.Regions()[0].Bytes
		clear(image)
		build(virtiotest.NewDriver(f, memory, 0, size, bothFeatures))
		f.Add(bytes.Clone(image[:1024]), uint16(bothFeatures>>28), uint16(0))
	}
	seed(func(d *virtiotest.Driver) { d.Offer(d.Alloc(8, false), d.Alloc(8, true)) })
	seed(func(d *virtiotest.Driver) { d.OfferIndirect(d.Alloc(8, false), d.Alloc(8, true)) })
	seed(func(d *virtiotest.Driver) {
		d.Offer(d.Alloc(16, true))
		d.OfferIndirect(virtiotest.Buffer{GPA: memorySize - 1, Len: 2})
		d.SetUsedEvent(7)
	})
	f.Fuzz(func(t *testing.T, image []byte, features, move uint16) {
		ram := memory.Regions()[0].Bytes
		clear(ram)
		copy(ram, image)
		c := virtiotest.NewDriver(t, memory, 0, size, uint64(features)<<28).Config
		c.Avail += uint64(move)
		c.Used += uint64(move >> 4)
		q, err := virtio.NewQueue(c)
		if err != nil {
			return
		}
		inside := func(buffers [][]byte) (total int) {
			for _, b := range buffers {
				if len(b) == 0 || len(b) > memorySize || !within(ram, b) {
					t.Fatalf("buffer of %d bytes outside memory", len(b))
				}
				total += len(b)
			}
			return total
		}
		var chain virtio.Chain
		for n := 0; n < 1000; n++ { // what it writes may be its own ring, without end
			ok, err := q.Next(&chain)
			if err != nil || !ok {
				break
			}
			if len(chain.Readable)+len(chain.Writable) > size {
				t.Fatalf("%d+%d buffers", len(chain.Readable), len(chain.Writable))
			}
			if inside(chain.Readable) != chain.ReadableLen() || inside(chain.Writable) != chain.WritableLen() {
				t.Fatal("lengths do not add up")
			}
			written, _ := echo(&chain)
			q.Push(&chain, written)
			q.Interrupt()
			q.EnableKick()
		}
	})
}
