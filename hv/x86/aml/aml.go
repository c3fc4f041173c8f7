// Package aml encodes ACPI Machine Language (ACPI 6.5 §20): what a DSDT is
// made of. Every function returns the bytes of one term; a table's body is
// its terms one after the other.
//
// Names and identifiers are constants of the program: a malformed one is a
// programmer's error and panics.
package aml

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
)

// Term is the encoding of one object, operator or value.
type Term []byte

// Opcodes (ACPI 6.5 §20.3).
const (
	opZero         = 0x00
	opOne          = 0x01
	opName         = 0x08
	opByte         = 0x0A
	opWord         = 0x0B
	opDWord        = 0x0C
	opString       = 0x0D
	opQWord        = 0x0E
	opScope        = 0x10
	opBuffer       = 0x11
	opPackage      = 0x12
	opMethod       = 0x14
	opArg0         = 0x68
	opOr           = 0x7D
	opNotify       = 0x86
	opDWordField   = 0x8A
	opEqual        = 0x93
	opIf           = 0xA0
	opElse         = 0xA1
	opReturn       = 0xA4
	opOnes         = 0xFF
	opExt          = 0x5B
	opExtDevice    = 0x82
	prefixDualName = 0x2E
	prefixMultiple = 0x2F
)

// Integer returns v in the smallest encoding that a table of revision 2 has,
// where integers are 64 bits wide.
func Integer(v uint64) Term {
	switch {
	case v == 0:
		return Term{opZero}
	case v == 1:
		return Term{opOne}
	case v <= math.MaxUint8:
		return Term{opByte, byte(v)}
	case v <= math.MaxUint16:
		return binary.LittleEndian.AppendUint16(Term{opWord}, uint16(v))
	case v <= math.MaxUint32:
		return binary.LittleEndian.AppendUint32(Term{opDWord}, uint32(v))
	case v == math.MaxUint64:
		return Term{opOnes}
	}
	return binary.LittleEndian.AppendUint64(Term{opQWord}, v)
}

// String returns a string of ASCII characters.
func String(s string) Term {
	return append(append(Term{opString}, s...), 0)
}

// Path returns a name as a term: a reference to the object it names. A path is
// names of up to four characters between dots, behind a '\' (from the root) or
// any number of '^' (from a parent): `\_SB.PCI0`.
func Path(path string) Term {
	name := strings.TrimLeft(path, `\^`)
	t := Term(path[:len(path)-len(name)])
	segments := strings.Split(name, ".")
	switch {
	case name == "":
		return append(t, 0)
	case len(segments) == 2:
		t = append(t, prefixDualName)
	case len(segments) > 2:
		t = append(t, prefixMultiple, byte(len(segments)))
	}
	for _, s := range segments {
		t = append(t, segment(s)...)
	}
	return t
}

// segment pads a name to four characters.
func segment(name string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"
	if name == "" || len(name) > 4 || !strings.Contains(letters, name[:1]) || strings.Trim(name, letters+"0123456789") != "" {
		panic("aml: bad name " + name)
	}
	return name + "____"[len(name):]
}

// EISAID returns a PNP identifier such as "PNP0A08", packed into an integer
// (ACPI 6.5 §19.3.4): three letters of five bits, then four hexadecimal digits,
// big-endian.
func EISAID(id string) Term {
	if len(id) != 7 {
		panic("aml: bad EISA ID " + id)
	}
	var v uint32
	for _, c := range []byte(id[:3]) {
		if c < 'A' || c > 'Z' {
			panic("aml: bad EISA ID " + id)
		}
		v = v<<5 | uint32(c-'@')
	}
	for _, c := range []byte(id[3:]) {
		digit := strings.IndexByte("0123456789ABCDEF", c)
		if digit < 0 {
			panic("aml: bad EISA ID " + id)
		}
		v = v<<4 | uint32(digit)
	}
	return binary.BigEndian.AppendUint32(Term{opDWord}, v)
}

