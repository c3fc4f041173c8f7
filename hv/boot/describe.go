package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// sniffSize is how much of a file is read to tell what it is, in bytes: a
// setup header and its banner's offset are well inside.
const sniffSize = 4096

// signatures are the beginnings of files that are mistaken for a kernel.
var signatures = []struct {
	offset int
	magic  string
	what   string
}{
	{0x38, "ARM\x64", "it is a Linux image for aarch64"},
	{0x38, "RSC\x05", "it is a Linux image for riscv"},
	{0, "\x1f\x8b", "it is a gzip-compressed file"},
	{0, "\x28\xb5\x2f\xfd", "it is a zstd-compressed file"},
	{0, "\xfd7zXZ\x00", "it is an xz-compressed file"},
	{0, "\x02\x21\x4c\x18", "it is an lz4-compressed file"},
	{0, "BZh", "it is a bzip2-compressed file"},
	{0, "070701", "it is a cpio archive, perhaps an initrd"},
	{0, "070702", "it is a cpio archive, perhaps an initrd"},
	{0, "\x27\x05\x19\x56", "it is a U-Boot image"},
	{0, "QFI\xfb", "it is a qcow2 disk image"},
	{0, "!<arch>\n", "it is an ar archive, perhaps a Debian package"},
}

// describe says in a clause what a file that is no kernel begins like.
func describe(head []byte) string {
	if len(head) == 0 {
		return "it is empty"
	}
	for _, s := range signatures {
		if len(head) >= s.offset && bytes.HasPrefix(head[s.offset:], []byte(s.magic)) {
			return s.what
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("MZ")):
		return "it is an EFI program without a Linux setup header"
	case len(head) >= offBootFlag+2 && binary.LittleEndian.Uint16(head[offBootFlag:]) == bootFlag:
		return "it is a boot sector or a disk image"
	case bytes.HasPrefix(head, []byte("#!")):
		return "it is a script"
	case isText(head):
		return "it is a text file"
	}
	return fmt.Sprintf("it begins with the bytes % x", head[:min(len(head), 8)])
}

// isText tells whether head is the beginning of a UTF-8 text.
func isText(head []byte) bool {
	// The last character may be cut in half.
	for i := 0; i < utf8.UTFMax-1 && len(head) > 0 && !utf8.Valid(head); i++ {
		head = head[:len(head)-1]
	}
	return len(head) > 0 && utf8.Valid(head) && bytes.IndexFunc(head, func(r rune) bool {
		return r < ' ' && !strings.ContainsRune("\t\n\r\f\x1b", r)
	}) < 0
}

// machineName returns the usual name of an ELF machine.
func machineName(m elf.Machine) string {
	switch m {
	case elf.EM_X86_64:
		return "x86_64"
	case elf.EM_386:
		return "i386"
	case elf.EM_AARCH64:
		return "aarch64"
	}
	return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
}
