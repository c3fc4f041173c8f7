package ends

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drzln/whiterun/internal/testbed"
	"github.com/drzln/whiterun/tests/internal/guest"
)

// things are attributes that are no system.
const things = `
	string = "hello";
	number = 7;
	function = x: x;
	set = { one = 1; two = 2; };
	package = derivation {
	  name = "hello-1.0";
	  system = "x86_64-linux";
	  builder = "/bin/sh";
	  args = [ "-c" "echo hello >$out" ];
	};
	broken = derivation {
	  name = "nixos-system-broken";
	  system = "x86_64-linux";
	  builder = "/bin/sh";
	  args = [ "-c" "echo it does not compile >&2; exit 1" ];
	};
	container.config.system.build.toplevel = derivation {
	  name = "nixos-system-container-26.05";
	  system = "x86_64-linux";
	  builder = "/bin/sh";
	  args = [ "-c" "mkdir $out; echo x >$out/init" ];
	  PATH = "/usr/bin:/bin";
	};
	throws = throw "not in this house";
`

// References and store paths that lead nowhere, asked of a real nix.
func TestBadReference(t *testing.T) {
	ref := flake(t, things)
	notAFlake := t.TempDir()
	collected := addToStore(t, "nixos-system-collected-1.0", "was here")
	link := filepath.Join(t.TempDir(), "result")
	if err := os.Symlink(collected, link); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nix-store", "--delete", collected).CombinedOutput(); err != nil {
		t.Fatalf("delete %s: %v: %s", collected, err, out)
	}
	text := addToStore(t, "text", "no system")
	for _, c := range []struct{ ref, why string }{
		{"path:" + notAFlake + "#vm", "there is no flake at path:" + notAFlake},
		{notAFlake, "holds no flake.nix"},
		{ref("missing"), "names nothing: the flake path:"},
		{ref("string"), "is not a system: it is a string"},
		{ref("number"), "is not a system: it is an integer"},
		{ref("function"), "is not a system: it is a function"},
		{ref("set"), "is not a system: it is a set with the attributes one, two"},
		{ref("package"), "is not a system: it is a derivation named hello-1.0 that holds no kernel"},
		{ref("broken"), "cannot be built"},
		{ref("throws"), "cannot be evaluated"},
		{ref("container"), "cannot be booted: its toplevel holds no kernel"},
		{text, "is not a system: it is a store path named text that holds no kernel"},
		{collected, collected + " is not in the store, and nix cannot fetch it"},
		{link, "which does not exist"},
		{"/nix/store/" + strings.Repeat("0", 32) + "-never", "is not in the store, and nix cannot fetch it"},
	} {
		t.Run(strings.ReplaceAll(filepath.Base(c.ref), "#", " "), func(t *testing.T) {
			r := guest.Boot(t, c.ref)
			r.Ended(t, 125, c.why)
			if r.Console != "" {
				t.Errorf("standard output has %q", r.Console)
			}
		})
	}
}

