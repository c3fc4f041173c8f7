package main

import (
	"context"

	"github.com/drzln/whiterun/internal/launch"
)

type manifestCmd struct {
	Ref string `arg:"" help:"A flake's attribute, a result link, or a store path."`
	machineFlags
}

// Run prints the manifest.
func (c *manifestCmd) Run(ctx context.Context, s *launch.Session) error {
	return s.Manifest(ctx, c.Ref, c.machine())
}
