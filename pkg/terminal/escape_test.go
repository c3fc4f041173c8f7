package terminal

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestEscape(t *testing.T) {
	for in, want := range map[string]struct {
		out     string
		actions []Action
	}{
		"":                       {"", nil},
		"plain":                  {"plain", nil},
		"a\x01xb":                {"ab", []Action{Quit}},
		"\x01h\x01?":             {"", []Action{Help, Help}},
		"\x01a":                  {"\x01", nil},
		"\x01\x01":               {"\x01", nil},
		"\x01\x01x":              {"\x01x", nil},
		"\x01\x01\x01x":          {"\x01", []Action{Quit}},
		"\x01z":                  {"\x01z", nil},
		"end\x01":                {"end", nil},
		"\x03\x1a":               {"\x03\x1a", nil},
		"xha":                    {"xha", nil},
		strings.Repeat("k", 999): {strings.Repeat("k", 999), nil},
	} {
		// However the bytes arrive, and however they are read.
		for name, reader := range map[string]io.Reader{
			"at once": strings.NewReader(in), "one by one": iotest.OneByteReader(strings.NewReader(in)), "with the end": iotest.DataErrReader(strings.NewReader(in)),
		} {
			var actions []Action
			keys := NewKeys(reader, func(a Action) { actions = append(actions, a) })
			out, err := io.ReadAll(iotest.HalfReader(keys))
			if err != nil || string(out) != want.out || !slices.Equal(actions, want.actions) {
				t.Errorf("%q %s: got %q, %v, %v, want %q, %v", in, name, out, actions, err, want.out, want.actions)
			}
		}
	}
}

func TestFilterStopsAtAnAction(t *testing.T) {
	var e Escape
	out, taken, action := e.Filter(nil, []byte("ab\x01xcd"))
	if string(out) != "ab" || taken != 4 || action != Quit {
		t.Errorf("got %q, %d, %v", out, taken, action)
	}
}

// FuzzEscape holds that the cut between two reads changes nothing, and that
// input without the escape key passes as it is.
func FuzzEscape(f *testing.F) {
	f.Add([]byte("ab\x01xcd\x01"), 3)
	f.Add([]byte("\x01\x01\x01a"), 1)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		whole, wholeDid := drain(in)
		if cut < 0 || cut > len(in) {
			return
		}
		parts, partsDid := drain(in[:cut], in[cut:])
		if !bytes.Equal(whole, parts) || !slices.Equal(wholeDid, partsDid) {
			t.Errorf("%q cut at %d: %q %v, whole %q %v", in, cut, parts, partsDid, whole, wholeDid)
		}
		if !bytes.Contains(in, []byte{EscapeKey}) && !bytes.Equal(whole, in) {
			t.Errorf("%q came out as %q", in, whole)
		}
	})
}

func drain(parts ...[]byte) (out []byte, actions []Action) {
	var e Escape
	for _, part := range parts {
		for len(part) > 0 {
			before := len(out)
			var taken int
			var action Action
			out, taken, action = e.Filter(out, part)
			if len(out)-before > taken+1 {
				panic("more came out than went in")
			}
			if action != None {
				actions = append(actions, action)
			}
			part = part[taken:]
		}
	}
	return out, actions
}
