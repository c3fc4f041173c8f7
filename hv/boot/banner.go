package boot

import "bytes"

// bannerMax bounds the version string of an image, in bytes.
const bannerMax = 512

// bannerPrefix begins linux_banner, which every kernel holds in its read-only
// data (Linux init/version.c).
var bannerPrefix = []byte("Linux version ")

// banner searches the image for its version string and returns what follows
// the prefix, or "".
func (e *elfImage) banner() string {
	buffer := make([]byte, copyChunk+len(bannerPrefix)+bannerMax)
	for _, s := range e.segments {
		for at := uint64(0); at < s.fileSize; at += copyChunk {
			// Pieces overlap by the longest banner, so that none is cut in two.
			piece := buffer[:min(uint64(len(buffer)), s.fileSize-at)]
			if err := readAt(e.r, piece, s.offset+at); err != nil {
				return ""
			}
			if text := findBanner(piece); text != "" {
				return text
			}
		}
	}
	return ""
}

// findBanner returns the first banner that begins in the first copyChunk bytes
// of piece. Log formats that begin alike are passed over.
func findBanner(piece []byte) string {
	for at := 0; ; {
		i := bytes.Index(piece[at:], bannerPrefix)
		if i < 0 || at+i >= copyChunk {
			return ""
		}
		at += i + len(bannerPrefix)
		if text := piece[at:min(len(piece), at+bannerMax)]; !bytes.HasPrefix(text, []byte("%")) {
			return cleanBanner(text)
		}
	}
}

// banner returns the version string of the kernel: the release, who built it,
// and the version; or "".
func (i *image) banner() string {
	if i.elf != nil {
		return i.elf.banner()
	}
	offset := uint64(i.params.u16(offKernelVersion))
	if offset == 0 {
		return ""
	}
	text := make([]byte, bannerMax)
	n, _ := i.r.ReadAt(text, int64(offset+offJump))
	return cleanBanner(text[:n])
}

// cleanBanner returns text up to the first byte that is not printable ASCII: it
// will be shown on a terminal.
func cleanBanner(text []byte) string {
	if end := bytes.IndexFunc(text, func(r rune) bool { return r < ' ' || r > '~' }); end >= 0 {
		text = text[:end]
	}
	return string(bytes.TrimSpace(text))
}
