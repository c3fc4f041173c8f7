// Command bench measures Whiterun beside its peers: QEMU's microvm with the
// store on 9P, and with virtiofsd. It runs in the testbed (make bench): the same
// kernel, initrd, system and data for all, in one outer machine, one guest at a
// time, in turn.
//
// The binary has three lives: here it measures; as /init of the guest's initrd
// it is stage 1, and as the init in the guest's store it is the system, which
// does the work that is timed (guest.go).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/drzln/whiterun/internal/testbed"
)

func main() {
	if isGuest() {
		guestMain()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	rounds  int
	kernel  string
	out     string
	only    string
	memory  int // of the guest, in MiB
	timeout time.Duration
	verbose bool
}

func bench(ctx context.Context, args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&o.rounds, "n", 3, "measured `rounds`, after one that counts and is not timed")
	flags.StringVar(&o.kernel, "kernel", "6.1", "the guest's kernel `version`: 6.1 or 6.12")
	flags.StringVar(&o.out, "out", "", "write the tables to `file` instead of standard output")
	flags.StringVar(&o.only, "only", "", "measure only the peers whose name contains `text`, and whiterun")
	flags.IntVar(&o.memory, "mem", 512, "the guest's memory in `MiB`")
	flags.DurationVar(&o.timeout, "timeout", 3*time.Minute, "give one guest up after this `duration`")
	flags.BoolVar(&o.verbose, "v", false, "show what each guest and its monitor print")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || o.rounds < 1 {
		return fmt.Errorf("usage: bench [-n ROUNDS] [-kernel VERSION] [-out FILE]")
	}
	// It mounts over /nix/store: in no machine that is somebody's.
	if !testbed.Inside() {
		return fmt.Errorf("this runs in the testbed: make bench")
	}
	whiterun := os.Getenv("WHITERUN_BIN")
	if whiterun == "" {
		return fmt.Errorf("no whiterun binary: run make build first")
	}
	scratch, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	say("making the system and its data")
	sys, err := makeSystem(ctx, scratch, o.kernel)
	if err != nil {
		return fmt.Errorf("make the system: %w", err)
	}
	host := setup{system: sys, whiterun: whiterun, scratch: scratch, memory: o.memory}
	if err := host.writeManifest(ctx); err != nil {
		return err
	}
	results, err := measure(ctx, host, selectPeers(peers(), o.only), o)
	if err != nil {
		return err
	}
	out := io.Writer(os.Stdout)
	if o.out != "" {
		file, err := os.Create(o.out)
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	_, err = io.WriteString(out, report(ctx, host, results, o))
	return err
}

// selectPeers returns the peers whose name contains text, and the first, which
// the others are compared with and which unpacks the kernel for them.
func selectPeers(all []peer, text string) []peer {
	var chosen []peer
	for i, p := range all {
		if i == 0 || strings.Contains(p.name, text) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

// measure runs each peer in turn: once to count, which also brings programs and
// files into the host's memory, then o.rounds times to time. Before all that, the
// first unpacks the kernel.
func measure(ctx context.Context, host setup, peers []peer, o options) ([]result, error) {
	results := make([]result, len(peers))
	if _, err := runPeer(ctx, host, peers[0], false, o); err != nil {
		say("a first run of %s: %v", peers[0].name, err)
	}
	for round := range o.rounds + 1 {
		for i, p := range peers {
			results[i].peer = p
			counting := round == 0
			run, err := runPeer(ctx, host, p, counting, o)
			if err != nil && ctx.Err() == nil {
				// The emulated machine loses a guest now and then; that must cost no figure.
				results[i].failed++
				say("round %d: %s: %v; once more", round, p.name, err)
				run, err = runPeer(ctx, host, p, counting, o)
			}
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case err != nil:
				results[i].failed++
				say("round %d: %s: %v", round, p.name, err)
				continue
			case counting:
				results[i].counts = run.counts
			default:
				results[i].add(run)
			}
			say("round %d: %s: %s", round, p.name, run)
		}
	}
	for _, r := range results {
		if len(r.start) == 0 {
			return nil, fmt.Errorf("%s never ran to its end", r.peer.name)
		}
	}
	return results, nil
}

// report says what was measured, in Markdown.
func report(ctx context.Context, host setup, results []result, o options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Guest: Linux %s, 1 vCPU, %d MiB; the store: %d files and folders, of which %d small files of %.1f MB are read, then one file of %.1f MB. "+
		"Seconds, median of %d rounds (least–most); × is the ratio to the first line.\n\n",
		host.version, o.memory, host.nodes, smallFiles, float64(smallBytes())/1e6, float64(bigBytes)/1e6, o.rounds)
	b.WriteString(timeTable(results).markdown())
	b.WriteString("\nCounted in one more round, which is not timed. Exits are those to user space; system calls are of all the monitor's processes; " +
		"memory is what they have resident beside the guest's own, after the work.\n\n")
	b.WriteString(countTable(results).markdown())
	b.WriteByte('\n')
	for _, line := range versions(ctx, host) {
		fmt.Fprintf(&b, "* %s\n", line)
	}
	for _, r := range results {
		if r.failed > 0 {
			fmt.Fprintf(&b, "* %s: %d of its runs failed, and are left out.\n", r.peer.name, r.failed)
		}
	}
	return b.String()
}

// say tells what goes on, on standard error.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

// firstLine returns the first line of a program's output.
func firstLine(output []byte) string {
	line, _, _ := strings.Cut(string(output), "\n")
	return strings.TrimSpace(line)
}

// in joins a name to the scratch folder's.
func (s setup) in(name string) string { return filepath.Join(s.scratch, name) }
