package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// frameKind says what a frame on the port carries.
type frameKind byte

// From the guest.
const (
	frameUp     frameKind = 'u' // the machine is up and starts the command
	frameBeat   frameKind = 'b' // once a second: the machine lives
	frameOut    frameKind = 'o' // standard output
	frameErr    frameKind = 'e' // standard error
	frameStatus frameKind = 's' // the last one: exit status, one byte
	frameFailed frameKind = 'f' // the last one: why the command was not run, text
)

// From the host.
const (
	frameIn  frameKind = 'i' // standard input; empty at its end
	frameAck frameKind = 'a' // the last frame has arrived: power off
)

// maxFrame bounds a frame's payload in bytes.
const maxFrame = 32 << 10

var errFrame = errors.New("broken frame")

// frameWriter writes frames, from any goroutine: kind (1 byte), length of the
// payload (4 bytes, little-endian), payload.
type frameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

func newFrameWriter(w io.Writer) *frameWriter {
	return &frameWriter{w: w, buf: make([]byte, 0, 5+maxFrame)}
}

func (f *frameWriter) send(kind frameKind, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("%w: %d bytes", errFrame, len(payload))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.buf = append(f.buf[:0], byte(kind))
	f.buf = binary.LittleEndian.AppendUint32(f.buf, uint32(len(payload)))
	f.buf = append(f.buf, payload...)
	_, err := f.w.Write(f.buf)
	return err
}

// stream is an io.Writer whose bytes become frames of one kind.
type stream struct {
	frames *frameWriter
	kind   frameKind
}

func (s stream) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxFrame)
		if err := s.frames.send(s.kind, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// frameReader reads frames. The payload it returns is good until the next call.
type frameReader struct {
	r   io.Reader
	buf [5 + maxFrame]byte
}

func (f *frameReader) next() (frameKind, []byte, error) {
	if _, err := io.ReadFull(f.r, f.buf[:5]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(f.buf[1:5])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	payload := f.buf[5 : 5+n]
	if _, err := io.ReadFull(f.r, payload); err != nil {
		return 0, nil, err
	}
	return frameKind(f.buf[0]), payload, nil
}
