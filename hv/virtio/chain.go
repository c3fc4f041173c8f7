package virtio

import "encoding/binary"

// Chain is one request: the buffers of a descriptor chain, each wholly inside
// guest memory. The guest can change their contents at any time, so a device
// copies what it parses. A Chain is reused by the next call of Next.
type Chain struct {
	Readable [][]byte // what the driver wrote for the device, in order
	Writable [][]byte // what the device may write, in order

	head               uint16
	readable, writable int // the lengths of Readable and Writable in bytes
}

// ReadableLen returns the length of the readable part in bytes.
func (c *Chain) ReadableLen() int { return c.readable }

// WritableLen returns the length of the writable part in bytes.
func (c *Chain) WritableLen() int { return c.writable }

// descriptor is struct virtq_desc.
type descriptor struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

// descriptorAt reads entry i of a table once: a Go compiler may not turn one
// read into two, so what is checked is what is used (the Go memory model,
// "Incorrect compilation").
func descriptorAt(table []byte, i int) descriptor {
	entry := table[i*descSize : (i+1)*descSize]
	tail := binary.LittleEndian.Uint64(entry[8:])
	return descriptor{
		addr:  binary.LittleEndian.Uint64(entry),
		len:   uint32(tail),
		flags: uint16(tail >> 32),
		next:  uint16(tail >> 48),
	}
}

// walk fills c from the chain that starts at c.head. As many buffers as the
// queue has descriptors are the longest chain a driver may make, directly or
// in an indirect table (virtio 1.2 §2.7.5.3.1), so walking ends. Empty buffers
// are not forbidden and count as such, but nothing is there to hand on.
func (q *Queue) walk(c *Chain) error {
	c.Readable, c.Writable = c.Readable[:0], c.Writable[:0]
	c.readable, c.writable = 0, 0
	table, indirect := q.desc, false
	next := int(c.head)
	for buffers := 0; ; {
		if next >= len(table)/descSize {
			return q.breakWith("descriptor %d in a table of %d", next, len(table)/descSize)
		}
		d := descriptorAt(table, next)
		if d.flags&descIndirect != 0 {
			switch {
			case !q.indirect:
				return q.breakWith("indirect descriptor without the feature")
			case indirect:
				return q.breakWith("indirect descriptor in an indirect table")
			case d.flags&descNext != 0:
				return q.breakWith("indirect descriptor with a next one")
			case d.len == 0 || d.len%descSize != 0:
				return q.breakWith("indirect table of %d bytes", d.len)
			}
			var err error
			if table, err = q.memory.Slice(d.addr, uint64(d.len)); err != nil {
				return q.breakWith("indirect table, %d bytes at guest-physical %#x: %v", d.len, d.addr, err)
			}
			indirect, next = true, 0
			continue
		}
		if buffers++; buffers > int(q.size) {
			return q.breakWith("chain longer than the queue's %d descriptors", q.size)
		}
		if err := q.add(c, d); err != nil {
			return err
		}
		if d.flags&descNext == 0 {
			return nil
		}
		next = int(d.next)
	}
}

// add appends one buffer to c.
func (q *Queue) add(c *Chain, d descriptor) error {
	writable := d.flags&descWrite != 0
	if !writable && len(c.Writable) > 0 {
		return q.breakWith("readable buffer behind a writable one")
	}
	if c.readable+c.writable+int(d.len) > maxChainBytes {
		return q.breakWith("chain longer than %d bytes", uint64(maxChainBytes))
	}
	if d.len == 0 {
		return nil
	}
	buffer, err := q.memory.Slice(d.addr, uint64(d.len))
	if err != nil {
		return q.breakWith("buffer, %d bytes at guest-physical %#x: %v", d.len, d.addr, err)
	}
	if writable {
		c.Writable = append(c.Writable, buffer)
		c.writable += len(buffer)
	} else {
		c.Readable = append(c.Readable, buffer)
		c.readable += len(buffer)
	}
	return nil
}
