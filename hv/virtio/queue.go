package virtio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/drzln/whiterun/hv/mem"
)

// MaxQueueSize is the largest number of descriptors a split virtqueue can have
// (virtio 1.2 §2.7).
const MaxQueueSize = 32768

var (
	// ErrQueueBroken is wrapped by every error that says which rule of the
	// ring the driver broke. The queue hands out nothing more; only a reset of
	// the device brings it back.
	ErrQueueBroken = errors.New("virtqueue broken by its driver")
	// ErrQueueConfig is wrapped by NewQueue's errors: a size or an address
	// that no queue can have.
	ErrQueueConfig = errors.New("invalid virtqueue")
)

// pollTime is how long Serve looks at the ring after a batch before it waits
// for a doorbell: about what the doorbell and the wake-up behind it cost.
const pollTime = 10 * time.Microsecond

// Flags and sizes of the split ring (virtio 1.2 §2.7.5–§2.7.8).
const (
	descSize         = 16 // bytes of struct virtq_desc
	descNext         = 1
	descWrite        = 2
	descIndirect     = 4
	availNoInterrupt = 1
	usedNoNotify     = 1

	// maxChainBytes bounds one chain (virtio 1.2 §2.7.5: "2^32 bytes in
	// total").
	maxChainBytes = 1 << 32
)

// QueueConfig is what a transport knows of a queue when its driver is ready.
type QueueConfig struct {
	Memory *mem.Memory
	// Size is the number of descriptors, a power of two up to MaxSize.
	Size, MaxSize uint16
	// Desc, Avail and Used are the guest-physical addresses of the descriptor
	// table, the driver area and the device area.
	Desc, Avail, Used uint64
	// Features are the negotiated feature bits.
	Features uint64
	// Doorbell is a blocking eventfd that counts the driver's notifications.
	// It stays the transport's, which keeps it open until the device was reset.
	Doorbell int
	// Interrupt sends the queue's interrupt.
	Interrupt func()
	// Failed is called once, from whichever goroutine found out, when the
	// queue can serve no more. It must not wait for the device.
	Failed func(error)
}

// QueueStats counts what went through a queue since it was made.
type QueueStats struct {
	Kicks      uint64 // times a doorbell woke the device
	Interrupts uint64 // times the driver was interrupted
	Chains     uint64 // requests taken
}

// Queue is the device's side of one split virtqueue. It owns every access to
// the three rings: what the guest writes there is read once, and checked where
// it becomes an index or a host slice.
//
// One goroutine at a time uses a Queue; Notify, Stop, Fail and Stats may be
// called from anywhere.
type Queue struct {
	memory   *mem.Memory
	size     uint16
	eventIdx bool
	indirect bool

	desc      []byte // descriptor table
	availRing []byte // avail.ring
	usedRing  []byte // used.ring

	availFlags word16
	availIdx   word16
	usedEvent  word16
	usedHead   *uint32 // used.flags and used.idx, both the device's
	availEvent word16

	nextAvail uint16 // avail.idx of the next chain to take
	nextUsed  uint16 // used.idx of the next chain to return
	unsent    uint32 // chains returned since Interrupt was last called
	noNotify  uint32 // used.flags

	doorbell  int
	rung      [8]byte // the doorbell's count when it was last read
	interrupt func()
	failed    func(error)
	stopped   atomic.Bool
	broken    atomic.Pointer[error]

	kicks, interrupts, chains atomic.Uint64
}

