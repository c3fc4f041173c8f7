package hv

import (
	"errors"
	"fmt"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/x86"
)

// Check is one thing that a host needs to run machines.
type Check struct {
	Name   string
	OK     bool
	Detail string // what was found, or what is wrong and what to do
}

// Report is what Doctor found.
type Report struct {
	Checks []Check
}

// Doctor looks at the host's KVM; path is the device, "" for
// kvm.DefaultPath.
func Doctor(path string) Report {
	if path == "" {
		path = kvm.DefaultPath
	}
	var r Report
	system, err := kvm.Open(path)
	if err != nil {
		r.add("kvm", err, "")
		return r
	}
	defer func() { _ = system.Close() }()
	r.add("kvm", nil, path+" opens and has every capability that a machine needs")
	r.add("kernels", probe(system), "stock kernels run in it")
	r.add("vcpus", nil, fmt.Sprintf("up to %d in a machine", min(system.MaxVCPUs(), x86.MaxVCPUs)))
	var timer error
	if system.CheckExtension(kvm.CapTSCDeadlineTimer) == 0 {
		timer = errors.New("KVM has no TSC-deadline timer: guests have nothing to calibrate their clocks by")
	}
	r.add("timer", timer, "KVM has a TSC-deadline timer")
	return r
}

func (r *Report) add(name string, err error, found string) {
	c := Check{Name: name, OK: err == nil, Detail: found}
	if err != nil {
		c.Detail = err.Error()
	}
	r.Checks = append(r.Checks, c)
}
