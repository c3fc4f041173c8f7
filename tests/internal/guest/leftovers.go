package guest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// host is what whiterun may leave behind on this side: each set by what it is
// called in a message.
type host map[string]map[string]bool

// observe looks at the processes, the garbage collector's roots, and the
// kernel cache's unfinished files. The testbed has process ids of its own, so that
// all processes are the test's.
func observe(t testing.TB) host {
	t.Helper()
	return host{
		"process":         processes(),
		"GC root":         files("/nix/var/nix/gcroots/auto/*"),
		"unfinished file": files(filepath.Join(cacheFolder(t), ".*")),
	}
}

// compare fails the test for everything that has come since. What was just
// killed may need a moment to go.
func (before host) compare(t testing.TB) {
	t.Helper()
	var news []string
	for range 40 {
		news = before.news(t)
		if len(news) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("whiterun left behind:\n%s", strings.Join(news, "\n"))
}

func (before host) news(t testing.TB) (news []string) {
	t.Helper()
	for kind, now := range observe(t) {
		for _, what := range slices.Sorted(maps.Keys(now)) {
			if !before[kind][what] {
				news = append(news, kind+" "+what)
			}
		}
	}
	return news
}

// processes returns all processes but the kernel's own threads, which come and go.
func processes() map[string]bool {
	all := make(map[string]bool)
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		stat, err := os.ReadFile(folder + "/stat")
		if err != nil {
			continue // it has just ended
		}
		// pid (name) state parent …: kernel threads are children of process 2.
		_, after, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(after)
		if len(fields) < 2 || fields[1] == "2" || folder == "/proc/2" {
			continue
		}
		commandLine, _ := os.ReadFile(folder + "/cmdline")
		all[fmt.Sprintf("%s %s", filepath.Base(folder), strings.ReplaceAll(string(commandLine), "\x00", " "))] = true
	}
	return all
}

func files(pattern string) map[string]bool {
	all := make(map[string]bool)
	names, _ := filepath.Glob(pattern)
	for _, name := range names {
		all[name] = true
	}
	return all
}

func cacheFolder(t testing.TB) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "whiterun")
}

// isEmpty fails the test for everything in a folder.
func isEmpty(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		t.Errorf("whiterun left behind: %s", filepath.Join(dir, entry.Name()))
	}
}

// privateFolder makes a folder with the empty folders tmp and run, for any user.
func privateFolder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "whiterun-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"", "tmp", "run"} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(name, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
