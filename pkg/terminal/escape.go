package terminal

import "io"

// EscapeKey is Ctrl-a: it and the key behind it are for Whiterun.
const EscapeKey = 0x01

// Action is what a user asked of Whiterun with the escape key.
type Action int

// The actions of the keys behind EscapeKey.
const (
	None Action = iota
	Quit        // x
	Help        // h or ?
)

// HelpText tells the keys, for Help.
const HelpText = "Ctrl-a x  end the machine\nCtrl-a h  this help\nCtrl-a a  send Ctrl-a to the guest\n"

// Escape takes the user's keys for Whiterun out of a stream of input. The zero
// value is ready.
type Escape struct {
	pending bool // the escape key was the last byte
}

// Filter appends to dst what of src is for the guest, up to and without the
// first action, and returns that action and how many bytes of src it took: all
// of them when the action is None. The result is at most one byte longer than
// what was taken. An escape key before any other key is the guest's, with that
// key: nothing typed is lost.
func (e *Escape) Filter(dst, src []byte) (out []byte, taken int, action Action) {
	for i, b := range src {
		if !e.pending {
			if b == EscapeKey {
				e.pending = true
				continue
			}
			dst = append(dst, b)
			continue
		}
		e.pending = false
		switch b {
		case 'x':
			return dst, i + 1, Quit
		case 'h', '?':
			return dst, i + 1, Help
		case 'a', EscapeKey:
			dst = append(dst, EscapeKey)
		default:
			dst = append(dst, EscapeKey, b)
		}
	}
	return dst, len(src), None
}

const rawSize = 256 // bytes that Keys reads at once

// Keys is a reader of the guest's input that carries out the user's actions on
// the way.
type Keys struct {
	in     io.Reader
	do     func(Action)
	escape Escape
	raw    [rawSize]byte // as read
	buf    []byte        // for the guest, and not yet read
	store  [rawSize + 1]byte
}

// NewKeys returns a reader of what in holds for the guest; do is called, from
// Read, with every action.
func NewKeys(in io.Reader, do func(Action)) *Keys { return &Keys{in: in, do: do} }

// Read returns input for the guest. It blocks until there is some.
func (k *Keys) Read(p []byte) (int, error) {
	for len(k.buf) == 0 {
		n, err := k.in.Read(k.raw[:])
		k.buf = k.store[:0]
		for src := k.raw[:n]; len(src) > 0; {
			var taken int
			var action Action
			k.buf, taken, action = k.escape.Filter(k.buf, src)
			if action != None {
				k.do(action)
			}
			src = src[taken:]
		}
		if err != nil && len(k.buf) == 0 {
			return 0, err
		}
	}
	n := copy(p, k.buf)
	k.buf = k.buf[n:]
	return n, nil
}
