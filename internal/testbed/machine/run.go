package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config is an outer machine.
type Config struct {
	QEMU      QEMU
	Kernel    string // bzImage
	Modules   string // folder lib/modules/VERSION of the kernel
	Image     string // raw ext4 image, the root
	MemoryMiB int
}

// Streams are the command's, on the host.
type Streams struct {
	In       io.Reader // nil for none
	Out, Err io.Writer
}

var (
	// ErrMachine says that the outer machine failed: it did not come up,
	// died, or gave no sign of life. It says nothing of the command.
	ErrMachine = errors.New("the outer machine failed")
	// ErrJob says that the machine came up but could not start the job.
	ErrJob = errors.New("the outer machine cannot run the command")
)

// limits are the watchdog's: how long the host half waits for a sign of life.
type limits struct {
	boot  time.Duration // for the first
	quiet time.Duration // for each one after
}

// watchdog's limits are wide. The machine is up after 3 to 5 s on an idle host
// and then gives a sign of life each second, but hosts can be slow and busy.
var watchdog = limits{boot: 2 * time.Minute, quiet: time.Minute}

// offLimit bounds an orderly shutdown.
const offLimit = time.Minute

// outerModules are what the guest half and the commands need. The root's own
// modules are there for more.
var outerModules = []string{
	"virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "crc32c_generic", "ext4", "9p", "9pnet_virtio", "overlay", "kvm_amd",
}

// Run boots an outer machine, runs the job in it and returns its exit status.
// The end of ctx kills the machine.
func Run(ctx context.Context, c Config, job Job, streams Streams) (status int, err error) {
	initrd, err := makeInitrd(c, job)
	if err != nil {
		return 0, fmt.Errorf("making the initrd: %w", err)
	}
	defer initrd.Close()
	line, far, err := socketPair()
	if err != nil {
		return 0, err
	}
	defer line.Close()

	var console tail
	program, args := c.QEMU.command(hardware(c, job.Shares, job.Keep)...)
	ctx, kill := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &console, &console
	cmd.ExtraFiles = []*os.File{far, initrd} // portFD, initrdFD
	cmd.WaitDelay = time.Second
	ended := make(chan error, 1)
	go func() { ended <- runUnderThread(cmd); far.Close() }()
	defer func() {
		kill()
		if ended != nil {
			<-ended
		}
	}()

	// The end of ctx must end a read, too.
	stop := context.AfterFunc(ctx, func() { _ = line.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	status, err = converse(ctx, line, streams, watchdog)
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case errors.Is(err, ErrMachine):
		if last := console.last(); len(last) > 0 {
			err = fmt.Errorf("%w; its console:\n%s", err, last)
		}
		return 0, err
	case err != nil:
		return 0, err
	}
	if !job.Keep {
		return status, nil
	}
	select {
	case err := <-ended:
		ended = nil
		if err != nil {
			return 0, fmt.Errorf("%w: QEMU: %w\n%s", ErrMachine, err, console.last())
		}
	case <-time.After(offLimit):
		return 0, fmt.Errorf("%w: no power-off after %s\n%s", ErrMachine, offLimit, console.last())
	}
	return status, nil
}

// Retry calls run and, when the machine and not the command failed, calls it
// once more, saying so on log.
func Retry(ctx context.Context, log io.Writer, run func() (status int, err error)) (int, error) {
	status, err := run()
	if errors.Is(err, ErrMachine) && ctx.Err() == nil {
		fmt.Fprintf(log, "testbed: %v\ntestbed: trying once more with a new outer machine\n", err)
		return run()
	}
	return status, err
}

// converse speaks with the guest half until the command's status has come.
// Each wait for a frame is bounded: that is the watchdog.
func converse(ctx context.Context, line *os.File, streams Streams, limits limits) (status int, err error) {
	out := newFrameWriter(line)
	in := &frameReader{r: line}
	limit := limits.boot
	for {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err := line.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return 0, err
		}
		kind, payload, err := in.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return 0, fmt.Errorf("%w: no sign of life for %s", ErrMachine, limit)
		case err != nil:
			return 0, fmt.Errorf("%w: it ended before the command did (%w)", ErrMachine, err)
		}
		limit = limits.quiet
		switch kind {
		case frameUp:
			go sendInput(out, streams.In)
		case frameOut:
			_, err = streams.Out.Write(payload)
		case frameErr:
			_, err = streams.Err.Write(payload)
		case frameStatus, frameFailed:
			// What counts has come; a guest that is gone already needs no answer.
			_ = out.send(frameAck, nil)
			if kind == frameFailed || len(payload) != 1 {
				return 0, fmt.Errorf("%w: %s", ErrJob, payload)
			}
			return int(payload[0]), nil
		}
		if err != nil {
			return 0, fmt.Errorf("writing the command's output: %w", err)
		}
	}
}

// sendInput passes standard input on; an empty frame is its end.
func sendInput(frames *frameWriter, in io.Reader) {
	if in != nil {
		// Reads end with the process, or when the machine has gone.
		_, _ = io.Copy(stream{frames, frameIn}, in)
	}
	_ = frames.send(frameIn, nil)
}

// runUnderThread runs a command that the kernel kills when this process ends,
// however it ends. The kernel watches the thread that started it, so that one
// has to stay.
func runUnderThread(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd.Run()
}

// socketPair returns both ends of a stream socket: one for this process, one to inherit.
func socketPair() (near, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	// Non-blocking, so that the runtime polls it and deadlines work.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "port"), os.NewFile(uintptr(fds[1]), "port"), nil
}

// makeInitrd returns a memory file with this program as /init, the modules and the job.
func makeInitrd(c Config, job Job) (*os.File, error) {
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "initrd")
	if err := writeInitrd(file, c, job); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func writeInitrd(w io.Writer, c Config, job Job) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	text, err := json.Marshal(job)
	if err != nil {
		return err
	}
	index, err := indexModules(os.DirFS(c.Modules))
	if err != nil {
		return err
	}
	modules, err := index.order(outerModules...)
	if err != nil {
		return err
	}
	archive := newCPIO(w)
	archive.file("init", 0o755, self)
	archive.file(initrdJob, 0o644, text)
	archive.dir(initrdModules)
	for i, module := range modules {
		archive.file(fmt.Sprintf("%s/%03d-%s", initrdModules, i, module.name), 0o644, module.image)
	}
	return archive.close()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	data []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if drop := len(t.data) - tailSize; drop > 0 {
		t.data = append(t.data[:0], t.data[drop:]...)
	}
	return len(p), nil
}

func (t *tail) last() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.TrimSpace(bytes.ReplaceAll(t.data, []byte{'\r'}, nil))
}
