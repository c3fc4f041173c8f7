// Package virtiotest plays the guest's side of a virtqueue for tests: it lays
// out rings in guest memory, offers chains, rings the doorbell by the rules of
// virtio 1.2 §2.7, and collects what the device returns.
package virtiotest

import (
	"encoding/binary"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/virtio"
)

// Descriptor flags (virtio 1.2 §2.7.5).
const (
	FlagNext     = 1
	FlagWrite    = 2
	FlagIndirect = 4
)

// Timeout is how long WaitUsed waits before the test fails.
const Timeout = 10 * time.Second

// Buffer is one buffer of a chain, in guest memory.
type Buffer struct {
	GPA      uint64
	Len      uint32
	Writable bool // by the device
}

// Driver is the driver's side of one queue. It is for one goroutine, as the
// device's side is for another.
type Driver struct {
	// Config is what the driver would tell the transport. A test of a broken
	// driver changes it before NewQueue.
	Config virtio.QueueConfig

	t          testing.TB
	memory     *mem.Memory
	size       uint16
	eventIdx   bool
	desc       []byte
	avail      []byte
	used       []byte
	interrupts atomic.Uint64
	failure    atomic.Pointer[error]

	heap     uint64   // guest-physical address of the next Alloc
	free     []uint16 // free descriptors
	next     []uint16 // the driver's own copy of the chains' links
	length   []int    // descriptors in the chain that starts here
	tables   []uint64 // indirect tables by head, 0 where none was needed yet
	availIdx uint16
	kicked   uint16 // availIdx at the last Kick
	usedIdx  uint16
}

// NewMemory returns guest memory of size bytes that lives as long as the test.
func NewMemory(t testing.TB, size uint64) *mem.Memory {
	t.Helper()
	memory, err := mem.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = memory.Close() })
	return memory
}

// NewDriver lays out the rings of a queue with size descriptors at
// guest-physical address base, a multiple of 16, and allocates buffers and
// indirect tables behind them.
func NewDriver(t testing.TB, memory *mem.Memory, base uint64, size uint16, features uint64) *Driver {
	t.Helper()
	n := uint64(size)
	d := &Driver{
		t: t, memory: memory, size: size,
		eventIdx: features&virtio.FeatureEventIdx != 0,
		next:     make([]uint16, size),
		length:   make([]int, size),
		tables:   make([]uint64, size),
		heap:     base,
	}
	d.Config = virtio.QueueConfig{
		Memory: memory, Size: size, MaxSize: size, Features: features,
		Desc: d.alloc(16*n, 16), Avail: d.alloc(6+2*n, 4), Used: d.alloc(6+8*n, 4),
		Interrupt: func() { d.interrupts.Add(1) },
		Failed:    func(err error) { d.failure.Store(&err) },
	}
	d.desc, d.avail, d.used = d.Bytes(d.Config.Desc, 16*n), d.Bytes(d.Config.Avail, 6+2*n), d.Bytes(d.Config.Used, 6+8*n)
	for _, ring := range [][]byte{d.desc, d.avail, d.used} {
		clear(ring) // of what an earlier driver left
	}
	for i := size; i > 0; i-- {
		d.free = append(d.free, i-1)
	}
	return d
}

// NewQueue returns the device's side of the queue, with a doorbell of its own.
func (d *Driver) NewQueue() *virtio.Queue {
	d.t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = unix.Close(fd) })
	d.Config.Doorbell = fd
	q, err := virtio.NewQueue(d.Config)
	if err != nil {
		d.t.Fatal(err)
	}
	return q
}

// Bytes returns n bytes of guest memory at gpa.
func (d *Driver) Bytes(gpa, n uint64) []byte {
	d.t.Helper()
	b, err := d.memory.Slice(gpa, n)
	if err != nil {
		d.t.Fatal(err)
	}
	return b
}

// Alloc returns a new buffer of n bytes in guest memory.
func (d *Driver) Alloc(n uint32, writable bool) Buffer {
	return Buffer{GPA: d.alloc(uint64(n), 16), Len: n, Writable: writable}
}

// AllocBytes returns a new readable buffer that holds p.
func (d *Driver) AllocBytes(p []byte) Buffer {
	b := d.Alloc(uint32(len(p)), false)
	copy(d.Data(b), p)
	return b
}

// Data returns the contents of b.
func (d *Driver) Data(b Buffer) []byte { return d.Bytes(b.GPA, uint64(b.Len)) }

func (d *Driver) alloc(n, align uint64) uint64 {
	gpa := (d.heap + align - 1) &^ (align - 1)
	d.heap = gpa + n
	return gpa
}

// Offer makes a chain of buffers available and returns its head. The test
// fails when descriptors run out.
func (d *Driver) Offer(buffers ...Buffer) (head uint16) {
	d.t.Helper()
	if len(buffers) == 0 || len(buffers) > len(d.free) {
		d.t.Fatalf("offer %d buffers with %d descriptors free", len(buffers), len(d.free))
	}
	var last uint16
	for i, b := range buffers {
		slot := d.free[len(d.free)-1]
		d.free = d.free[:len(d.free)-1]
		if i == 0 {
			head = slot
		} else {
			d.next[last] = slot
			binary.LittleEndian.PutUint16(d.desc[int(last)*16+14:], slot)
		}
		PutDescriptor(d.desc[int(slot)*16:], b.GPA, b.Len, b.flags(i < len(buffers)-1), 0)
		last = slot
	}
	d.length[head] = len(buffers)
	d.Publish(head)
	return head
}

