package main

import (
	"time"

	"github.com/alecthomas/kong"

	"github.com/drzln/whiterun/internal/launch"
	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/store"
)

// machineFlags are what the user chooses of a machine, beside its system.
type machineFlags struct {
	Name   machineName `help:"The machine's name; by default that of the system." placeholder:"NAME" group:"machine"`
	Mem    memory      `help:"Memory: a number of MiB, or a size such as 512M or 2G." default:"1024" placeholder:"SIZE" group:"machine"`
	CPUs   cpus        `name:"cpus" help:"vCPUs: a number, or sockets=1,cores=2,threads=2." default:"1" placeholder:"N" group:"machine"`
	Append []string    `help:"Words to add at the end of the kernel command line; may be repeated." sep:"none" placeholder:"WORDS" group:"machine"`
}

func (f machineFlags) machine() store.Machine {
	return store.Machine{Name: string(f.Name), CPUs: manifest.CPUs(f.CPUs), MemoryBytes: uint64(f.Mem), Append: f.Append}
}

// runFlags are how a machine is run.
type runFlags struct {
	Console  string   `help:"Where the guest's console is: - for this terminal, or standard input and output; none; or a file that its output goes to." default:"-" placeholder:"-|none|FILE" group:"running"`
	Timeout  duration `help:"End the machine when it has run for this long, such as 90s or 5m (status 124)." placeholder:"DURATION" group:"running"`
	NoReboot bool     `help:"End, with status 133, when the guest asks for a reboot. Whiterun always does so." group:"running"`
	DryRun   bool     `help:"Do everything but start the machine, and print its manifest." group:"running"`
	KVM      string   `name:"kvm" help:"The KVM device." default:"/dev/kvm" placeholder:"PATH" hidden:""`
}

func (f runFlags) options() launch.RunOptions {
	return launch.RunOptions{Console: f.Console, Timeout: time.Duration(f.Timeout), DryRun: f.DryRun, KVM: f.KVM}
}

// The flags that are read with sentences of their own.
type (
	machineName string
	memory      uint64
	cpus        manifest.CPUs
	duration    time.Duration
)

func (n *machineName) UnmarshalText(text []byte) error {
	*n = machineName(text)
	return manifest.CheckName(string(text))
}

// Decode reads a size; kong calls it.
func (m *memory) Decode(ctx *kong.DecodeContext) error {
	text, err := popNumber(ctx, "size")
	if err != nil {
		return err
	}
	n, err := manifest.ParseSize(text)
	*m = memory(n)
	return err
}

// Decode reads a topology; kong calls it.
func (c *cpus) Decode(ctx *kong.DecodeContext) error {
	text, err := popNumber(ctx, "number")
	if err != nil {
		return err
	}
	parsed, err := manifest.ParseCPUs(text)
	*c = cpus(parsed)
	return err
}

// popNumber takes a flag's value. A negative number, which kong takes for a
// flag, is a value too: there is a better sentence for it.
func popNumber(ctx *kong.DecodeContext, what string) (string, error) {
	next, ok := ctx.Scan.Peek().Value.(string)
	if ok && len(next) > 1 && next[0] == '-' && next[1] >= '0' && next[1] <= '9' {
		ctx.Scan.Pop()
		return next, nil
	}
	var text string
	err := ctx.Scan.PopValueInto(what, &text)
	return text, err
}

func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := launch.ParseTimeout(string(text))
	*d = duration(parsed)
	return err
}