// UUID returns a UUID in its text form as the buffer that ToUUID makes of it
// (ACPI 6.5 §19.6.142): the first three groups little-endian.
func UUID(text string) Term {
	const order = "\x06\x04\x02\x00\x0b\x09\x10\x0e\x13\x15\x18\x1a\x1c\x1e\x20\x22"
	if len(text) != 36 {
		panic("aml: bad UUID " + text)
	}
	b := make([]byte, len(order))
	for i := range b {
		for _, c := range []byte(text[order[i]:][:2]) {
			digit := strings.IndexByte("0123456789abcdef", c)
			if digit < 0 {
				panic("aml: bad UUID " + text)
			}
			b[i] = b[i]<<4 | byte(digit)
		}
	}
	return Buffer(b)
}

// Name declares an object under path with a value.
func Name(path string, value Term) Term {
	return slices.Concat(Term{opName}, Path(path), value)
}

// Scope opens an existing object and adds terms to it.
func Scope(path string, terms ...Term) Term {
	return sized([]byte{opScope}, Path(path), terms)
}

// Device declares a device.
func Device(path string, terms ...Term) Term {
	return sized([]byte{opExt, opExtDevice}, Path(path), terms)
}

// Method declares a control method of up to seven arguments. It is serialised:
// one that declares objects must be, and none here is called often.
func Method(path string, args int, terms ...Term) Term {
	const serialized = 1 << 3
	return sized([]byte{opMethod}, append(Path(path), byte(args&7|serialized)), terms)
}

// Package returns a list of up to 255 values.
func Package(values ...Term) Term {
	return sized([]byte{opPackage}, Term{byte(len(values))}, values)
}

// Buffer returns a buffer with the given bytes.
func Buffer(b []byte) Term {
	return sized([]byte{opBuffer}, Integer(uint64(len(b))), []Term{b})
}

// If runs terms when the condition is not zero.
func If(condition Term, terms ...Term) Term {
	return sized([]byte{opIf}, condition, terms)
}

// Else follows an If.
func Else(terms ...Term) Term {
	return sized([]byte{opElse}, nil, terms)
}

// Arg returns argument n, 0 to 6, of the method.
func Arg(n int) Term { return Term{opArg0 + byte(n)} }

// Equal compares two values.
func Equal(a, b Term) Term { return slices.Concat(Term{opEqual}, a, b) }

// Or stores a | b in target.
func Or(a, b, target Term) Term { return slices.Concat(Term{opOr}, a, b, target) }

// Return ends a method with a value.
func Return(value Term) Term { return append(Term{opReturn}, value...) }

// Notify tells the operating system of an event on the object under path.
func Notify(path string, value uint64) Term {
	return slices.Concat(Term{opNotify}, Path(path), Integer(value))
}

// CreateDWordField declares name as the 32 bits at offset, in bytes, of a
// buffer.
func CreateDWordField(buffer Term, offset uint64, name string) Term {
	return slices.Concat(Term{opDWordField}, buffer, Integer(offset), Path(name))
}

// sized returns an opcode, the length of what follows, a head and terms.
func sized(opcode []byte, head Term, terms []Term) Term {
	body := slices.Concat(append([]Term{head}, terms...)...)
	return slices.Concat(Term(opcode), packageLength(len(body)), body)
}

// packageLength returns the PkgLength of a body of n bytes (ACPI 6.5 §20.2.4).
// It counts itself: one byte holds up to 63, otherwise the first byte has the
// number of others in its top bits and the length's lowest four at its bottom.
func packageLength(n int) Term {
	if n+1 < 1<<6 {
		return Term{byte(n + 1)}
	}
	for more := 1; more <= 3; more++ {
		total := n + 1 + more
		if total >= 1<<(4+8*more) {
			continue
		}
		t := Term{byte(more<<6 | total&0xF)}
		for rest := total >> 4; len(t) <= more; rest >>= 8 {
			t = append(t, byte(rest))
		}
		return t
	}
	panic("aml: term of more than 256 MiB")
}
