package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/internal/early"
)

// Words of the guest's command line.
const (
	wordStore = "bench.store=" // the store's transport: 9p or virtiofs
	wordWork  = "bench.work="  // the data's folder, or nothing for a guest that only boots
)

// storeOptions are the mount options of each transport: the same ones for
// every monitor that has it. virtiofs has none; its cache is virtiofsd's affair.
var storeOptions = map[string]string{
	"9p":       "trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any",
	"virtiofs": "",
}

// storeTag is the mount tag of the store.
const storeTag = "nix-store"

// isGuest tells whether this process is the first one of a guest.
func isGuest() bool { return os.Getpid() == 1 && filepath.Base(os.Args[0]) == "init" }

// guestMain is the guest's init: stage 1 in the initrd, stage 2 in the store.
// It never returns.
func guestMain() {
	stage := stage2
	if os.Args[0] == "/init" {
		stage = stage1
	}
	if err := stage(); err != nil {
		fmt.Println(markPrefix+"failed:", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// stage1 leads from the initrd to the command line's init in the store.
func stage1() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := early.Mount(m[0], m[0], m[1], 0, ""); err != nil {
			return err
		}
	}
	if err := early.LoadModules("/modules"); err != nil {
		return err
	}
	// The console came with a driver: what the kernel opened is none.
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup2(int(console.Fd()), fd); err != nil {
			return err
		}
	}
	words, err := commandLine()
	if err != nil {
		return err
	}
	const root = "/root"
	if err := early.Mount("root", "tmpfs", root, 0, "mode=0755"); err != nil {
		return err
	}
	kind := words[wordStore]
	if err := early.Mount(storeTag, kind, root+"/nix/store", unix.MS_RDONLY, storeOptions[kind]); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, root+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := errors.Join(os.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), os.Chdir("/")); err != nil {
		return fmt.Errorf("switch to the new root: %w", err)
	}
	init := words["init="]
	return fmt.Errorf("start %s: %w", init, unix.Exec(init, []string{init}, nil))
}

// stage2 tells that it runs, does the work and powers off.
func stage2() error {
	mark(markInit, tally{})
	words, err := commandLine()
	if err != nil {
		return err
	}
	if data := words[wordWork]; data != "" {
		for _, w := range work(storeDir, data) {
			done, err := w.do()
			if err != nil {
				return fmt.Errorf("%s: %w", w.mark, err)
			}
			mark(w.mark, done)
		}
		// Time for the host to look at the monitor.
		time.Sleep(time.Second)
	}
	mark(markEnd, tally{})
	return nil
}

// mark tells the host that something is over. The host's clock times it.
func mark(name string, t tally) { fmt.Println(formatMark(name, t)) }

// commandLine returns the kernel command line's words that matter here, by
// what they begin with, up to and with the equals sign.
func commandLine() (map[string]string, error) {
	text, err := os.ReadFile("/proc/cmdline")
	return parseWords(string(text)), err
}

func parseWords(text string) map[string]string {
	words := map[string]string{}
	for _, word := range strings.Fields(text) {
		if name, value, found := strings.Cut(word, "="); found {
			words[name+"="] = value
		}
	}
	return words
}
