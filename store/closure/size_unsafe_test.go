package closure

import (
	"testing"
	"unsafe"
)

const nodeSize = unsafe.Sizeof(node{})

func TestNodeIsSmall(t *testing.T) {
	if nodeSize != 32 {
		t.Errorf("a node takes %d bytes, want 32", nodeSize)
	}
}
