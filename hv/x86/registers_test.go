package x86

import (
	"encoding/binary"
	"testing"

	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/mem"
)

func bootMemory(t *testing.T, size uint64) *mem.Memory {
	t.Helper()
	m, err := mem.New(size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestDescriptorTable(t *testing.T) {
	m := bootMemory(t, 1<<20)
	if err := WriteBootTables(m); err != nil {
		t.Fatal(err)
	}
	// The values that Linux' own boot GDT has (arch/x86/include/asm/desc_defs.h).
	want := []uint64{0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8B00_0000_0067, 0}
	gdt, err := m.Slice(GDTStart, uint64(len(want)*8))
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range want {
		if got := binary.LittleEndian.Uint64(gdt[i*8:]); got != w {
			t.Errorf("descriptor %d is %#016x, want %#016x", i, got, w)
		}
	}
	based := kvm.Segment{Base: 0xAABB_CCDD, Limit: 0xF_1234, DPL: 3, AVL: 1}
	if got := descriptor(based); got != 0xAA1F_60BB_CCDD_1234 {
		t.Errorf("descriptor with a base is %#016x", got)
	}
}

// walk translates an address as the processor does, from CR3 on.
func walk(t *testing.T, m *mem.Memory, cr3, address uint64) (physical uint64, present bool) {
	t.Helper()
	table := cr3
	for shift := 39; ; shift -= 9 {
		entry, err := m.Slice(table+address>>shift&511*8, 8)
		if err != nil {
			t.Fatalf("page table at %#x: %v", table, err)
		}
		e := binary.LittleEndian.Uint64(entry)
		if e&3 != 3 {
			return 0, false
		}
		table = e &^ 0xFFF
		if shift == 21 {
			if e&pageLarge == 0 {
				t.Fatalf("entry %#x for %#x is no large page", e, address)
			}
			return table | address&(largePageSize-1), true
		}
	}
}

func TestIdentityMap(t *testing.T) {
	m := bootMemory(t, 1<<20)
	if err := WriteBootTables(m); err != nil {
		t.Fatal(err)
	}
	var s kvm.Sregs
	BootSregs(&s)
	for address := uint64(0); address < identityMapSize; address += largePageSize {
		for _, a := range []uint64{address, address + 0x12_3456} {
			if got, ok := walk(t, m, s.CR3, a); !ok || got != a {
				t.Fatalf("%#x is mapped to %#x, %v", a, got, ok)
			}
		}
	}
	for _, a := range []uint64{identityMapSize, 1 << 39, 1 << 46} {
		if got, ok := walk(t, m, s.CR3, a); ok {
			t.Errorf("%#x is mapped to %#x", a, got)
		}
	}
}

func TestWriteBootTablesOutsideMemory(t *testing.T) {
	if err := WriteBootTables(bootMemory(t, 0x8000)); err == nil {
		t.Error("page tables were written beyond memory")
	}
}

func TestBootState(t *testing.T) {
	s := kvm.Sregs{APICBase: 0xFEE0_0900, CR0: 0x6000_0010}
	BootSregs(&s)
	if s.APICBase != 0xFEE0_0900 {
		t.Errorf("local APIC base became %#x", s.APICBase)
	}
	if s.CR0 != 0x8000_0011 || s.CR4 != 0x20 || s.EFER != 0x500 {
		t.Errorf("CR0 %#x, CR4 %#x, EFER %#x", s.CR0, s.CR4, s.EFER)
	}
	if s.CS.Selector != 0x10 || s.CS.L != 1 || s.CS.DB != 0 || s.TR.Selector != 0x20 || s.TR.Type != 0xB {
		t.Errorf("CS %+v, TR %+v", s.CS, s.TR)
	}
	for _, seg := range []kvm.Segment{s.DS, s.ES, s.FS, s.GS, s.SS} {
		if seg.Selector != 0x18 || seg.Limit != 0xFFFF_FFFF {
			t.Errorf("data segment %+v", seg)
		}
	}
	if s.GDT.Base != GDTStart || s.GDT.Limit != 0x2F {
		t.Errorf("GDT %+v", s.GDT)
	}
	if r := BootRegs(0x100_0000, ZeroPageStart); r != (kvm.Regs{RIP: 0x100_0000, RSI: 0x7000, RFLAGS: 2}) {
		t.Errorf("registers %+v", r)
	}
	want := map[uint32]uint64{0x2FF: 0x806, 0x1A0: 0x1801}
	for _, e := range BootMSRs() {
		if want[e.Index] != e.Data {
			t.Errorf("MSR %#x is %#x, want %#x", e.Index, e.Data, want[e.Index])
		}
		delete(want, e.Index)
	}
	if len(want) != 0 {
		t.Errorf("MSRs %x are missing", want)
	}
}
