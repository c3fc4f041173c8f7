package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/internal/early"
)

// namespaceName is argv[0] of the process that sets up the namespaces.
const namespaceName = "testbed-namespace"

// settingFD is where it reads its setting, as JSON.
const settingFD = 3

// setting is what the first process of the namespaces is told.
type setting struct {
	Root string
	Job  Job
	// HostMounts names the host's mount namespace, in which nothing may be mounted.
	HostMounts string
}

// mountNamespace returns the name of this process's mount namespace.
func mountNamespace() (string, error) { return os.Readlink("/proc/self/ns/mnt") }

// RealKVM tells whether this host's /dev/kvm can be opened and stands for
// hardware virtualisation. There are others, which do not boot stock kernels.
func RealKVM() bool {
	file, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	file.Close()
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && hasVirtualisation(string(info))
}

// hasVirtualisation looks for the CPU flags vmx and svm in /proc/cpuinfo.
func hasVirtualisation(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(value) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
	}
	return false
}

// NamespacesWork tells whether this process may make the namespaces that
// RunOnHost needs. A container often forbids it.
func NamespacesWork() bool {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = namespaces()
	return cmd.Run() == nil
}

// namespaces asks for mounts and process ids of its own, and, for an ordinary
// user, to be root among them.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// RunOnHost runs the job on this host, in the folder root as its root, and
// returns its exit status. What it writes is thrown away unless job.Keep. All
// its processes end with it, or with ctx.
func RunOnHost(ctx context.Context, root string, job Job, streams Streams) (status int, err error) {
	hostMounts, err := mountNamespace()
	if err != nil {
		return 0, err
	}
	text, err := json.Marshal(setting{root, job, hostMounts})
	if err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	go func() {
		// A reader that has gone shows in the process's own end.
		_, _ = w.Write(text)
		w.Close()
	}()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{namespaceName}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.In, streams.Out, streams.Err
	cmd.ExtraFiles = []*os.File{r} // settingFD
	cmd.SysProcAttr = namespaces()
	ended := make(chan error)
	go func() { ended <- runUnderThread(cmd) }()
	err = <-ended
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrMachine, err)
	}
	return 0, nil
}

// IsNamespace tells whether this process is to set up namespaces.
func IsNamespace() bool { return os.Args[0] == namespaceName }

// NamespaceMain is the life of the namespaces' first process. It never
// returns: it exits with the job's status, or with 125.
func NamespaceMain() {
	status, err := namespace()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		status = 125
	}
	os.Exit(status)
}

func namespace() (status int, err error) {
	var set setting
	file := os.NewFile(settingFD, "setting")
	if err := json.NewDecoder(file).Decode(&set); err != nil {
		return 0, err
	}
	file.Close()
	if err := checkNamespace(set.HostMounts); err != nil {
		return 0, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("making the mounts private: %w", err)
	}
	root, err := hostRoot(set)
	if err != nil {
		return 0, err
	}
	if err := early.Mount("proc", "proc", root+"/proc", 0, ""); err != nil {
		return 0, err
	}
	if err := bind("/sys", root+"/sys", false); err != nil {
		return 0, err
	}
	if err := makeDev(root + "/dev"); err != nil {
		return 0, err
	}
	if err := mountMemory(root); err != nil {
		return 0, err
	}
	for _, share := range set.Job.Shares {
		if err := bind(share.Source, filepath.Join(root, share.Target), share.Writable); err != nil {
			return 0, err
		}
	}
	if err := unix.Chroot(root); err != nil {
		return 0, err
	}
	if err := copyFiles(set.Job.Copies); err != nil {
		return 0, err
	}
	pid, err := start(set.Job, []*os.File{os.Stdin, os.Stdout, os.Stderr}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testbed:", err)
		return statusNoCommand, nil
	}
	return reap(pid)
}

// checkNamespace makes sure that what this process mounts is its own: a mount
// on the host would outlive it, and lay the host open to whoever tidies up.
func checkNamespace(hostMounts string) error {
	mounts, err := mountNamespace()
	if err != nil {
		return err
	}
	if mounts == hostMounts || os.Getpid() != 1 {
		return fmt.Errorf("not in namespaces of its own: process %d, %s", os.Getpid(), mounts)
	}
	return nil
}

// hostRoot returns the folder to be the root: the given one itself, or an
// overlay on it whose writable half is in memory.
func hostRoot(set setting) (string, error) {
	if set.Job.Keep {
		return set.Root, bind(set.Root, set.Root, true)
	}
	memory := set.Root + "/run"
	if err := early.Mount("tmpfs", "tmpfs", memory, 0, "mode=0755"); err != nil {
		return "", err
	}
	for _, dir := range []string{"/upper", "/work"} {
		if err := os.Mkdir(memory+dir, 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", set.Root, memory, memory)
	return memory + "/root", early.Mount("overlay", "overlay", memory+"/root", 0, options)
}

// makeDev makes a /dev with the few devices a test needs. The host's own is
// out of the command's reach.
func makeDev(dev string) error {
	if err := early.Mount("tmpfs", "tmpfs", dev, 0, "mode=0755"); err != nil {
		return err
	}
	for _, name := range []string{
		"null", "zero", "full", "random", "urandom", "tty", "kvm", "fuse", "net/tun", "vhost-net", "vhost-vsock",
	} {
		if _, err := os.Stat("/dev/" + name); err != nil {
			continue // this host has none
		}
		node := filepath.Join(dev, name)
		if err := os.MkdirAll(filepath.Dir(node), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(node, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, node, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting /dev/%s: %w", name, err)
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	return early.Mount("devpts", "devpts", dev+"/pts", 0, "newinstance,ptmxmode=0666")
}

func bind(source, target string, writable bool) error {
	if err := early.Mount(source, "", target, unix.MS_BIND|unix.MS_REC, ""); err != nil || writable {
		return err
	}
	// Flags that the mount has already may not be taken away in a user namespace.
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return err
	}
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME
	flags := uintptr(fs.Flags)&kept | unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
	if err := unix.Mount("", target, "", flags, ""); err != nil {
		return fmt.Errorf("making %s read-only: %w", target, err)
	}
	return nil
}
