package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/internal/early"
)

// Names in the initrd.
const (
	initrdJob     = "job.json"
	initrdModules = "modules"
)

// port is the guest's end of the virtio-serial port; the first number is the
// device's among all virtio devices.
const port = "/dev/vport*p1"

// beat is the time between two signs of life.
const beat = time.Second

// IsGuest tells whether this process is the first one of an outer machine.
func IsGuest() bool {
	return os.Getpid() == 1 && os.Args[0] == "/init"
}

// GuestMain is the life of the outer machine's first process. It never returns.
func GuestMain() {
	if err := guest(); err != nil {
		// Nobody listens on the port: the console is what is left.
		fmt.Fprintln(os.Stderr, "testbed:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func guest() error {
	if err := mountKernel(""); err != nil {
		return err
	}
	if err := early.LoadModules("/" + initrdModules); err != nil {
		return err
	}
	line, err := openPort()
	if err != nil {
		return err
	}
	frames := newFrameWriter(line)
	go func() {
		for frames.send(frameBeat, nil) == nil {
			time.Sleep(beat)
		}
	}()

	stdin, input, err := os.Pipe()
	if err != nil {
		return err
	}
	acked := make(chan struct{})
	go receive(line, input, acked)

	status, err := guestRun(frames, stdin)
	if err != nil {
		err = frames.send(frameFailed, []byte(err.Error()))
	} else {
		err = frames.send(frameStatus, []byte{byte(status)})
	}
	if err != nil {
		return err
	}
	<-acked
	settle()
	return nil
}

// guestRun makes the root and runs the job in it.
func guestRun(frames *frameWriter, stdin *os.File) (status int, err error) {
	var job Job
	text, err := os.ReadFile("/" + initrdJob)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(text, &job); err != nil {
		return 0, err
	}
	if err := enterRoot(); err != nil {
		return 0, err
	}
	for i, share := range job.Shares {
		if err := mountShare(shareTag(i), share); err != nil {
			return 0, err
		}
	}
	// A machine without a loopback interface is still of use.
	_ = exec.Command("/sbin/ip", "link", "set", "lo", "up").Run()
	if err := copyFiles(job.Copies); err != nil {
		return 0, err
	}
	if err := frames.send(frameUp, nil); err != nil {
		return 0, err
	}
	return run(job, stdin, stream{frames, frameOut}, stream{frames, frameErr})
}

// receive takes the host's frames until the acknowledgement.
func receive(line io.Reader, input io.WriteCloser, acked chan<- struct{}) {
	defer close(acked)
	for frames := (&frameReader{r: line}); ; {
		kind, payload, err := frames.next()
		switch {
		case err != nil || kind == frameAck:
			return
		case kind == frameIn && len(payload) == 0:
			input.Close()
		case kind == frameIn:
			// The command may have closed its end.
			_, _ = input.Write(payload)
		}
	}
}

// mountKernel mounts the kernel's own file systems below root.
func mountKernel(root string) error {
	for _, m := range []struct{ kind, target string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"},
	} {
		if err := early.Mount(m.kind, m.kind, root+m.target, 0, ""); err != nil {
			return err
		}
	}
	return nil
}

// openPort waits for the port: its driver makes it when the host has answered.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		found, err := filepath.Glob(port)
		if err == nil && len(found) > 0 {
			return os.OpenFile(found[0], os.O_RDWR, 0)
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no %s", port)
		}
	}
}

// enterRoot mounts the disk and makes it the root.
func enterRoot() error {
	const disk, root = "/dev/vda", "/newroot"
	// The disk is a throw-away overlay: no access times, no background work.
	if err := early.Mount(disk, "ext4", root, unix.MS_NOATIME, "noinit_itable"); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := early.Mount("devpts", "devpts", "/dev/pts", 0, "ptmxmode=0666"); err != nil {
		return err
	}
	return mountMemory("")
}

// mountMemory mounts what is empty at every start.
func mountMemory(root string) error {
	for _, dir := range []string{"/dev/shm", "/tmp", "/run"} {
		if err := early.Mount("tmpfs", "tmpfs", root+dir, 0, "mode=1777,size=80%"); err != nil {
			return err
		}
	}
	return nil
}

func mountShare(tag string, share Share) error {
	options := "trans=virtio,version=9p2000.L,msize=512000"
	flags := uintptr(0)
	if !share.Writable {
		// What is read-only for the guest does not change under it either.
		options += ",cache=loose"
		flags = unix.MS_RDONLY
	}
	return early.Mount(tag, "9p", share.Target, flags, options)
}

// settle ends every process and makes the disk clean.
func settle() {
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	// A file still open for writing refuses the first attempts.
	for range 50 {
		if unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "") == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func copyFiles(copies []Copy) error {
	for _, c := range copies {
		if err := copyFile(c); err != nil {
			return fmt.Errorf("copying %s: %w", c.Source, err)
		}
	}
	return nil
}

func copyFile(c Copy) error {
	source, err := os.Open(c.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := os.MkdirAll(filepath.Dir(c.Target), 0o755); err != nil {
		return err
	}
	target, err := os.OpenFile(c.Target, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// shareTag is the mount tag of the share with that index in the job.
func shareTag(index int) string { return "share" + strconv.Itoa(index) }

// wait for the output of a command that has ended, but not for that of a
// process it left behind.
func waitOutput(output *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { output.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
	}
}

// lookPath finds a program in the PATH of an environment.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, variable := range env {
		list, found := strings.CutPrefix(variable, "PATH=")
		if !found {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			file := filepath.Join(dir, name)
			if unix.Access(file, unix.X_OK) == nil {
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("%s: %w in PATH", name, exec.ErrNotFound)
}
