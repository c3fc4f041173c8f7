package aml

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// The wanted bytes are worked out by hand from ACPI 6.5 §20.2 and §6.4.
func TestTerms(t *testing.T) {
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"zero", Integer(0), "00"},
		{"one", Integer(1), "01"},
		{"byte", Integer(2), "0a 02"},
		{"largest byte", Integer(0xFF), "0a ff"},
		{"word", Integer(0x100), "0b 00 01"},
		{"double word", Integer(0x1_0000), "0c 00 00 01 00"},
		{"largest double word", Integer(0xFFFF_FFFF), "0c ff ff ff ff"},
		{"quad word", Integer(0x1_0000_0000), "0e 00 00 00 00 01 00 00 00"},
		{"ones", Integer(1<<64 - 1), "ff"},
		{"string", String("QEMU"), "0d 51 45 4d 55 00"},
		{"path of one", Path("_HID"), "5f 48 49 44"},
		{"padded path", Path("AB"), "41 42 5f 5f"},
		{"root", Path(`\`), "5c 00"},
		{"path from the root", Path(`\_SB`), "5c 5f 53 42 5f"},
		{"path of two", Path(`\_SB.PCI0`), "5c 2e 5f 53 42 5f 50 43 49 30"},
		{"path of three from two parents", Path("^^A.B.C"), "5e 5e 2f 03 41 5f 5f 5f 42 5f 5f 5f 43 5f 5f 5f"},
		{"EISA ID", EISAID("PNP0A03"), "0c 41 d0 0a 03"},
		{"UUID", UUID("33db4d5b-1ff7-401c-9657-7441c03dd766"),
			"11 13 0a 10 5b 4d db 33 f7 1f 1c 40 96 57 74 41 c0 3d d7 66"},
		{"name", Name("_UID", Integer(1)), "08 5f 55 49 44 01"},
		{"package", Package(Integer(5), Integer(0)), "12 05 02 0a 05 00"},
		{"empty package", Package(), "12 02 00"},
		{"buffer", Buffer([]byte{9}), "11 03 01 09"},
		{"device", Device("DEV0", Name("_UID", Integer(0))), "5b 82 0b 44 45 56 30 08 5f 55 49 44 00"},
		{"scope", Scope(`\_SB`), "10 06 5c 5f 53 42 5f"},
		{"method", Method("_STA", 0, Return(Integer(0xF))), "14 09 5f 53 54 41 08 a4 0a 0f"},
		{"method with arguments", Method("_EVT", 1, Notify("PWRB", 0x80)),
			"14 0d 5f 45 56 54 09 86 50 57 52 42 0a 80"},
		{"if", If(Equal(Arg(0), Integer(1)), Return(Arg(6))), "a0 06 93 68 01 a4 6e"},
		{"else", Else(Return(Integer(0))), "a1 03 a4 00"},
		{"or", Or(Path("AAAA"), Integer(4), Path("AAAA")), "7d 41 41 41 41 0a 04 41 41 41 41"},
		{"field", CreateDWordField(Arg(3), 0, "STS0"), "8a 6b 00 53 54 53 30"},

		{"ports", IOPorts(0x3F8, 8), "47 01 f8 03 f8 03 01 08"},
		{"fixed memory", FixedMemory(0xE000_0000, 0x10_0000), "86 09 00 01 00 00 00 e0 00 00 10 00"},
		{"interrupt", EdgeInterrupt(4), "89 06 00 03 01 04 00 00 00"},
		{"buses", BusRange(0, 256), "88 0d 00 02 0c 00 00 00 00 00 ff 00 00 00 00 01"},
		{"32-bit window", Window32(0xC000_0000, 0x2000_0000),
			"87 17 00 00 0c 01 00000000 000000c0 ffffffdf 00000000 00000020"},
		{"64-bit window", Window64(1<<32, 1<<36),
			"8a 2b 00 00 0c 01 0000000000000000 0000000001000000 ffffffff10000000 0000000000000000 0000000010000000"},
		{"no resources", Resources(), "11 05 0a 02 79 00"},
		{"resources", Resources(IOPorts(0x505, 1)), "11 0d 0a 0a 47 01 05 05 05 05 01 01 79 00"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s: % x, want % x", c.name, c.got, want)
		}
	}
}

// TestPackageLength reads lengths back, around every change of their form.
func TestPackageLength(t *testing.T) {
	for _, edge := range []int{0, 1 << 6, 1 << 12, 1 << 20} {
		for n := max(edge-8, 0); n < edge+8; n++ {
			p := packageLength(n)
			more := int(p[0] >> 6)
			if len(p) != 1+more {
				t.Fatalf("%d: %x has not %d bytes behind the first", n, p, more)
			}
			got := int(p[0] & 0x3F)
			if more > 0 {
				if p[0]&0x30 != 0 {
					t.Errorf("%d: reserved bits in %x", n, p)
				}
				for i, b := range p[1:] {
					got |= int(b) << (4 + 8*i)
				}
			}
			if got != n+len(p) {
				t.Errorf("%d: %x is a length of %d, want %d", n, p, got, n+len(p))
			}
		}
	}
	if got := fmt.Sprintf("%x", packageLength(62)); got != "3f" {
		t.Errorf("longest body with one byte: %s", got)
	}
	if got := fmt.Sprintf("%x", packageLength(63)); got != "4104" {
		t.Errorf("shortest body with two bytes: %s", got)
	}
}

func TestProgrammerErrors(t *testing.T) {
	for name, f := range map[string]func(){
		"empty name":       func() { Name("", Integer(0)); Path("A..B") },
		"long name":        func() { Path("ABCDE") },
		"lower case":       func() { Path("abcd") },
		"leading digit":    func() { Path("0ABC") },
		"short EISA ID":    func() { EISAID("PNP0A") },
		"EISA ID letters":  func() { EISAID("pnp0A03") },
		"EISA ID digits":   func() { EISAID("PNP0G03") },
		"short UUID":       func() { UUID("33db4d5b") },
		"UUID digits":      func() { UUID("33DB4D5B-1ff7-401c-9657-7441c03dd766") },
		"more than a term": func() { packageLength(1 << 28) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}
