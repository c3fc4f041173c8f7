package main

import (
	"context"

	"github.com/drzln/whiterun/internal/launch"
)

type runCmd struct {
	Manifest string `arg:"" help:"A manifest, as whiterun manifest prints it."`
	runFlags
}

// Run boots the manifest.
func (c *runCmd) Run(ctx context.Context, s *launch.Session) error {
	return s.Run(ctx, c.Manifest, c.options())
}
