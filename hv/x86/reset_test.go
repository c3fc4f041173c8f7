package x86

import (
	"bytes"
	"testing"
)

func TestResetVector(t *testing.T) {
	m := bootMemory(t, HighRAMStart)
	if err := WriteResetVector(m); err != nil {
		t.Fatal(err)
	}
	got, err := m.Slice(ResetVector, ResetVectorSize)
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{0xBA, 0x00, 0x06, 0xB0, 0x42, 0xEE, 0xF4, 0xEB, 0xFD, 0, 0, 0, 0, 0, 0, 0}
	if !bytes.Equal(got, want) {
		t.Errorf("got % x, want % x", got, want)
	}
	if err := WriteResetVector(bootMemory(t, 0x8000)); err == nil {
		t.Error("it was written beyond memory")
	}
}
