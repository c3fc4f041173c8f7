package main

import (
	"slices"
	"strings"
	"testing"
)

var testSetup = setup{
	system:   system{kernel: "/nix/store/k/bzImage", initrd: "/nix/store/t/initrd"},
	whiterun: "/bin/whiterun", scratch: "/tmp/bench", memory: 512,
}

// after returns the argument behind a flag, as often as it is given.
func after(args []string, flag string) (values []string) {
	for i, arg := range args[:len(args)-1] {
		if arg == flag {
			values = append(values, args[i+1])
		}
	}
	return values
}

// Every peer boots the same system on the same machine.
func TestPeersAreAlike(t *testing.T) {
	names := map[string]bool{}
	for _, p := range peers() {
		if names[p.name] {
			t.Errorf("two peers are named %s", p.name)
		}
		names[p.name] = true
		programs := p.programs(testSetup)
		args := programs[len(programs)-1].args
		switch {
		case strings.HasPrefix(p.name, "QEMU"):
			commandLine := strings.Join(after(args, "-append"), " ")
			words := parseWords(commandLine)
			if words["init="] != toplevelPath+"/init" || !strings.Contains(commandLine, kernelParameters) {
				t.Errorf("%s: the command line is %s", p.name, commandLine)
			}
			if reads := words[wordWork] == dataPath; reads != p.reads {
				t.Errorf("%s: the guest reads: %t, its results: %t", p.name, reads, p.reads)
			}
			if _, known := storeOptions[words[wordStore]]; !known {
				t.Errorf("%s: no transport %s", p.name, words[wordStore])
			}
			if mem := after(args, "-m"); !slices.Equal(mem, []string{"512"}) {
				t.Errorf("%s: memory %s", p.name, mem)
			}
			if initrd := after(args, "-initrd"); !slices.Equal(initrd, []string{testSetup.initrd}) {
				t.Errorf("%s: initrd %s", p.name, initrd)
			}
			if devices := strings.Join(after(args, "-device"), " "); !strings.Contains(devices, "tag="+storeTag) {
				t.Errorf("%s: no device has the store's tag: %s", p.name, devices)
			}
		case args[1] == "run":
			if args[2] != testSetup.manifest(p.reads) {
				t.Errorf("%s: manifest %s", p.name, args[2])
			}
		default:
			if !slices.Contains(args, guestWords("9p", p.reads)) || !slices.Contains(args, toplevelPath) {
				t.Errorf("%s: %q", p.name, args)
			}
		}
	}
}

func TestVirtiofsListensOnItsSocket(t *testing.T) {
	programs := testSetup.qemuVirtiofs(testSetup.kernel)
	if len(programs) != 2 || programs[0].listen == "" || programs[1].listen != "" {
		t.Fatalf("%+v", programs)
	}
	if !strings.Contains(strings.Join(programs[1].args, " "), "path="+programs[0].listen) {
		t.Errorf("QEMU does not connect to %s: %q", programs[0].listen, programs[1].args)
	}
	if !slices.Contains(programs[0].args, "--fd=3") {
		t.Errorf("virtiofsd is given no socket: %q", programs[0].args)
	}
}

func TestSelectPeers(t *testing.T) {
	all := peers()
	if got := selectPeers(all, ""); len(got) != len(all) {
		t.Errorf("%d of %d peers", len(got), len(all))
	}
	got := selectPeers(all, "virtiofsd")
	if len(got) != 2 || got[0].name != all[0].name || !strings.Contains(got[1].name, "virtiofsd") {
		t.Errorf("selected %d peers, the first %s", len(got), got[0].name)
	}
}

func TestModuleFiles(t *testing.T) {
	got := moduleFiles("insmod /lib/a.ko \ninsmod /lib/b.ko.xz \nbuiltin c\ninsmod /lib/a.ko \ninsmod /lib/d.ko option=1\n")
	if want := []string{"/lib/a.ko", "/lib/b.ko.xz", "/lib/d.ko"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRegistration(t *testing.T) {
	lines := strings.Split(registration([]string{"/nix/store/x", "/nix/store/y"}), "\n")
	// Two paths of five lines, three references, and the end.
	if len(lines) != 14 || lines[0] != dataPath || lines[4] != "0" || lines[5] != toplevelPath || lines[9] != "3" || lines[12] != "/nix/store/y" {
		t.Errorf("%q", lines)
	}
}
