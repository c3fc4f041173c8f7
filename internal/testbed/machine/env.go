package machine

import (
	"os"
	"strings"
)

// BaseEnv returns the environment every command in the machine has.
func BaseEnv() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "LANG=C.UTF-8", "TERM=" + terminal(),
	}
}

func terminal() string {
	if term := os.Getenv("TERM"); term != "" {
		return term
	}
	return "dumb"
}

// PassedEnv returns those variables of an environment that go along: the
// project's own and the Go runtime's and test tool's, but none that says where
// something is on the host.
func PassedEnv(environ []string) (passed []string) {
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch {
		case strings.HasPrefix(name, "WHITERUN_TESTBED"), name == "WHITERUN_BIN",
			name == "GOROOT", name == "GOPATH", name == "GOCACHE", name == "GOMODCACHE", name == "GOBIN":
		case strings.HasPrefix(name, "WHITERUN_"), strings.HasPrefix(name, "GO"):
			passed = append(passed, variable)
		}
	}
	return passed
}
