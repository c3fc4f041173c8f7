package x86

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// acpiMachines are the machines whose tables are kept as golden files, in the
// form of hex.Dump: a change shows in a diff.
var acpiMachines = map[string]ACPIConfig{
	"acpi-1cpu-256M":  {APICIDs: []uint32{0}, RAMSize: 256 << 20},
	"acpi-5x3x3-6G":   {APICIDs: Topology{5, 3, 3}.APICIDs(), RAMSize: 6 << 30},
	"acpi-x2apic-64G": {APICIDs: []uint32{0, 254, 255, 256}, RAMSize: 64 << 30},
}

func TestACPIGolden(t *testing.T) {
	for name, c := range acpiMachines {
		got, err := ACPI(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		dump := []byte(hex.Dump(got))
		golden := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.WriteFile(golden, dump, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(dump, want) {
			t.Errorf("%s differs from %s; if that is meant, run go test -update", name, golden)
		}
	}
}

// findTables follows the RSDP as a kernel does and returns every table by its
// signature.
func findTables(t *testing.T, blob []byte) map[string][]byte {
	t.Helper()
	le := binary.LittleEndian
	if string(blob[:8]) != "RSD PTR " || checksum(blob[:20]) != 0 || checksum(blob[:36]) != 0 || blob[15] != 2 {
		t.Fatalf("bad RSDP %x", blob[:36])
	}
	tables := map[string][]byte{}
	read := func(address uint64) []byte {
		if address < ACPIStart+rsdpSize || address+headerSize > ACPIStart+uint64(len(blob)) || address%16 != 0 {
			t.Fatalf("table at %#x", address)
		}
		b := blob[address-ACPIStart:]
		size := le.Uint32(b[4:])
		if size < headerSize || int(size) > len(b) {
			t.Fatalf("table %q of %d bytes", b[:4], size)
		}
		b = b[:size]
		if checksum(b) != 0 {
			t.Errorf("table %q: sum is not zero", b[:4])
		}
		tables[string(b[:4])] = b
		return b
	}
	root := read(le.Uint64(blob[24:]))
	for b := root[headerSize:]; len(b) > 0; b = b[8:] {
		read(le.Uint64(b))
	}
	read(le.Uint64(tables["FACP"][140:]))
	return tables
}

func TestACPITables(t *testing.T) {
	c := acpiMachines["acpi-x2apic-64G"]
	blob, err := ACPI(c)
	if err != nil {
		t.Fatal(err)
	}
	tables := findTables(t, blob)
	for _, signature := range []string{"XSDT", "FACP", "APIC", "MCFG", "DSDT"} {
		if tables[signature] == nil {
			t.Errorf("no %s", signature)
		}
	}
	le := binary.LittleEndian

	facp := tables["FACP"]
	if len(facp) != 276 || facp[8] != 6 {
		t.Errorf("FADT revision %d of %d bytes", facp[8], len(facp))
	}
	if flags := le.Uint32(facp[112:]); flags != 1<<20|1<<10|1<<5|1<<4|1<<2|1<<0 {
		t.Errorf("FADT flags %#x", flags)
	}
	for offset, want := range map[int]uint64{116: ResetPort, 244: SleepPort, 256: SleepStatusPort} {
		if facp[offset] != 1 || facp[offset+1] != 8 || le.Uint64(facp[offset+4:]) != want {
			t.Errorf("FADT register at %d: %x, want port %#x", offset, facp[offset:offset+12], want)
		}
	}
	if facp[128] != ResetValue {
		t.Errorf("reset value %#x", facp[128])
	}

	var ids []uint32
	for b := tables["APIC"][44:]; len(b) > 0; b = b[b[1]:] {
		switch b[0] {
		case 0:
			ids = append(ids, uint32(b[3]))
		case 9:
			ids = append(ids, le.Uint32(b[4:]))
		case 1:
			if b[2] != IOAPICID || le.Uint32(b[4:]) != IOAPICStart || le.Uint32(b[8:]) != 0 {
				t.Errorf("I/O APIC %x", b[:12])
			}
		case 4, 10:
		default:
			t.Errorf("entry of type %d", b[0])
		}
	}
	if len(ids) != 4 || ids[1] != 254 || ids[2] != 255 || ids[3] != 256 {
		t.Errorf("APIC IDs %v", ids)
	}

	if m := tables["MCFG"][44:]; le.Uint64(m) != ECAMStart || m[10] != 0 || (uint64(m[11])+1)<<20 != ECAMSize {
		t.Errorf("MCFG %x", m)
	}
}

func TestACPIErrors(t *testing.T) {
	if _, err := ACPI(ACPIConfig{}); err == nil {
		t.Error("a machine without vCPUs has tables")
	}
	if _, err := ACPI(ACPIConfig{APICIDs: make([]uint32, 20_000)}); !errors.Is(err, ErrACPISize) {
		t.Errorf("20,000 vCPUs: %v", err)
	}
}

// TestACPIDisassembles has the reference compiler take every table apart and
// put it together again: what it understood must be what we wrote.
func TestACPIDisassembles(t *testing.T) {
	iasl := os.Getenv("WHITERUN_IASL")
	if iasl == "" {
		var err error
		if iasl, err = exec.LookPath("iasl"); err != nil {
			t.Skip("no iasl (Debian: acpica-tools) on PATH or in WHITERUN_IASL")
		}
	}
	blob, err := ACPI(acpiMachines["acpi-x2apic-64G"])
	if err != nil {
		t.Fatal(err)
	}
	for signature, table := range findTables(t, blob) {
		t.Run(signature, func(t *testing.T) {
			dir := t.TempDir()
			run := func(args ...string) {
				t.Helper()
				cmd := exec.Command(iasl, args...)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				if err != nil || bytes.Contains(out, []byte("Warning ")) || bytes.Contains(out, []byte("Remark ")) {
					t.Fatalf("iasl %v: %v\n%s", args, err, out)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "in.aml"), table, 0o644); err != nil {
				t.Fatal(err)
			}
			run("-d", "in.aml")
			run("-oa", "-p", "out", "in.dsl") // -oa: keep names as they are written
			got, err := os.ReadFile(filepath.Join(dir, "out.aml"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(withoutCreator(got), withoutCreator(table)) {
				t.Errorf("%s is\n%x, compiled again\n%x", signature, table, got)
			}
		})
	}
}

// withoutCreator blanks what a compiler writes of itself, and the checksum.
func withoutCreator(table []byte) []byte {
	t := bytes.Clone(table)
	t[headerChecksum] = 0
	clear(t[28:headerSize])
	return t
}
