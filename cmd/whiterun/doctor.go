package main

import (
	"context"

	"github.com/drzln/whiterun/internal/launch"
)

type doctorCmd struct {
	JSON bool   `name:"json" help:"Print the checks as JSON."`
	KVM  string `name:"kvm" help:"The KVM device." default:"/dev/kvm" placeholder:"PATH" hidden:""`
}

// Run prints the checks.
func (c *doctorCmd) Run(ctx context.Context, s *launch.Session) error {
	return s.Doctor(ctx, c.KVM, c.JSON)
}
