package machine

import (
	"fmt"
	"io"
	"strings"
)

// cpioWriter writes an archive in the newc format, which the kernel unpacks as
// its initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpioWriter struct {
	w     io.Writer
	inode int
	err   error
}

// File type bits of a cpio mode.
const (
	cpioDirectory = 0o040000
	cpioRegular   = 0o100000
)

func newCPIO(w io.Writer) *cpioWriter { return &cpioWriter{w: w} }

// dir adds a folder. Its parents come first.
func (c *cpioWriter) dir(name string) { c.entry(name, cpioDirectory|0o755, nil) }

// file adds a regular file with its permission bits.
func (c *cpioWriter) file(name string, mode uint32, data []byte) {
	c.entry(name, cpioRegular|mode, data)
}

// close ends the archive and returns the first error of any write.
func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

// entry writes a header of 110 bytes, the name and the data; name and data
// each end on a multiple of four bytes.
func (c *cpioWriter) entry(name string, mode uint32, data []byte) {
	c.inode++
	header := "070701"
	for _, field := range []uint32{
		uint32(c.inode), mode,
		0, 0, // owner, group
		1, // links
		0, // time
		uint32(len(data)),
		0, 0, 0, 0, // device numbers
		uint32(len(name) + 1),
		0, // checksum, unused in newc
	} {
		header += fmt.Sprintf("%08X", field)
	}
	header += name + "\x00"
	c.write([]byte(header + padding(len(header))))
	c.write(data)
	c.write([]byte(padding(len(data))))
}

func (c *cpioWriter) write(p []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(p)
	}
}

func padding(n int) string { return strings.Repeat("\x00", -n&3) }
