// Package console owns the virtio console (virtio 1.2 §5.3): one port, hvc0 in
// a Linux guest, between the guest's terminal and a writer of the host.
//
// Both directions pass a bounded buffer, so that no guest memory is in use
// while the host side takes its time: output that nobody reads stops the
// guest's writes and nothing else.
package console

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/drzln/whiterun/hv/virtio"
)

// FeatureSize says that the configuration holds the size of the terminal.
const FeatureSize uint64 = 1 << 0

const (
	receiveQueue  = 0 // to the guest
	transmitQueue = 1 // from the guest
	queueSize     = 64

	// Buffer sizes in bytes: a screen or two of output, a paste of input.
	outputSize = 64 << 10
	inputSize  = 16 << 10

	configSize = 4 // struct virtio_console_config up to rows
)

// ErrClosed is returned by Input after Close.
var ErrClosed = errors.New("console is closed")

// Console is a virtio.Device.
type Console struct {
	out     io.Writer
	drained sync.WaitGroup // the goroutine that writes to out
	devices sync.WaitGroup // the goroutines that serve the queues

	// One lock for both buffers and everything else: a console moves little.
	mu         sync.Mutex
	changed    sync.Cond // a buffer, stopped or closed changed
	output     ring
	input      ring
	cols, rows uint16
	notify     func() // tells the driver of a new size
	queues     []*virtio.Queue
	stopped    bool // no device goroutine may go on
	closed     bool

	lost atomic.Uint64
}

// New returns a console that writes the guest's output to out, in order, from
// one goroutine. A write may block: the guest's writes then wait, while Reset
// does not. When a write fails, what the guest writes from then on is dropped
// and counted. The caller ends the console with Close.
func New(out io.Writer) *Console {
	c := &Console{out: out, output: newRing(outputSize), input: newRing(inputSize), stopped: true}
	c.changed.L = &c.mu
	c.drained.Go(c.drain)
	return c
}

// Close returns when all output has reached the writer. To end it sooner, the
// writer's owner makes the writer fail, for instance by closing it. The
// device must have been reset before.
func (c *Console) Close() error {
	c.mu.Lock()
	c.closed = true
	c.changed.Broadcast()
	c.mu.Unlock()
	c.drained.Wait()
	return nil
}

// Dropped returns the number of bytes of output that the writer did not take.
func (c *Console) Dropped() uint64 { return c.lost.Load() }

// Resize sets the size of the terminal in characters and tells the driver.
func (c *Console) Resize(cols, rows uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cols == cols && c.rows == rows {
		return
	}
	c.cols, c.rows = cols, rows
	if c.notify != nil {
		c.notify()
	}
}

// Input gives p to the guest as its terminal's input. It returns when all of
// it is buffered, which it is until a driver takes it, or how much was when
// ctx ended or the console was closed.
func (c *Console) Input(ctx context.Context, p []byte) (n int, err error) {
	// A wait for a condition knows nothing of contexts.
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.closed {
			return n, ErrClosed
		}
		if k := c.input.put(p[n:]); k > 0 {
			n += k
			c.changed.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		c.changed.Wait()
	}
}

// ID implements virtio.Device.
func (c *Console) ID() virtio.DeviceID { return virtio.DeviceConsole }

// Features implements virtio.Device.
func (c *Console) Features() uint64 { return FeatureSize }

// QueueSizes implements virtio.Device.
func (c *Console) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// SetConfigChanged implements virtio.ConfigNotifier.
func (c *Console) SetConfigChanged(changed func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notify = changed
}

// ReadConfig implements virtio.Device.
func (c *Console) ReadConfig(offset uint32, p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var config [configSize]byte
	binary.LittleEndian.PutUint16(config[0:], c.cols)
	binary.LittleEndian.PutUint16(config[2:], c.rows)
	clear(p)
	if offset < configSize {
		copy(p, config[offset:])
	}
}

// WriteConfig implements virtio.Device; nothing is the driver's to write.
func (c *Console) WriteConfig(uint32, []byte) {}

// Activate implements virtio.Device.
func (c *Console) Activate(_ uint64, queues []*virtio.Queue) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped, c.queues = false, queues
	if q := queues[receiveQueue]; q != nil {
		c.devices.Go(func() { c.receive(q) })
	}
	if q := queues[transmitQueue]; q != nil {
		// What went wrong the transport knows.
		c.devices.Go(func() { _ = q.Serve(c.transmit) })
	}
	return nil
}

// Reset implements virtio.Device. It waits for no writer: output that was
// taken from the guest is still on its way, and input stays for the next
// driver.
func (c *Console) Reset() {
	c.mu.Lock()
	c.stopped = true
	for _, q := range c.queues {
		if q != nil {
			q.Stop()
		}
	}
	c.queues = nil
	c.changed.Broadcast()
	c.mu.Unlock()
	c.devices.Wait()
}

// transmit takes one chain of the guest's output.
func (c *Console) transmit(chain *virtio.Chain) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range chain.Readable {
		for len(p) > 0 && !c.stopped {
			n := c.output.put(p)
			if n == 0 {
				c.changed.Wait()
				continue
			}
			p = p[n:]
			c.changed.Broadcast()
		}
	}
	return 0, nil
}

// drain moves output from the buffer to the writer until Close.
func (c *Console) drain() {
	chunk := make([]byte, 4096)
	var failed bool
	for {
		n := c.takeOutput(chunk)
		if n == 0 {
			return
		}
		if !failed {
			written, err := c.out.Write(chunk[:n])
			failed = err != nil
			n -= min(written, n)
		}
		c.lost.Add(uint64(n))
	}
}

// takeOutput waits for output; it returns 0 when there is none any more.
func (c *Console) takeOutput(p []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if n := c.output.take(p); n > 0 {
			c.changed.Broadcast()
			return n
		}
		if c.closed {
			return 0
		}
		c.changed.Wait()
	}
}

// receive moves input into the chains that the driver put up for it.
func (c *Console) receive(q *virtio.Queue) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var chain virtio.Chain
	for c.waitInput() {
		ok, err := q.Next(&chain)
		switch {
		case err != nil:
			return // the transport knows
		case ok:
			q.Push(&chain, c.takeInput(&chain))
			q.Interrupt()
		case q.EnableKick():
		case !q.Wait():
			return
		default:
			q.DisableKick()
		}
	}
}

// waitInput waits for input; it returns false when the device is reset.
func (c *Console) waitInput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.input.len() == 0 && !c.stopped {
		c.changed.Wait()
	}
	return !c.stopped
}

func (c *Console) takeInput(chain *virtio.Chain) (written uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range chain.Writable {
		written += uint32(c.input.take(p))
	}
	c.changed.Broadcast()
	return written
}
