// Package p9 is the virtio 9P device (virtio 1.2 has only its number; the rest
// is Linux' net/9p/trans_virtio.c): one queue that carries one 9P2000.L
// session, and a mount tag by which the guest finds it.
package p9

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"

	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/pkg/ninep"
)

// FeatureMountTag says that the configuration holds a mount tag; Linux takes
// no device without.
const FeatureMountTag uint64 = 1 << 0

// maxTag bounds the mount tag, in bytes.
const maxTag = 255

// queueSize is the number of descriptors. Linux puts up to 128 buffers in one
// request, a 500 KB read being one for the request, one for the header of the
// reply and 125 pages, and no chain may be longer than its queue. With indirect
// descriptors, which every guest we know negotiates, this is 256 requests in
// flight, and without them still two of the largest.
const queueSize = 256

// Device is one virtio-9p device. It serves its requests one at a time, in
// order, on a thread of its own.
type Device struct {
	config  []byte // struct virtio_9p_config: tag_len[2] tag[tag_len]
	session *ninep.Session
	request []byte // the T-message being served, out of the guest's reach

	queue   *virtio.Queue
	serving sync.WaitGroup
}

var _ virtio.Device = (*Device)(nil)

// New returns a device that serves server's tree under a mount tag: 1 to 255
// bytes without a NUL.
func New(tag string, server *ninep.Server) (*Device, error) {
	if tag == "" || len(tag) > maxTag || strings.ContainsRune(tag, 0) {
		return nil, fmt.Errorf("9p mount tag %q: want 1 to %d bytes, none of them NUL", tag, maxTag)
	}
	config := binary.LittleEndian.AppendUint16(nil, uint16(len(tag)))
	return &Device{
		config:  append(config, tag...),
		session: server.NewSession(),
		request: make([]byte, server.MaxMessage()),
	}, nil
}

// ID returns virtio.Device9P.
func (d *Device) ID() virtio.DeviceID { return virtio.Device9P }

// Features offers the mount tag.
func (d *Device) Features() uint64 { return FeatureMountTag }

// QueueSizes returns the size of the one queue.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig reads the mount tag.
func (d *Device) ReadConfig(offset uint32, p []byte) {
	clear(p)
	if uint64(offset) < uint64(len(d.config)) {
		copy(p, d.config[offset:])
	}
}

// WriteConfig does nothing: the configuration is read only.
func (d *Device) WriteConfig(uint32, []byte) {}

// Activate begins to serve the queue.
func (d *Device) Activate(_ uint64, queues []*virtio.Queue) error {
	if d.queue != nil {
		return fmt.Errorf("9p device %q is active already", d.config[2:])
	}
	if len(queues) == 0 || queues[0] == nil {
		return nil // a driver that enabled no queue cannot ask for anything
	}
	d.queue = queues[0]
	d.serving.Go(func() {
		// What ends the loop but Reset, the queue has told the transport.
		_ = d.queue.Serve(d.serve)
	})
	return nil
}

// Reset ends the session: no request is under way, no fid exists and no host
// file is open when it returns.
func (d *Device) Reset() {
	if d.queue != nil {
		d.queue.Stop()
		d.serving.Wait()
		d.queue = nil
	}
	d.session.Close()
}

// serve answers one request. One that cannot be answered goes back with
// nothing written; the guest has only itself to wait for.
func (d *Device) serve(c *virtio.Chain) (written uint32, err error) {
	// A message longer than the longest allowed is cut, and refused since its
	// size is not what it says.
	n := 0
	for _, buf := range c.Readable {
		n += copy(d.request[n:], buf)
	}
	written, err = d.session.Handle(d.request[:n], c.Writable)
	if err != nil {
		return 0, nil
	}
	return written, nil
}
