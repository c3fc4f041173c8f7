// Package boot boots the test system with real kernels and holds what the guest
// sees against the host.
package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// shape is what a guest is asked to be.
type shape struct {
	system, cpus, mem string
}

// args returns the flags for a shape, and the probes the guest is to run.
func (s shape) args(probes ...string) []string {
	return []string{"--cpus", s.cpus, "--mem", s.mem, "--append", "whiterun.test=" + strings.Join(probes, ",")}
}

// storeProbes is all that is to be known about the store. The readers come first:
// they are to find nothing in the guest's page cache.
var storeProbes = []string{"readers:100", "checksum", "tree", "list", "count", "writes", "writes:remounted"}

func TestBoot(t *testing.T) {
	for _, c := range []struct {
		shape
		store bool
	}{
		{shape{"vm-6_1", "1", "256"}, true},
		{shape{"vm-6_12", "2", "1G"}, true},
		{shape{"vm-6_12", "4", "6G"}, false},
	} {
		t.Run(fmt.Sprintf("%s,cpus=%s,mem=%s", c.system, c.cpus, c.mem), func(t *testing.T) {
			probes := []string{"machine"}
			if c.store {
				probes = append(probes, storeProbes...)
			}
			r := guest.Boot(t, testbed.Reference(t, testbed.Test, c.system), c.args(probes...)...)
			r.Ended(t, 0, "the guest powered off")
			checkMachine(t, r, c.shape)
			if c.store {
				checkStore(t, r, testbed.System(t, testbed.Test, c.system))
			}
		})
	}
}

// checkMachine holds what the guest says of itself against what was asked for.
func checkMachine(t *testing.T, r guest.Result, s shape) {
	t.Helper()
	if want := "kernel       " + strings.ReplaceAll(strings.TrimPrefix(s.system, "vm-"), "_", ".") + "."; !strings.Contains(r.Console, want) {
		t.Errorf("the guest does not say %q", want)
	}
	init := filepath.Join(testbed.System(t, testbed.Test, s.system), "init")
	if !strings.Contains(r.Console, "init         "+init+"\n") || !regexp.MustCompile(`store +[0-9]+ paths, 9p\n`).MatchString(r.Console) {
		t.Errorf("the guest does not say that it runs %s from 9p", init)
	}
	machine := r.Probe(t, "machine")
	if got, want := topology(machine), asked(t, s.cpus); !slices.Equal(got, want) {
		t.Errorf("/proc/cpuinfo shows the processors\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	kernel := number(t, machine, `MemTotal: +([0-9]+) kB`) >> 10
	mem := mebibytes(t, s.mem)
	// The kernel takes its part: some 60 MiB, 1/64 of the whole for the page
	// structures, and, with RAM above 4 GiB, another 64 MiB of bounce buffers.
	if least := mem - mem/32 - 64; kernel < least || kernel > mem {
		t.Errorf("the guest sees %d MiB of %d", kernel, mem)
	}
}

// topology returns a line for each processor of /proc/cpuinfo.
func topology(machine string) (all []string) {
	for _, block := range strings.Split(machine, "processor\t: ")[1:] {
		id, _, _ := strings.Cut(block, "\n")
		line := "processor " + id
		for _, name := range []string{"physical id", "siblings", "core id", "cpu cores"} {
			if m := regexp.MustCompile(`(?m)^` + name + `\s*: ([0-9]+)$`).FindStringSubmatch(block); m != nil {
				line += fmt.Sprintf(", %s %s", name, m[1])
			}
		}
		all = append(all, line)
	}
	return all
}

// asked returns what topology returns for a machine with --cpus text.
func asked(t *testing.T, text string) (all []string) {
	t.Helper()
	sockets, cores, threads := 1, 1, 1
	if n, err := strconv.Atoi(text); err == nil {
		cores = n
	} else if _, err := fmt.Sscanf(text, "sockets=%d,cores=%d,threads=%d", &sockets, &cores, &threads); err != nil {
		t.Fatal(err)
	}
	for socket := range sockets {
		for core := range cores {
			for range threads {
				all = append(all, fmt.Sprintf("processor %d, physical id %d, siblings %d, core id %d, cpu cores %d",
					len(all), socket, cores*threads, core, cores))
			}
		}
	}
	return all
}

// mebibytes reads what --mem is given here.
func mebibytes(t *testing.T, text string) int {
	t.Helper()
	unit := 1
	if digits, ok := strings.CutSuffix(text, "G"); ok {
		text, unit = digits, 1024
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n * unit
}

// number returns the number that a pattern finds.
func number(t *testing.T, in, pattern string) int {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(in)
	if m == nil {
		t.Errorf("no %s in:\n%s", pattern, in)
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Error(err)
	}
	return n
}

// checkStore holds the store that the guest sees against the host's.
func checkStore(t *testing.T, r guest.Result, toplevel string) {
	t.Helper()
	closure := guest.Closure(t, toplevel)
	checkContents(t, closure)
	for _, name := range []string{"checksum", "tree"} {
		if got, want := r.Probe(t, name), guest.OnHost(t, name, closure...); got != want {
			t.Errorf("%s: the guest has %q, the host %q", name, got, want)
		}
	}
	if got, want := r.Probe(t, "readers"), strings.Replace(guest.OnHost(t, "readers", "1"), "readers 1\n", "readers 100\n", 1); got != want {
		t.Errorf("readers: the guest says %q, want %q", got, want)
	}

	var names []string
	for _, path := range closure {
		names = append(names, filepath.Base(path))
	}
	slices.Sort(names)
	if got := strings.Fields(r.Probe(t, "list")); !slices.Equal(got, names) {
		t.Errorf("the guest's store has %q, the closure %q", got, names)
	}
	if got, want := r.Probe(t, "count"), "listed 10000\ndistinct 10000\nhidden too 10001\nfound by name\n"; got != want {
		t.Errorf("count: got %q, want %q", got, want)
	}

	// Two runs: the guest's kernel refuses, and with its guard off the server does.
	_, second, _ := strings.Cut(r.Console, "--- writes ends")
	for run, console := range []string{r.Console, second} {
		output, ok := testbed.ProbeOutput(console, "writes")
		if !ok || strings.Count(output, "refused: ") != 16 || !strings.HasSuffix(output, "not refused 0\n") {
			t.Errorf("writes, run %d: got %q", run+1, output)
		}
	}
	if strings.Count(r.Console, "--- writes begins") != 2 {
		t.Error("writes did not run twice")
	}
}

// checkContents makes sure that the closure holds what the probes are to find
// wrong: files that end just behind a page boundary, at the sizes at which
// clients have shown zeros, and a folder of 10,000.
func checkContents(t *testing.T, closure []string) {
	t.Helper()
	tails := map[int64]int{}
	most := 0
	for _, path := range closure {
		err := filepath.WalkDir(path, func(name string, entry os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() {
				entries, err := os.ReadDir(name)
				most = max(most, len(entries))
				return err
			}
			if info, err := entry.Info(); err != nil {
				return err
			} else if info.Mode().IsRegular() {
				tails[info.Size()%4096]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tail := range []int64{0, 1, 655, 1023, 1024, 1025, 4095} {
		if tails[tail] < 5 {
			t.Errorf("the closure has %d files of n·4096+%d bytes, want some", tails[tail], tail)
		}
	}
	if most < 10_000 {
		t.Errorf("the largest folder has %d entries, want 10000", most)
	}
}
