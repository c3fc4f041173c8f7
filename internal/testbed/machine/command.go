package machine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// statusNoCommand is the shell's status for a command that was not found.
const statusNoCommand = 127

// run runs the job's command and, as the first process must, reaps every
// orphan meanwhile. It returns the command's exit status, 128+n after signal n.
func run(job Job, stdin *os.File, stdout, stderr io.Writer) (int, error) {
	var (
		output   sync.WaitGroup
		children []*os.File // the command's ends, closed here once it has started
		files    []*os.File
		sys      *syscall.SysProcAttr
	)
	forward := func(w io.Writer, r *os.File) {
		output.Go(func() {
			// A terminal's end shows as an input/output error.
			_, _ = io.Copy(w, r)
			r.Close()
		})
	}
	if job.Terminal {
		terminal, line, err := pty.Open()
		if err != nil {
			return 0, err
		}
		forward(stdout, terminal)
		go func() { _, _ = io.Copy(terminal, stdin) }()
		children = []*os.File{line}
		files = []*os.File{line, line, line}
		sys = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	} else {
		files = []*os.File{stdin}
		for _, w := range []io.Writer{stdout, stderr} {
			r, end, err := os.Pipe()
			if err != nil {
				return 0, err
			}
			forward(w, r)
			children = append(children, end)
			files = append(files, end)
		}
		children = append(children, stdin)
	}
	pid, err := start(job, files, sys)
	for _, file := range children {
		file.Close()
	}
	if err != nil {
		fmt.Fprintln(stderr, "testbed:", err)
		return statusNoCommand, nil
	}
	status, err := reap(pid)
	waitOutput(&output)
	return status, err
}

// start starts the job's command on three files.
func start(job Job, files []*os.File, sys *syscall.SysProcAttr) (pid int, err error) {
	if len(job.Args) == 0 {
		return 0, errors.New("no command")
	}
	program, err := lookPath(job.Args[0], job.Env)
	if err != nil {
		return 0, err
	}
	process, err := os.StartProcess(program, job.Args, &os.ProcAttr{
		Dir: job.Dir, Env: job.Env, Files: files, Sys: sys,
	})
	if err != nil {
		return 0, err
	}
	pid = process.Pid
	return pid, process.Release() // reap waits for it
}

// reap waits for all children until pid has ended.
func reap(pid int) (status int, err error) {
	for {
		var ws unix.WaitStatus
		child, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("waiting for the command: %w", err)
		case child == pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case child == pid:
			return ws.ExitStatus(), nil
		}
	}
}
