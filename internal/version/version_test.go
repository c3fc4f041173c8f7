package version

import (
	"os"
	"strings"
	"testing"
)

func TestFlakeNamesTheSameVersion(t *testing.T) {
	flake, err := os.ReadFile("../../flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(flake), `version = "`+Number+`";`) {
		t.Errorf("flake.nix does not have the version %s", Number)
	}
	if got := String(); !strings.HasPrefix(got, Number) {
		t.Errorf("got %q", got)
	}
}