// addToStore adds a file with this name and text to the store.
func addToStore(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("nix-store", "--add", file).Output()
	if err != nil {
		t.Fatalf("add %s to the store: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// Kernels that are none, on a host that could run one.
func TestBadKernel(t *testing.T) {
	good, err := os.ReadFile(testbed.Kernels(t)[0])
	if err != nil {
		t.Fatal(err)
	}
	// The boot protocol's 0x236 is xloadflags; bit 0 says that there is a 64-bit
	// entry. A kernel without has a payload of a 32-bit ELF.
	thirtyTwo := bytes.Clone(good)
	thirtyTwo[0x236] &^= 1
	initrd := filepath.Join(testbed.System(t, testbed.Test, "vm-6_1"), "initrd")
	dir := t.TempDir()
	for _, c := range []struct {
		name  string
		image []byte
		why   string
	}{
		{"text", []byte(strings.Repeat("this is no kernel\n", 1000)), "not a Linux kernel for x86_64"},
		{"empty", nil, "not a Linux kernel"},
		{"truncated", good[:len(good)/2], "truncated"},
		{"header only", good[:0x300], "truncated"},
		{"32-bit", thirtyTwo, "32-bit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(dir, c.name)
			if err := os.WriteFile(file, c.image, 0o644); err != nil {
				t.Fatal(err)
			}
			guest.Run(t, "--kernel", file, "--initrd", initrd).Ended(t, 125, c.why)
		})
	}
}

func TestBadFiles(t *testing.T) {
	kernel := testbed.Kernels(t)[0]
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for name, c := range map[string]struct {
		args   []string
		status int
		why    string
	}{
		"no initrd":      {[]string{"--kernel", kernel, "--initrd", missing}, 125, "--initrd " + missing + ": there is no such file"},
		"folder":         {[]string{"--kernel", kernel, "--initrd", dir}, 125, "initrd"},
		"no rootfs":      {[]string{"--kernel", kernel, "--rootfs", missing}, 125, "--rootfs " + missing + ": there is no such file"},
		"rootfs outside": {[]string{"--kernel", kernel, "--rootfs", dir}, 125, "which is not in /nix/store"},
		"much memory":    {[]string{"--kernel", kernel, "--mem", "2T"}, 125, "of memory were asked for and this host has"},
		"many vCPUs":     {[]string{"--kernel", kernel, "--cpus", "65"}, 2, "a machine has 1 to 64"},
		"no memory":      {[]string{"--kernel", kernel, "--mem", "0"}, 2, "a machine needs at least 64 MiB"},
		"long words":     {[]string{"--kernel", kernel, "--append", strings.Repeat("x", 5000)}, 125, "command line"},
	} {
		t.Run(name, func(t *testing.T) { guest.Run(t, c.args...).Ended(t, c.status, c.why) })
	}
}

// A host without KVM, one that does not let this user have it, and one whose
// device is another.
func TestBadKVM(t *testing.T) {
	file := filepath.Join(manifests(t), "vm.json")
	for _, c := range []struct {
		name string
		wrap []string
		args []string
		why  string
	}{
		{"missing", []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /dev && exec "$@"`, "sh"}, nil, "no KVM device at /dev/kvm"},
		{"not allowed", []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, nil, "no permission to use KVM: opening /dev/kvm was refused to user 65534"},
		{"another device", nil, []string{"--kvm", "/dev/null"}, "unusable KVM: /dev/null does not answer as KVM does"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "not allowed" && onlyRoot(t) {
				t.Skip("this user may be nobody else")
			}
			r := guest.Command{Args: append([]string{"run", file}, c.args...), Wrap: c.wrap, Env: []string{"HOME=/nowhere"}}.Start(t).Wait()
			r.Ended(t, 125, c.why)
		})
	}
}

// onlyRoot tells whether this is a user namespace with one user.
func onlyRoot(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	var inside, outside, length int
	_, err = fmt.Sscan(string(text), &inside, &outside, &length)
	return err == nil && length == 1
}

// A manifest outlives what it names.
func TestStaleManifest(t *testing.T) {
	dir := manifests(t)
	text, err := os.ReadFile(filepath.Join(dir, "vm.json"))
	if err != nil {
		t.Fatal(err)
	}
	toplevel := testbed.System(t, testbed.Test, "vm-6_1")
	// Another hash, which sorts as this one does.
	name := filepath.Base(toplevel)
	gone := "/nix/store/" + name[:28] + "0000" + name[32:]
	stale := filepath.Join(dir, "stale.json")
	if err := os.WriteFile(stale, bytes.ReplaceAll(text, []byte(toplevel), []byte(gone)), 0o644); err != nil {
		t.Fatal(err)
	}
	guest.Run(t, "run", stale).Ended(t, 125, "the machine needs "+gone+": no such file or directory")
}

// manifests makes a folder with the manifest vm.json, for any user to read.
func manifests(t *testing.T) string {
	t.Helper()
	r := guest.Run(t, "manifest", testbed.System(t, testbed.Test, "vm-6_1"))
	if r.Status != 0 {
		t.Fatalf("manifest: %s", r.Why(t))
	}
	dir, err := os.MkdirTemp("", "manifests-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "vm.json"), []byte(r.Console), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}
