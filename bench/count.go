package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// counts are what does not depend on how fast a machine is.
type counts struct {
	boot, end     snapshot // from the start, at the mark init and after the work
	memory        uint64   // resident beside the guest's memory, in bytes
	requests      uint64   // to the store, in the machine's whole life
	requestsKnown bool
}

// snapshot is what the host's kernel has counted.
type snapshot struct {
	exits uint64 // of vCPUs, to user space
	calls uint64 // system calls of the monitor's processes
	known bool
}

// take counts at the marks where it is asked for.
func (c *counts) take(mark string, t *tracer, pids []int, memoryMiB int) {
	switch {
	case t == nil:
	case mark == markInit:
		c.boot = t.read()
	case mark == markBig:
		c.end = t.read()
		for _, pid := range pids {
			file, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
			if err == nil {
				c.memory += residentBeside(string(file), uint64(memoryMiB)<<20)
			}
		}
	}
}

// residentBeside returns, of a process' smaps, the resident bytes of all mappings
// but those of the guest's memory, which are known by their size.
func residentBeside(smaps string, guest uint64) (resident uint64) {
	isGuest := false
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if first, last, found := strings.Cut(fields[0], "-"); found {
			begin, err1 := strconv.ParseUint(first, 16, 64)
			end, err2 := strconv.ParseUint(last, 16, 64)
			isGuest = err1 == nil && err2 == nil && end-begin >= guest/2 && end-begin <= guest
		} else if fields[0] == "Rss:" && !isGuest {
			kib, err := strconv.ParseUint(fields[1], 10, 64)
			if err == nil {
				resident += kib << 10
			}
		}
	}
	return resident
}

// Events of the host's kernel, in its tracing folder, and how they are counted.
const (
	tracing   = "/sys/kernel/tracing"
	exitEvent = "events/kvm/kvm_userspace_exit"
	callEvent = "events/raw_syscalls/sys_enter"
	trigger   = "hist:keys=common_pid"
)

// tracer counts events of the whole host. Of system calls it leaves out those of
// this process and of the host's init: nothing else runs there.
type tracer struct{ known bool }

// startTracer begins to count, from zero. A host that cannot is no error: there
// is then nothing to show.
func startTracer() *tracer {
	// It is mounted already in some machines.
	_ = unix.Mount("tracefs", tracing, "tracefs", 0, "")
	t := &tracer{known: true}
	for _, event := range []string{exitEvent, callEvent} {
		if err := setTrigger(event, trigger); err != nil {
			t.known = false
		}
	}
	return t
}

func (t *tracer) stop() {
	for _, event := range []string{exitEvent, callEvent} {
		// It may never have been set.
		_ = setTrigger(event, "!"+trigger)
	}
}

func setTrigger(event, text string) error {
	return os.WriteFile(filepath.Join(tracing, event, "trigger"), []byte(text), 0)
}

func (t *tracer) read() (s snapshot) {
	if !t.known {
		return s
	}
	exits, err1 := os.ReadFile(filepath.Join(tracing, exitEvent, "hist"))
	calls, err2 := os.ReadFile(filepath.Join(tracing, callEvent, "hist"))
	if err1 != nil || err2 != nil {
		return s
	}
	return snapshot{exits: sumHits(string(exits), nil), calls: sumHits(string(calls), threads(1, os.Getpid())), known: true}
}

// threads returns the threads of some processes.
func threads(pids ...int) map[string]bool {
	all := map[string]bool{}
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue
		}
		for _, task := range tasks {
			all[task.Name()] = true
		}
	}
	return all
}

// sumHits adds up a histogram by thread, such as
//
//	{ common_pid:       1234 } hitcount:         56
//
// but for some threads.
func sumHits(hist string, without map[string]bool) (total uint64) {
	for line := range strings.Lines(hist) {
		key, count, found := strings.Cut(line, "hitcount:")
		fields := strings.Fields(strings.NewReplacer("{", " ", "}", " ", ":", ": ").Replace(key))
		if !found || len(fields) != 2 || without[fields[1]] {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(count), 10, 64)
		if err == nil {
			total += n
		}
	}
	return total
}

// storeRequests finds in Whiterun's log how many requests its store device took.
func storeRequests(log []byte) (uint64, bool) {
	for lines := bufio.NewScanner(bytes.NewReader(log)); lines.Scan(); {
		var line struct {
			Message, Device string
			Requests        any
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Message != "virtqueue" || line.Device != "store" {
			continue
		}
		if n, ok := line.Requests.(float64); ok {
			return uint64(n), true
		}
	}
	return 0, false
}
