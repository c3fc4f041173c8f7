package main

import (
	"fmt"

	"github.com/drzln/whiterun/internal/launch"
	"github.com/drzln/whiterun/internal/version"
)

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s *launch.Session) error {
	_, err := fmt.Fprintln(s.Stdout, "whiterun", version.String())
	return err
}
