// Command testbed runs commands on a machine whose /dev/kvm boots ordinary
// Linux kernels, wherever it is called. See internal/testbed/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/drzln/whiterun/internal/testbed/machine"
	"github.com/drzln/whiterun/internal/testbed/prepare"
)

// Exit statuses of the testbed's own, as timeout(1) and env(1) have them.
const (
	statusUsage     = 2
	statusTimeout   = 124
	statusNoMachine = 125
)

const usage = `usage: testbed prepare
       testbed exec [flags] [--] COMMAND [ARG...]
       testbed shell [flags]

prepare  makes the testbed ready; exec and shell do it when needed
exec     runs a command in it: "go test -exec 'testbed exec --'" works
shell    opens a shell in it
`

func main() {
	switch {
	case machine.IsGuest():
		machine.GuestMain()
	case machine.IsNamespace():
		machine.NamespaceMain()
	}
	os.Exit(cli(os.Args[1:]))
}

// options are the flags of exec and shell.
type options struct {
	memory  int
	timeout time.Duration
	out     string
	binary  string
}

var errTimeout = errors.New("time is up")

func cli(args []string) int {
	if len(args) == 0 || !slices.Contains([]string{"prepare", "exec", "shell"}, args[0]) {
		fmt.Fprint(os.Stderr, usage)
		return statusUsage
	}
	var opt options
	flags := flag.NewFlagSet("testbed "+args[0], flag.ContinueOnError)
	flags.IntVar(&opt.memory, "mem", 8192, "memory of the outer machine in `MIB`; the host gives only what is used")
	flags.DurationVar(&opt.timeout, "timeout", 30*time.Minute, "kill the command after this `duration`")
	flags.StringVar(&opt.out, "out", "", "`folder` the command finds at /out, writable")
	flags.StringVar(&opt.binary, "whiterun", os.Getenv("WHITERUN_BIN"), "the built whiterun `binary`, which tests find in WHITERUN_BIN (default: bin/whiterun)")
	if err := flags.Parse(args[1:]); err != nil {
		return statusUsage
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { cancel(killed{(<-signals).(syscall.Signal)}) }()

	status, err := dispatch(ctx, args[0], opt, flags.Args())
	if err == nil {
		return status
	}
	fmt.Fprintln(os.Stderr, "testbed:", err)
	if by, ok := errors.AsType[killed](context.Cause(ctx)); ok {
		return 128 + int(by.signal)
	}
	if errors.Is(err, errTimeout) {
		return statusTimeout
	}
	return statusNoMachine
}

// killed says that a signal ended this process.
type killed struct{ signal syscall.Signal }

func (k killed) Error() string { return "ended by signal: " + k.signal.String() }

func dispatch(ctx context.Context, verb string, opt options, command []string) (int, error) {
	repo, err := findRepo()
	if err != nil {
		return 0, err
	}
	onHost, err := chooseHost(os.Getenv("WHITERUN_TESTBED"))
	if err != nil {
		return 0, err
	}
	ready := prepare.Nested
	if onHost {
		ready = prepare.OnHost
	}
	bed, err := ready(ctx, repo, os.Stderr)
	if err != nil || verb == "prepare" {
		return 0, err
	}
	if verb == "shell" {
		command = []string{"/bin/bash", "-l"}
	}
	job, err := makeJob(repo, opt, command)
	if err != nil {
		return 0, err
	}
	streams := machine.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	if verb == "shell" && !onHost {
		restore, err := rawTerminal()
		if err != nil {
			return 0, err
		}
		defer restore()
		job.Terminal = true
	}
	ctx, cancel := context.WithTimeoutCause(ctx, opt.timeout, fmt.Errorf("%w after %s", errTimeout, opt.timeout))
	defer cancel()
	if onHost {
		return machine.RunOnHost(ctx, bed.Root, job, streams)
	}
	return machine.Retry(ctx, os.Stderr, func() (int, error) {
		return machine.Run(ctx, bed.Config(opt.memory), job, streams)
	})
}

// chooseHost tells whether to run on the host itself instead of in the outer machine.
func chooseHost(choice string) (bool, error) {
	switch choice {
	case "":
		return machine.RealKVM() && machine.NamespacesWork(), nil
	case "host":
		return true, nil
	case "nested":
		return false, nil
	}
	return false, fmt.Errorf("WHITERUN_TESTBED=%s: it is nested or host", choice)
}

// inMachine is where copied programs lie.
const inMachine = "/run/testbed/"

// makeJob makes a job that finds the repository, the working folder and the
// command's own folder at their paths on the host.
func makeJob(repo string, opt options, command []string) (machine.Job, error) {
	if len(command) == 0 {
		return machine.Job{}, errors.New("no command")
	}
	dir, err := os.Getwd()
	if err != nil {
		return machine.Job{}, err
	}
	job := machine.Job{
		Args: slices.Clone(command),
		Env:  append(machine.BaseEnv(), machine.PassedEnv(os.Environ())...),
		Dir:  dir,
	}
	job.Env = append(job.Env, "WHITERUN_TESTBED_INSIDE=1", "WHITERUN_REPO="+repo)
	share := func(dir string) {
		inside := func(s machine.Share) bool { return dir == s.Source || strings.HasPrefix(dir, s.Source+"/") }
		if !slices.ContainsFunc(job.Shares, inside) {
			job.Shares = append(job.Shares, machine.Share{Source: dir, Target: dir})
		}
	}
	share(repo)
	share(dir)
	if opt.out != "" {
		out, err := filepath.Abs(opt.out)
		if err != nil {
			return job, err
		}
		if err := os.MkdirAll(out, 0o755); err != nil {
			return job, err
		}
		job.Shares = append(job.Shares, machine.Share{Source: out, Target: "/out", Writable: true})
	}
	copyIn := func(file string) string {
		share(filepath.Dir(file))
		target := inMachine + filepath.Base(file)
		job.Copies = append(job.Copies, machine.Copy{Source: file, Target: target})
		return target
	}
	// A program of this host, such as a test binary, is copied; any other is the machine's own.
	if program, err := filepath.Abs(command[0]); err == nil && strings.Contains(command[0], "/") && isELF(program) && !isSystem(program) {
		job.Args[0] = copyIn(program)
	}
	binary := opt.binary
	if binary == "" {
		binary = filepath.Join(repo, "bin", "whiterun")
	}
	if isELF(binary) {
		job.Env = append(job.Env, "WHITERUN_BIN="+copyIn(binary))
	}
	return job, nil
}

// isSystem tells whether a path is one that the machine has its own files at.
func isSystem(path string) bool {
	for _, dir := range []string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/lib/", "/nix/"} {
		if strings.HasPrefix(path, dir) {
			return true
		}
	}
	return false
}

func isELF(path string) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	var magic [4]byte
	_, err = io.ReadFull(file, magic[:])
	return err == nil && string(magic[:]) == "\x7fELF"
}

// findRepo returns the folder of the checkout this process runs in.
func findRepo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "internal", "testbed")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("not in a checkout of whiterun")
		}
	}
}
