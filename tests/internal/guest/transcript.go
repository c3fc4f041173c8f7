package guest

import (
	"bytes"
	"strings"
	"sync"
)

// transcript keeps what is written and tells when a text has been.
type transcript struct {
	mu    sync.Mutex
	text  bytes.Buffer
	waits []wait
}

type wait struct {
	text  []byte
	shown chan struct{}
}

func newTranscript() *transcript { return new(transcript) }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text.Write(p)
	still := t.waits[:0]
	for _, w := range t.waits {
		// The text may have begun in earlier writes.
		from := max(0, t.text.Len()-len(p)-len(w.text))
		if bytes.Contains(t.text.Bytes()[from:], w.text) {
			close(w.shown)
			continue
		}
		still = append(still, w)
	}
	t.waits = still
	return len(p), nil
}

// shows returns a channel that is closed once the text has been written.
func (t *transcript) shows(text string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := wait{[]byte(text), make(chan struct{})}
	if bytes.Contains(t.text.Bytes(), w.text) {
		close(w.shown)
	} else {
		t.waits = append(t.waits, w)
	}
	return w.shown
}

// String returns the text without carriage returns.
func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ReplaceAll(t.text.String(), "\r", "")
}
