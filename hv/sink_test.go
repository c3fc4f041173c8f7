package hv

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"time"
)

// gate is a writer that lets bytes through only while it is open.
type gate struct {
	open chan struct{}
	mu   sync.Mutex
	got  bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.got.Write(p)
}

func TestSinkKeepsEverything(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	s := newSink(g)
	want := bytes.Repeat([]byte("0123456789abcdef"), 3*sinkSize/16)
	written := make(chan error)
	go func() {
		_, err := s.Write(want)
		written <- err
	}()
	select {
	case <-written:
		t.Fatal("a full sink did not hold up its writer")
	case <-time.After(20 * time.Millisecond):
	}
	close(g.open)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	s.close()
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g.got.Bytes(), want) {
		t.Errorf("%d bytes came out, not the %d that went in", g.got.Len(), len(want))
	}
}

func TestSinkLetsGoOfItsWriters(t *testing.T) {
	g := &gate{open: make(chan struct{})}
	defer close(g.open)
	s := newSink(g)
	written := make(chan error)
	go func() {
		_, err := s.Write(make([]byte, 2*sinkSize))
		written <- err
	}()
	time.Sleep(10 * time.Millisecond)
	s.close()
	if err := <-written; !errors.Is(err, errSinkClosed) {
		t.Errorf("a writer of a closed sink got %v", err)
	}
	s.abandonWhenStuck(10 * time.Millisecond)
	if err := s.flush(); !errors.Is(err, errConsoleStuck) {
		t.Errorf("flushing to a stuck reader: %v", err)
	}
}

func TestSinkSurvivesALostReader(t *testing.T) {
	r, w := io.Pipe()
	_ = r.Close()
	s := newSink(w)
	if _, err := s.Write(make([]byte, 4*sinkSize)); err != nil {
		t.Fatal(err)
	}
	s.close()
	if err := s.flush(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("flush: %v", err)
	}
}

func TestSinkDoesNotAllocate(t *testing.T) {
	s := newSink(io.Discard)
	defer s.close()
	line := []byte("[    0.000000] a line of the console\n")
	if n := testing.AllocsPerRun(1000, func() { _, _ = s.Write(line) }); n != 0 {
		t.Errorf("%v allocations per write", n)
	}
}
