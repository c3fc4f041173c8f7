package prepare

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestKeep(t *testing.T) {
	tests := []struct {
		name string
		want bool
	}{
		{"usr/bin/nix", true},
		{"usr/share/doc/nix/copyright", false},
		{"boot/vmlinuz-6.1.0-1-amd64", true},
		{"lib/modules/6.1.0-1-amd64/modules.builtin", true},
		{"lib/modules/6.1.0-1-amd64/kernel/fs/9p/9p.ko", true},
		{"usr/lib/modules/6.12.1-amd64/kernel/fs/9p/9p.ko.xz", true},
		{"lib/modules/6.1.0-1-amd64/kernel/drivers/gpu/drm/drm.ko", false},
		{"lib/modules/6.1.0-1-amd64/kernel/drivers/crypto/ccp/ccp.ko", true},
		{"lib/modules/6.1.0-1-amd64/kernel/drivers/net/wireless/x.ko", false},
		{"lib/modules/6.1.0-1-amd64/kernel/drivers/net/tun.ko", true},
	}
	for _, test := range tests {
		if got := keep(test.name); got != test.want {
			t.Errorf("%s: %t", test.name, got)
		}
	}
}

func TestMountBelow(t *testing.T) {
	const info = `22 27 0:21 / /proc rw,relatime - proc proc rw
42 27 254:0 /x /cache/host-1.partial rw,relatime - ext4 /dev/vda rw
43 42 0:39 / /cache/host-2.partial/dev rw,relatime shared:2 - devtmpfs devtmpfs rw
44 42 0:39 / /cache/with\040space/dev rw,relatime - devtmpfs devtmpfs rw
`
	tests := []struct{ path, want string }{
		{"/cache/host-1.partial", "/cache/host-1.partial"},
		{"/cache/host-2.partial", "/cache/host-2.partial/dev"},
		{"/cache/host", ""},
		{"/cache/host-2", ""},
		{"/cache/with space", `/cache/with\040space/dev`},
		{"/cache", "/cache/host-1.partial"},
	}
	for _, test := range tests {
		if got := mountBelow(info, test.path); got != test.want {
			t.Errorf("%s: got %q, want %q", test.path, got, test.want)
		}
	}
}

func TestOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "part")
	failed := errors.New("no")
	err := once(path, func(path string) error {
		return errors.Join(failed, os.WriteFile(path, nil, 0o644))
	})
	if !errors.Is(err, failed) {
		t.Fatalf("got %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 0 {
		t.Errorf("a failed build left %v", entries)
	}
	builds := 0
	for range 2 {
		err := once(path, func(path string) error {
			builds++
			return os.Mkdir(path, 0o755)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if builds != 1 {
		t.Errorf("built %d times", builds)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * stale)
	for _, name := range []string{"lock", "roots-1", "roots-old", "image" + partial} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"lock", "roots-old"} {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir); err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if want := []string{"lock", "roots-1"}; !slices.Equal(names, want) {
		t.Errorf("left %v, want %v", names, want)
	}
}

func TestTreeKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	seen := map[string]string{}
	step := func(what string, change func() error) {
		t.Helper()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		key, err := treeKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		if before, found := seen[key]; found {
			t.Errorf("%s made no difference to %s", what, before)
		}
		seen[key] = what
	}
	step("nothing", func() error { return nil })
	step("a file", func() error { return os.WriteFile(file, nil, 0o644) })
	step("its content", func() error { return os.WriteFile(file, []byte("x"), 0o644) })
	step("an execute bit", func() error { return os.Chmod(file, 0o755) })
	step("a folder", func() error { return os.Mkdir(filepath.Join(dir, "folder"), 0o755) })
	step("a link", func() error { return os.Symlink("file", filepath.Join(dir, "link")) })
	if err := os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if key, _ := treeKey(dir); seen[key] == "" {
		t.Error("a time made a difference")
	}
}

func TestKeyTellsTextsApart(t *testing.T) {
	if key("ab", "c") == key("a", "bc") {
		t.Error("the same key for different texts")
	}
}

func TestCompareVersions(t *testing.T) {
	versions := []string{"6.12.107+deb13-amd64", "6.1.0-50-amd64", "5.10.0-1-amd64"}
	slices.SortFunc(versions, compareVersions)
	if versions[0] != "5.10.0-1-amd64" || versions[2] != "6.12.107+deb13-amd64" {
		t.Errorf("sorted %v", versions)
	}
}
