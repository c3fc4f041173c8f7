package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/drzln/whiterun/hv"
	"github.com/drzln/whiterun/store"
)

// statusUnhealthy is the doctor's exit status for a host that lacks something.
const statusUnhealthy = 1

// check is one thing that the doctor looked at.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Doctor prints what this host has and lacks, as a table or as JSON. It returns
// an End with a status other than 0 when it lacks something.
func (s *Session) Doctor(ctx context.Context, kvm string, asJSON bool) error {
	var checks []check
	for _, c := range hv.Doctor(kvm).Checks {
		checks = append(checks, check{c.Name, c.OK, c.Detail})
	}
	checks = append(checks, s.checkNix(ctx), checkStore(), checkCache())
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	lacking := 0
	for _, c := range checks {
		if !c.OK {
			lacking++
		}
	}
	print := s.table
	if asJSON {
		print = s.json
	}
	if err := print(checks, lacking == 0); err != nil {
		return fmt.Errorf("print the checks: %w", err)
	}
	if lacking > 0 {
		return &End{statusUnhealthy, fmt.Sprintf("%d of %d checks failed", lacking, len(checks))}
	}
	return nil
}

func (s *Session) table(checks []check, _ bool) error {
	w := tabwriter.NewWriter(s.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range checks {
		mark := "ok"
		if !c.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", mark, c.Name, c.Detail)
	}
	return w.Flush()
}

func (s *Session) json(checks []check, ok bool) error {
	e := json.NewEncoder(s.Stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		OK     bool    `json:"ok"`
		Checks []check `json:"checks"`
	}{ok, checks})
}

func (s *Session) checkNix(ctx context.Context) check {
	version, err := s.nix().Version(ctx)
	if err != nil {
		return check{"nix", false, err.Error() + ": only `whiterun run` works without it"}
	}
	return check{"nix", true, version}
}

func checkStore() check {
	dir := store.Dir()
	switch _, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return check{"store", true, dir + " does not exist yet: nix makes it"}
	case err != nil:
		return check{"store", false, err.Error()}
	}
	return check{"store", true, dir}
}

// checkCache makes the cache folder, as a boot would, and a file in it.
func checkCache() check {
	dir := cacheDir()
	if dir == "" {
		return check{"cache", false, "neither XDG_CACHE_HOME nor HOME is set: every boot decompresses its kernel again"}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return check{"cache", false, err.Error()}
	}
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return check{"cache", false, strings.TrimSpace(err.Error())}
	}
	f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return check{"cache", false, err.Error()}
	}
	return check{"cache", true, filepath.Clean(dir)}
}
