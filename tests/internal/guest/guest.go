// Package guest runs the whiterun binary under test for the tests that boot
// real kernels: with a deadline, with its console and its words kept for when a
// test fails, and with a look at what it leaves behind.
package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drzln/whiterun/internal/testbed"
)

// defaultDeadline is far beyond what any boot takes in the slowest testbed, on
// a machine that does much else.
const defaultDeadline = 10 * time.Minute

// Command is one call of whiterun.
type Command struct {
	Args     []string
	Env      []string      // beside the test's own
	Wrap     []string      // a program and its arguments to start whiterun by, such as setpriv
	Stdin    *os.File      // nil for none
	Stdout   *os.File      // nil to keep it as the console
	Stderr   *os.File      // nil to keep it as the words
	Terminal *Terminal     // instead of the three; its output is kept as the console
	Deadline time.Duration // 0 for one that is long enough for any boot
}

// Result is how whiterun ended.
type Result struct {
	Status  int
	Console string // standard output
	Words   string // standard error
	Took    time.Duration
}

// Process is a running whiterun.
type Process struct {
	t       testing.TB
	cmd     *exec.Cmd
	console *transcript
	words   *transcript
	before  host
	dir     string
	started time.Time
	expired *time.Timer
	copied  []chan struct{}
	ended   chan struct{} // closed once waited for
	err     error         // of Wait
}

// Boot runs `whiterun boot REF ARGS...` to its end.
func Boot(t testing.TB, ref string, args ...string) Result {
	t.Helper()
	return Run(t, append([]string{"boot", ref}, args...)...)
}

// Run runs whiterun to its end.
func Run(t testing.TB, args ...string) Result {
	t.Helper()
	return Command{Args: args}.Start(t).Wait()
}

// Start starts whiterun. When the test ends, so has the process.
func (c Command) Start(t testing.TB) *Process {
	t.Helper()
	p := &Process{
		t:       t,
		console: newTranscript(),
		words:   newTranscript(),
		dir:     privateFolder(t),
		ended:   make(chan struct{}),
	}
	args := append(append(append([]string{}, c.Wrap...), testbed.Whiterun(t)), c.Args...)
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Env = append(append(os.Environ(), "TMPDIR="+p.temporary(), "XDG_RUNTIME_DIR="+p.runtime()), c.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Terminal != nil {
		c.Stdin, c.Stdout, c.Stderr = c.Terminal.tty, c.Terminal.tty, c.Terminal.tty
		p.console = c.Terminal.shown
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	if c.Stdin != nil {
		p.cmd.Stdin = c.Stdin
	}
	// Pipes of our own, not exec's: who waits for the process must not wait for
	// others that hold its output open, since that there are none is to be shown.
	var ours []io.Closer
	for _, out := range []struct {
		file  *os.File
		to    *transcript
		field *io.Writer
	}{{c.Stdout, p.console, &p.cmd.Stdout}, {c.Stderr, p.words, &p.cmd.Stderr}} {
		if out.file != nil {
			*out.field = out.file
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*out.field = w
		ours = append(ours, w)
		copied := make(chan struct{})
		p.copied = append(p.copied, copied)
		go func() {
			defer close(copied)
			defer r.Close()
			_, _ = io.Copy(out.to, r)
		}()
	}
	p.before = observe(t)
	p.started = time.Now()
	err := p.cmd.Start()
	for _, w := range ours {
		w.Close()
	}
	if err != nil {
		t.Fatalf("start %q: %v", args, err)
	}
	deadline := c.Deadline
	if deadline == 0 {
		deadline = defaultDeadline
	}
	p.expired = time.AfterFunc(deadline, func() {
		// The runtime answers with the stacks of all goroutines.
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		time.AfterFunc(5*time.Second, p.kill)
	})
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%s\nconsole:\n%s\nwords:\n%s", strings.Join(args, " "), p.console, p.words)
		}
	})
	return p
}

