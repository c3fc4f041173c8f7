package progress

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// fake is a Progress whose clock moves only when it is told to.
func fake(style Style) (*Progress, *bytes.Buffer, func(time.Duration)) {
	var out bytes.Buffer
	p := New(&out, Silent, func() int { return 80 })
	at := time.Unix(0, 0)
	p.style, p.start, p.now = style, at, func() time.Time { return at }
	return p, &out, func(d time.Duration) { at = at.Add(d) }
}

// shown returns what of a terminal's input is on the screen at the end, one
// string a line.
func shown(t *testing.T, in string) []string {
	t.Helper()
	lines := []string{""}
	for len(in) > 0 {
		last := &lines[len(lines)-1]
		switch {
		case strings.HasPrefix(in, clearLine):
			*last, in = "", in[len(clearLine):]
		case strings.HasPrefix(in, "\r\n"):
			lines, in = append(lines, ""), in[2:]
		case in[0] == '\n':
			lines, in = append(lines, ""), in[1:]
		default:
			*last, in = *last+in[:1], in[1:]
		}
	}
	return lines
}

func TestLine(t *testing.T) {
	p, out, pass := fake(Line)
	p.Begin("evaluate")
	pass(1250 * time.Millisecond)
	p.Begin("build")
	p.Write([]byte("building it\n"))
	pass(90 * time.Second)
	p.Begin("guest")
	pass(7 * time.Millisecond)
	if got := shown(t, out.String()); strings.Join(got, "|") != "building it|evaluate 1.2 s · build 1m30s · guest 0 ms…" {
		t.Errorf("got %q", got)
	}
	var stdout bytes.Buffer
	console := p.Console(&stdout, true)
	p.SetRaw(true)
	console.Write([]byte("login: "))
	p.Begin("store")
	p.Write([]byte("a warning\n"))
	p.Done()
	p.Write([]byte("the end\n"))
	want := []string{"building it", "evaluate 1.2 s · build 1m30s · guest 7 ms…", "", "a warning", "the end", ""}
	if got := shown(t, out.String()); strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
	if raw := out.String(); !strings.HasSuffix(raw, "\r\na warning\r\nthe end\r\n") {
		t.Errorf("in raw mode, got %q", raw)
	}
	if stdout.String() != "login: " {
		t.Errorf("the console got %q", stdout.String())
	}
}

func TestLineIsDone(t *testing.T) {
	p, out, pass := fake(Line)
	p.Begin("kernel")
	pass(80 * time.Millisecond)
	p.Done()
	p.Done()
	p.Begin("late")
	if got := out.String(); got != clearLine+"kernel 0 ms…"+clearLine+"kernel 80 ms"+clearLine+"kernel 80 ms\r\n" {
		t.Errorf("got %q", got)
	}
}

func TestLongLine(t *testing.T) {
	p, out, _ := fake(Line)
	for range 10 {
		p.Begin("evaluate")
	}
	for _, drawn := range strings.Split(out.String(), clearLine) {
		if n := len([]rune(drawn)); n > 79 {
			t.Errorf("drew %d characters: %q", n, drawn)
		}
	}
	p.Close()
	if got := shown(t, out.String()); len(got) != 2 || strings.Count(got[0], "evaluate") != 10 {
		t.Errorf("left %q", got)
	}
}

func TestPiecesOfALine(t *testing.T) {
	p, out, _ := fake(Line)
	p.Begin("build")
	p.Write([]byte("half "))
	p.Write([]byte("a line\n"))
	if got := shown(t, out.String()); strings.Join(got, "|") != "half a line|build 0 ms…" {
		t.Errorf("got %q", got)
	}
}

func TestRecords(t *testing.T) {
	p, out, pass := fake(Records)
	p.SetLog(zerolog.New(p)) // through the Progress itself, as on a terminal
	p.Begin("evaluate")
	pass(time.Second)
	p.Begin("build")
	pass(time.Second)
	p.Done()
	p.Done()
	var stages []string
	for line := range bytes.Lines(out.Bytes()) {
		var record struct {
			Level string  `json:"level"`
			Stage string  `json:"stage"`
			MS    float64 `json:"ms"`
			Total float64 `json:"since_start_ms"`
		}
		if err := json.Unmarshal(line, &record); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		stages = append(stages, record.Stage)
		if record.Level != "info" || record.MS != 1000 || record.Total != float64(1000*len(stages)) {
			t.Errorf("got %q", line)
		}
	}
	if strings.Join(stages, " ") != "evaluate build" {
		t.Errorf("got the stages %q", stages)
	}
}

func TestSilent(t *testing.T) {
	p, out, _ := fake(Silent)
	p.SetLog(zerolog.New(p))
	p.Begin("evaluate")
	p.Done()
	if out.Len() != 0 {
		t.Errorf("got %q", out)
	}
	p.Write([]byte("an error\n"))
	if out.String() != "an error\n" {
		t.Errorf("got %q", out)
	}
}

func TestTicksAndCloses(t *testing.T) {
	var out lockedBuffer
	p := New(&out, Line, func() int { return 80 })
	p.Begin("guest")
	for deadline := time.Now().Add(10 * time.Second); strings.Count(out.String(), "guest") < 2; time.Sleep(tick / 10) {
		if time.Now().After(deadline) {
			t.Fatalf("the line does not move: %q", out.String())
		}
	}
	p.Close()
	p.Close()
	closed := out.String()
	if !strings.HasSuffix(closed, "\r\n") {
		t.Errorf("got %q", closed)
	}
	p.Begin("late")
	if out.String() != closed {
		t.Errorf("a closed line goes on: %q", out.String())
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
