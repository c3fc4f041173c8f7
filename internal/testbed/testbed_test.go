package testbed

import "testing"

func TestProbeOutput(t *testing.T) {
	const console = "boot\r\n--- list begins\r\na\r\nb\r\n--- list ends: 0\r\n--- writes begins\r\nc\r\n--- writes ends: 1\r\n--- hang begins\r\nd"
	tests := []struct {
		name, want string
		ok         bool
	}{
		{"list", "a\nb\n", true},
		{"writes", "c\n", false},
		{"hang", "d", false},
		{"absent", "", false},
	}
	for _, test := range tests {
		if got, ok := ProbeOutput(console, test.name); got != test.want || ok != test.ok {
			t.Errorf("%s: got %q, %t, want %q, %t", test.name, got, ok, test.want, test.ok)
		}
	}
}
