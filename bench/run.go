package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// run is what one boot of a guest showed.
type run struct {
	at     map[string]time.Duration // when each mark came, from the first process' start
	gone   time.Duration            // when the machine was gone
	counts counts                   // only of a counting run
}

func (r run) String() string {
	text := fmt.Sprintf("init %.2f s", r.at[markInit].Seconds())
	if _, read := r.at[markBig]; read {
		text += fmt.Sprintf(", walk %.2f s, small %.2f s, big %.2f s", r.between(markInit, markWalk).Seconds(),
			r.between(markWalk, markSmall).Seconds(), r.between(markSmall, markBig).Seconds())
	}
	return text + fmt.Sprintf(", power-off %.2f s", (r.gone-r.at[markEnd]).Seconds())
}

func (r run) between(from, to string) time.Duration { return r.at[to] - r.at[from] }

// tailLines is how much of the console is shown of a guest that failed.
const tailLines = 8

// runPeer boots the system once.
func runPeer(ctx context.Context, host setup, p peer, counting bool, o options) (run, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it did not end in %s", o.timeout))
	defer cancel()
	if err := os.RemoveAll(host.in("cold")); err != nil {
		return run{}, err
	}
	// Nix makes it anew.
	if err := os.RemoveAll(linksDir); err != nil {
		return run{}, err
	}
	programs := p.programs(host)
	var tracer *tracer
	if counting {
		tracer = startTracer()
		defer tracer.stop()
	}

	g := group{}
	defer g.close()
	console, err := g.prepare(ctx, programs)
	if err != nil {
		return run{}, err
	}
	var copied io.Writer = io.Discard
	if o.verbose {
		copied = os.Stderr
	}
	r := run{at: map[string]time.Duration{}}
	begin := time.Now()
	if err := g.start(); err != nil {
		return r, err
	}
	lines := bufio.NewScanner(io.TeeReader(console, copied))
	var said error
	var tail []string // the console's last lines
	for lines.Scan() {
		now := time.Since(begin)
		tail = append(tail[max(0, len(tail)-tailLines+1):], lines.Text())
		name, done, ok, err := parseMark(lines.Text())
		said = errors.Join(said, err)
		if !ok {
			continue
		}
		r.at[name] = now
		if err := host.check(name, done); err != nil {
			return r, err
		}
		r.counts.take(name, tracer, g.pids(), host.memory)
	}
	err = g.last().Wait()
	r.gone = time.Since(begin)
	complaint := g.complaints()
	if o.verbose {
		_, _ = os.Stderr.Write(complaint)
	}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	if err := errors.Join(said, err); err != nil {
		return r, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint))
	}
	if _, ended := r.at[markEnd]; !ended {
		return r, fmt.Errorf("the guest was gone before its end: %s\n%s", bytes.TrimSpace(complaint), strings.Join(tail, "\n"))
	}
	r.counts.requests, r.counts.requestsKnown = storeRequests(complaint)
	return r, nil
}

// check holds what the guest says it has read against what is there.
func (s setup) check(mark string, done tally) error {
	want := map[string]tally{
		markWalk:  {s.nodes, s.bytes},
		markSmall: {smallFiles, smallBytes()},
		markBig:   {1, bigBytes},
	}
	if expected, ok := want[mark]; ok && done != expected {
		return fmt.Errorf("the guest found %+v, not %+v, in %s", done, expected, mark)
	}
	return nil
}

// group is the processes of a peer.
type group struct {
	commands []*exec.Cmd
	errors   []*bytes.Buffer
}

// prepare makes everything but the processes themselves, and returns the
// console's end.
func (g *group) prepare(ctx context.Context, programs []program) (io.Reader, error) {
	for _, p := range programs {
		cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
		cmd.Env = append(os.Environ(), p.env...)
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.WaitDelay = time.Second
		complaint := &bytes.Buffer{}
		cmd.Stderr = complaint
		if p.listen != "" {
			file, err := listen(p.listen)
			if err != nil {
				return nil, err
			}
			cmd.ExtraFiles = []*os.File{file}
		}
		g.commands = append(g.commands, cmd)
		g.errors = append(g.errors, complaint)
	}
	// An input that stays open: at its end QEMU's console would show nothing more.
	if _, err := g.last().StdinPipe(); err != nil {
		return nil, err
	}
	return g.last().StdoutPipe()
}

// listen returns a socket that listens, so that nobody waits for who will accept.
func listen(path string) (*os.File, error) {
	// The run before has left it.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	return listener.File()
}

func (g *group) start() error {
	for _, cmd := range g.commands {
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) last() *exec.Cmd { return g.commands[len(g.commands)-1] }

func (g *group) pids() (pids []int) {
	for _, cmd := range g.commands {
		pids = append(pids, cmd.Process.Pid)
	}
	return pids
}

// complaints returns what the processes wrote to standard error. The last one
// has ended; the others end with it, or are ended by close.
func (g *group) complaints() []byte { return g.errors[len(g.errors)-1].Bytes() }

// close ends what still runs.
func (g *group) close() {
	for _, cmd := range g.commands {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	for _, cmd := range g.commands {
		for _, file := range cmd.ExtraFiles {
			_ = file.Close()
		}
	}
}
