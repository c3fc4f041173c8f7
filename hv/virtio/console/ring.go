package console

// ring is a bounded first-in-first-out buffer of bytes.
type ring struct {
	buf   []byte
	start int // of the first byte
	n     int // bytes in it
}

func newRing(size int) ring { return ring{buf: make([]byte, size)} }

func (r *ring) len() int { return r.n }

// put appends what fits of p and returns how much that is.
func (r *ring) put(p []byte) (n int) {
	for len(p) > 0 && r.n < len(r.buf) {
		end := (r.start + r.n) % len(r.buf)
		k := copy(r.buf[end:min(len(r.buf), end+len(r.buf)-r.n)], p)
		r.n, n, p = r.n+k, n+k, p[k:]
	}
	return n
}

// take moves the first bytes into p and returns how many there were.
func (r *ring) take(p []byte) (n int) {
	for len(p) > 0 && r.n > 0 {
		k := copy(p, r.buf[r.start:min(len(r.buf), r.start+r.n)])
		r.start, r.n, n, p = (r.start+k)%len(r.buf), r.n-k, n+k, p[k:]
	}
	return n
}