// OfferIndirect is Offer with the buffers in an indirect table.
func (d *Driver) OfferIndirect(buffers ...Buffer) (head uint16) {
	d.t.Helper()
	if len(d.free) == 0 || len(buffers) > int(d.size) {
		d.t.Fatalf("offer %d buffers indirectly with %d descriptors free", len(buffers), len(d.free))
	}
	head = d.free[len(d.free)-1]
	d.free = d.free[:len(d.free)-1]
	if d.tables[head] == 0 {
		d.tables[head] = d.alloc(16*uint64(d.size), 16)
	}
	table := d.Bytes(d.tables[head], 16*uint64(d.size))
	for i, b := range buffers {
		PutDescriptor(table[16*i:], b.GPA, b.Len, b.flags(i < len(buffers)-1), uint16(i+1))
	}
	PutDescriptor(d.desc[int(head)*16:], d.tables[head], uint32(16*len(buffers)), FlagIndirect, 0)
	d.length[head] = 1
	d.Publish(head)
	return head
}

func (b Buffer) flags(next bool) (flags uint16) {
	if b.Writable {
		flags |= FlagWrite
	}
	if next {
		flags |= FlagNext
	}
	return flags
}

// PutDescriptor stores struct virtq_desc at the start of p.
func PutDescriptor(p []byte, gpa uint64, n uint32, flags, next uint16) {
	binary.LittleEndian.PutUint64(p, gpa)
	binary.LittleEndian.PutUint32(p[8:], n)
	binary.LittleEndian.PutUint16(p[12:], flags)
	binary.LittleEndian.PutUint16(p[14:], next)
}

// Descriptors returns the descriptor table, for a test that breaks it.
func (d *Driver) Descriptors() []byte { return d.desc }

// Publish makes the chain at head available, whatever is there.
func (d *Driver) Publish(head uint16) {
	binary.LittleEndian.PutUint16(d.avail[4+2*int(d.availIdx%d.size):], head)
	d.SetAvailIdx(d.availIdx + 1)
}

// SetAvailIdx stores avail.idx.
func (d *Driver) SetAvailIdx(idx uint16) {
	d.availIdx = idx
	store16(d.avail[2:], idx)
}

// SetNoInterrupt stores avail.flags, which counts without EVENT_IDX.
func (d *Driver) SetNoInterrupt(no bool) {
	var flags uint16
	if no {
		flags = 1
	}
	store16(d.avail, flags)
}

// SetUsedEvent asks for an interrupt when the device returns the chain with
// this used.idx, which counts with EVENT_IDX.
func (d *Driver) SetUsedEvent(idx uint16) { store16(d.avail[4+2*int(d.size):], idx) }

// KickWanted reports whether the device wants a doorbell for what was offered
// since the last call.
func (d *Driver) KickWanted() bool {
	before := d.kicked
	d.kicked = d.availIdx
	if d.eventIdx {
		event := load16(d.used[4+8*int(d.size):])
		return d.availIdx-event-1 < d.availIdx-before
	}
	return load16(d.used)&1 == 0
}

// Kick rings q's doorbell if the device wants it.
func (d *Driver) Kick(q *virtio.Queue) {
	if d.KickWanted() {
		q.Notify()
	}
}

// UsedIdx returns used.idx.
func (d *Driver) UsedIdx() uint16 { return load16(d.used[2:]) }

// Used takes the next chain the device returned.
func (d *Driver) Used() (head uint16, written uint32, ok bool) {
	d.t.Helper()
	if d.UsedIdx() == d.usedIdx {
		return 0, 0, false
	}
	entry := d.used[4+8*int(d.usedIdx%d.size):]
	id := binary.LittleEndian.Uint32(entry)
	written = binary.LittleEndian.Uint32(entry[4:])
	d.usedIdx++
	if id >= uint32(d.size) || d.length[id] == 0 {
		d.t.Fatalf("device returned chain %d, which it was not given", id)
	}
	head = uint16(id)
	for slot, n := head, d.length[head]; n > 0; n-- {
		d.free = append(d.free, slot)
		slot = d.next[slot]
	}
	d.length[head] = 0
	return head, written, true
}

// WaitUsed waits for the next chain the device returns.
func (d *Driver) WaitUsed() (head uint16, written uint32) {
	d.t.Helper()
	for start := time.Now(); time.Since(start) < Timeout; runtime.Gosched() {
		if head, written, ok := d.Used(); ok {
			return head, written
		}
		if time.Since(start) > time.Millisecond { // leave the core to the device
			time.Sleep(50 * time.Microsecond)
		}
	}
	d.t.Fatalf("device returned nothing for %v", Timeout)
	return 0, 0
}

// Interrupts returns how often the queue interrupted the driver.
func (d *Driver) Interrupts() uint64 { return d.interrupts.Load() }

// Failure returns what the queue failed with, or nil.
func (d *Driver) Failure() error {
	if err := d.failure.Load(); err != nil {
		return *err
	}
	return nil
}
