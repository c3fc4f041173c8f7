package ninep

import "golang.org/x/sys/unix"

// fileCache holds the host files that were read last, a bounded number of
// them. The tree is immutable, so a fid needs no host file of its own: all fids
// of a node share one, it is opened at the first read, and one that was closed
// to make room is opened again. So no guest can run the host out of files.
type fileCache struct {
	index map[Node]int32
	slots []fileSlot
	limit int
	// The slots form a ring through next and prev, in order of use: newest is
	// the one used last and its prev the one used longest ago.
	newest int32
}

type fileSlot struct {
	node       Node
	fd         int
	next, prev int32
}

func newFileCache(limit int) fileCache {
	return fileCache{index: make(map[Node]int32), limit: max(limit, 1)}
}

// get returns the open file of n.
func (c *fileCache) get(n Node) (fd int, ok bool) {
	i, ok := c.index[n]
	if !ok {
		return -1, false
	}
	c.touch(i)
	return c.slots[i].fd, true
}

// put adds the open file of n, which has none, and closes the one used longest
// ago when there are too many.
func (c *fileCache) put(n Node, fd int) {
	if len(c.slots) < c.limit {
		i := int32(len(c.slots))
		c.slots = append(c.slots, fileSlot{node: n, fd: fd, next: i, prev: i})
		c.index[n] = i
		if i > 0 {
			c.link(i)
		}
		c.newest = i
		return
	}
	// The oldest is the newest's predecessor in the ring, so turning the ring
	// by one makes its slot the newest.
	oldest := &c.slots[c.slots[c.newest].prev]
	unix.Close(oldest.fd)
	delete(c.index, oldest.node)
	c.newest = c.slots[c.newest].prev
	oldest.node, oldest.fd = n, fd
	c.index[n] = c.newest
}

// touch makes slot i the one used last.
func (c *fileCache) touch(i int32) {
	if i == c.newest {
		return
	}
	slot := &c.slots[i]
	c.slots[slot.prev].next, c.slots[slot.next].prev = slot.next, slot.prev
	c.link(i)
	c.newest = i
}

// link puts slot i, which is in no ring, before the newest one.
func (c *fileCache) link(i int32) {
	next, prev := c.newest, c.slots[c.newest].prev
	c.slots[i].next, c.slots[i].prev = next, prev
	c.slots[prev].next, c.slots[next].prev = i, i
}

// closeAll closes all files.
func (c *fileCache) closeAll() {
	for _, slot := range c.slots {
		unix.Close(slot.fd)
	}
	clear(c.index)
	c.slots, c.newest = c.slots[:0], 0
}