// NewQueue resolves the rings to host memory. Its errors wrap ErrQueueConfig.
func NewQueue(c QueueConfig) (*Queue, error) {
	if c.Size == 0 || bits.OnesCount16(c.Size) != 1 || c.Size > min(c.MaxSize, MaxQueueSize) {
		return nil, fmt.Errorf("size %d, at most %d: %w", c.Size, c.MaxSize, ErrQueueConfig)
	}
	n := uint64(c.Size)
	desc, err := area(c.Memory, "descriptor table", c.Desc, descSize*n, 16)
	if err != nil {
		return nil, err
	}
	avail, err := area(c.Memory, "driver area", c.Avail, 6+2*n, 2)
	if err != nil {
		return nil, err
	}
	used, err := area(c.Memory, "device area", c.Used, 6+8*n, 4)
	if err != nil {
		return nil, err
	}
	q := &Queue{
		memory:     c.Memory,
		size:       c.Size,
		eventIdx:   c.Features&FeatureEventIdx != 0,
		indirect:   c.Features&FeatureIndirectDesc != 0,
		desc:       desc,
		availFlags: word16At(avail),
		availIdx:   word16At(avail[2:]),
		availRing:  avail[4 : 4+2*n],
		usedEvent:  word16At(avail[4+2*n:]),
		usedHead:   word32At(used),
		usedRing:   used[4 : 4+8*n],
		availEvent: word16At(used[4+8*n:]),
		doorbell:   c.Doorbell,
		interrupt:  c.Interrupt,
		failed:     c.Failed,
	}
	return q, nil
}

func area(memory *mem.Memory, name string, gpa, n, align uint64) ([]byte, error) {
	if gpa%align != 0 {
		return nil, fmt.Errorf("%s at guest-physical %#x, not a multiple of %d: %w", name, gpa, align, ErrQueueConfig)
	}
	b, err := memory.Slice(gpa, n)
	if err != nil {
		return nil, fmt.Errorf("%s, %d bytes at guest-physical %#x: %w: %w", name, n, gpa, ErrQueueConfig, err)
	}
	return b, nil
}

// Size returns the number of descriptors.
func (q *Queue) Size() int { return int(q.size) }

// Next takes the next available chain into c. ok is false when the ring is
// empty. err wraps ErrQueueBroken when the driver broke the rules; every later
// call returns it again. A chain stays valid until it is pushed or the device
// is reset.
func (q *Queue) Next(c *Chain) (ok bool, err error) {
	if failure := q.broken.Load(); failure != nil {
		return false, *failure
	}
	pending := q.availIdx.load() - q.nextAvail
	if pending == 0 {
		return false, nil
	}
	// Every chain that is out needs a descriptor of its own, so there are
	// never more than the table has.
	if inFlight := q.nextAvail - q.nextUsed; int(pending)+int(inFlight) > int(q.size) {
		return false, q.breakWith("%d chains available and %d in flight in a queue of %d", pending, inFlight, q.size)
	}
	slot := int(q.nextAvail&(q.size-1)) * 2
	c.head = binary.LittleEndian.Uint16(q.availRing[slot:])
	if err := q.walk(c); err != nil {
		return false, err
	}
	q.nextAvail++
	q.chains.Add(1)
	return true, nil
}

// Push returns a chain to the driver, written being the number of bytes stored
// at the front of its writable part. The driver sees it at once but is not
// interrupted before Interrupt.
func (q *Queue) Push(c *Chain, written uint32) {
	slot := q.usedRing[int(q.nextUsed&(q.size-1))*8:]
	binary.LittleEndian.PutUint32(slot, uint32(c.head))
	binary.LittleEndian.PutUint32(slot[4:], written)
	q.nextUsed++
	q.unsent++
	// The atomic store releases the entry and what the device wrote before it.
	q.storeUsedHead()
}

// Interrupt sends the queue's interrupt if the driver wants one for what was
// pushed since the last call.
func (q *Queue) Interrupt() {
	if q.unsent == 0 {
		return
	}
	// The sequentially consistent store of used.idx in Push comes before this
	// load, as the driver stores used_event before it loads used.idx: one of
	// the two sees the other (virtio 1.2 §2.7.7.2).
	var wanted bool
	if q.eventIdx {
		wanted = uint32(q.nextUsed-q.usedEvent.load()-1) < q.unsent
	} else {
		wanted = q.availFlags.load()&availNoInterrupt == 0
	}
	q.unsent = 0
	if wanted {
		q.interrupts.Add(1)
		q.interrupt()
	}
}

