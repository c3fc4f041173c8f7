package main

import (
	"context"

	"github.com/drzln/whiterun/internal/launch"
)

type bootCmd struct {
	Ref string `arg:"" help:"A flake's attribute, a result link, or a store path."`
	machineFlags
	runFlags
}

// Run boots the reference.
func (c *bootCmd) Run(ctx context.Context, s *launch.Session) error {
	return s.Boot(ctx, c.Ref, c.machine(), c.options())
}