// temporary and runtime are folders that the process has to itself, so that
// anything left behind in them is its own.
func (p *Process) temporary() string { return p.dir + "/tmp" }
func (p *Process) runtime() string   { return p.dir + "/run" }

func (p *Process) kill() {
	select {
	case <-p.ended:
	default:
		_ = p.cmd.Process.Kill()
	}
}

// Signal sends a signal.
func (p *Process) Signal(signal syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Errorf("signal %v: %v", signal, err)
	}
}

// Pid returns the process' id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// WaitConsole waits until the console has shown the text, and fails the test
// when the process ends first.
func (p *Process) WaitConsole(text string) {
	p.t.Helper()
	p.await(p.console, "console", text)
}

// WaitWords is WaitConsole for standard error.
func (p *Process) WaitWords(text string) {
	p.t.Helper()
	p.await(p.words, "words", text)
}

func (p *Process) await(in *transcript, name, text string) {
	p.t.Helper()
	select {
	case <-in.shows(text):
	case <-p.ended:
		select {
		case <-in.shows(text): // just before the end
		case <-time.After(time.Second):
			p.t.Fatalf("whiterun ended before the %s showed %q", name, text)
		}
	}
}

// Wait waits for the end, checks that nothing is left behind, and returns how
// it was.
func (p *Process) Wait() Result {
	p.t.Helper()
	<-p.ended
	took := time.Since(p.started)
	if !p.expired.Stop() {
		p.t.Errorf("whiterun had not ended after %v", took.Round(time.Second))
	}
	for _, copied := range p.copied {
		select {
		case <-copied:
		case <-time.After(5 * time.Second):
			p.t.Error("somebody still holds the output open")
		}
	}
	status := p.cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Errorf("wait for whiterun: %v", p.err)
	}
	if by := p.cmd.ProcessState.Sys().(syscall.WaitStatus); by.Signaled() {
		p.t.Errorf("whiterun was killed by %v", by.Signal())
	}
	p.t.Logf("%s: status %d after %v", strings.Join(p.cmd.Args, " "), status, took.Round(100*time.Millisecond))
	p.before.compare(p.t)
	isEmpty(p.t, p.temporary())
	isEmpty(p.t, p.runtime())
	return Result{status, p.console.String(), p.words.String(), took}
}

// Why returns the last of Whiterun's words, after a check that they state the
// exit status.
func (r Result) Why(t testing.TB) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.Words), "\n")
	var last struct {
		Status  *int   `json:"status"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Status == nil {
		t.Fatalf("status %d: the last line is %q", r.Status, lines[len(lines)-1])
	}
	if *last.Status != r.Status {
		t.Errorf("the exit status is %d, the last line says %d: %s", r.Status, *last.Status, last.Message)
	}
	return last.Message
}

// Ended checks the exit status and that the last line says why.
func (r Result) Ended(t testing.TB, status int, why string) {
	t.Helper()
	if r.Status != status {
		t.Errorf("exit status %d, want %d", r.Status, status)
	}
	if got := r.Why(t); !strings.Contains(got, why) {
		t.Errorf("the last line says %q, want %q", got, why)
	}
}

// Probe returns what a probe printed in the guest, after a check that it
// ended well.
func (r Result) Probe(t testing.TB, name string) string {
	t.Helper()
	output, ok := testbed.ProbeOutput(r.Console, name)
	if !ok {
		t.Errorf("the probe %s did not end well", name)
	}
	return output
}

// OnHost returns what a probe prints on this side.
func OnHost(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command("busybox", append([]string{"sh", testbed.Probe(t, name)}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the probe %s on the host: %v: %s", name, err, &stderr)
	}
	return string(out)
}

// Closure returns the store paths that a store path needs.
func Closure(t testing.TB, path string) []string {
	t.Helper()
	out, err := exec.Command("nix-store", "--query", "--requisites", path).Output()
	if err != nil {
		t.Fatalf("the closure of %s: %v", path, err)
	}
	return strings.Fields(string(out))
}
