package main

import (
	"context"

	"github.com/drzln/whiterun/internal/launch"
)

type directCmd struct {
	Kernel string   `help:"A bzImage or an ELF vmlinux." placeholder:"FILE" group:"machine"`
	Initrd []string `help:"An initrd; may be repeated, and they are loaded in this order." sep:"none" placeholder:"FILE" group:"machine"`
	Rootfs string   `help:"A built toplevel, such as a result link to it." placeholder:"LINK" group:"machine"`
	machineFlags
	runFlags
}

// Run boots the files.
func (c *directCmd) Run(ctx context.Context, s *launch.Session) error {
	machine := c.machine()
	machine.Kernel, machine.Initrds = c.Kernel, c.Initrd
	return s.Direct(ctx, c.Rootfs, machine, c.options())
}