// EnableKick asks the driver for a doorbell with its next buffer and reports
// whether there already is one: then look again instead of waiting.
func (q *Queue) EnableKick() (pending bool) {
	if q.eventIdx {
		q.availEvent.store(q.nextAvail)
	} else {
		q.noNotify = 0
		q.storeUsedHead()
	}
	// As in Interrupt, with the roles exchanged.
	return q.pending()
}

// DisableKick tells the driver that doorbells are not needed for now. With
// EVENT_IDX that is so from the first doorbell on.
func (q *Queue) DisableKick() {
	if !q.eventIdx && q.noNotify == 0 {
		q.noNotify = usedNoNotify
		q.storeUsedHead()
	}
}

func (q *Queue) pending() bool { return q.availIdx.load() != q.nextAvail }

func (q *Queue) storeUsedHead() {
	atomic.StoreUint32(q.usedHead, q.noNotify|uint32(q.nextUsed)<<16)
}

// Wait blocks the calling thread until the doorbell rings; it returns false
// once the queue is stopped. A doorbell promises nothing: the ring may be
// empty.
func (q *Queue) Wait() bool {
	if q.stopped.Load() || !readEvent(q.doorbell, &q.rung) || q.stopped.Load() {
		return false
	}
	q.kicks.Add(1)
	return true
}

// Notify rings the doorbell from user space, for a notification that KVM did
// not take.
func (q *Queue) Notify() { writeEvent(q.doorbell) }

// Stop ends Wait and Serve for good. It does not wait for them.
func (q *Queue) Stop() {
	// The flag first: who is woken must find it. The count that stays in the
	// eventfd is one spurious doorbell for the queue's successor.
	q.stopped.Store(true)
	writeEvent(q.doorbell)
}

// Stopped reports whether Stop was called.
func (q *Queue) Stopped() bool { return q.stopped.Load() }

// Fail declares the queue broken: the transport then tells the driver that the
// device needs a reset. Only the first call counts.
func (q *Queue) Fail(err error) {
	if q.broken.CompareAndSwap(nil, &err) && q.failed != nil {
		q.failed(err)
	}
}

// breakWith fails the queue and returns the error it failed with.
func (q *Queue) breakWith(format string, args ...any) error {
	q.Fail(fmt.Errorf("%w: %s", ErrQueueBroken, fmt.Sprintf(format, args...)))
	return *q.broken.Load()
}

// Stats returns the counters.
func (q *Queue) Stats() QueueStats {
	return QueueStats{Kicks: q.kicks.Load(), Interrupts: q.interrupts.Load(), Chains: q.chains.Load()}
}

// Serve is the loop of a device that answers each request before it takes the
// next: it drains the ring through handle, which returns the number of bytes
// it wrote, interrupts once per batch, and waits for the doorbell on a thread
// of its own. It returns nil after Stop, and the reason when the driver broke
// the queue or handle failed; the transport knows it by then.
func (q *Queue) Serve(handle func(c *Chain) (written uint32, err error)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var c Chain
	for {
		q.DisableKick()
		served, err := q.serveBatch(&c, handle)
		q.Interrupt()
		switch {
		case err != nil:
			q.Fail(err)
			return err
		case q.stopped.Load():
			return nil
		case served > 0 && q.poll(), q.EnableKick():
		case !q.Wait():
			return nil
		}
	}
}

// serveBatch serves what is available, at most one ring full: a driver that
// never lets the ring run dry still gets its interrupts.
func (q *Queue) serveBatch(c *Chain, handle func(c *Chain) (uint32, error)) (served int, err error) {
	for ; served < int(q.size) && !q.stopped.Load(); served++ {
		ok, err := q.Next(c)
		if !ok || err != nil {
			return served, err
		}
		written, err := handle(c)
		if err != nil {
			return served, err
		}
		q.Push(c, written)
	}
	return served, nil
}

// poll waits a moment for the next request to spare both sides the doorbell.
func (q *Queue) poll() bool {
	for start := time.Now(); time.Since(start) < pollTime; {
		if q.pending() || q.stopped.Load() {
			return true
		}
	}
	return false
}
