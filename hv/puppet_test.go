package hv

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"
)

// A puppet is a tiny guest that does, on every vCPU, what a list in its memory
// says, again and again, while the test writes the next list. Its
// guest-physical memory:
//
//	tinyEntry      the loop below, on all vCPUs
//	puppetState    64 bytes a vCPU: rounds done, next list, current list
//	puppetLists    two lists a vCPU, one in use and one being written
//	puppetArena    to the end of RAM: whatever the test likes
const (
	puppetState      = 0x110_0000
	puppetLists      = 0x120_0000
	puppetListSize   = 0x2_0000
	puppetArena      = 0x200_0000
	puppetTrampoline = 0x8000 // real-mode start of the other vCPUs, SIPI vector 8
	puppetMost       = puppetListSize/24 - 1

	localAPICCommand = 0xFEE0_0300
)

// operation is what a puppet does in one step; its low five bits choose.
type operation uint64

const (
	opAgain    operation = iota // begin the next list
	opWrite8                    // value to the guest-physical address
	opWrite16                   //
	opWrite32                   //
	opWrite64                   //
	opRead8                     //
	opRead16                    //
	opRead32                    //
	opRead64                    //
	opOut8                      // value to the port
	opOut16                     //
	opOut32                     //
	opIn8                       //
	opIn16                      //
	opIn32                      //
	opNoise                     // a pseudo-random number of 32 bits to the address
	opFill                      // value times 8 bytes of such from the address on
	opOutBytes                  // value bytes of the arena to the port, with one instruction
	opInBytes                   // the other way
	operations
)

// step is one element of a list.
type step struct {
	op        operation
	at, value uint64
}

// puppetCode is the loop: RSI the next step, R8 the pseudo-random state, R9 the
// rounds, R11 this vCPU's state.
func puppetCode(seed uint64) code {
	const handlerSize = 64
	c := code{}.rbx(0xFEE0_0020).raw(0x8B, 0x03, // mov eax, [rbx], the local APIC's ID
		0xC1, 0xE8, 0x18, // shr eax, 24
		0x49, 0x89, 0xC3, // mov r11, rax
		0x49, 0xC1, 0xE3, 0x06, // shl r11, 6
		0x49, 0x81, 0xC3) // add r11, puppetState
	c = binary.LittleEndian.AppendUint32(c, puppetState)
	c = binary.LittleEndian.AppendUint64(c.raw(0x49, 0xB8), seed|1<<32) // mov r8, seed
	c = c.raw(0x49, 0x01, 0xC0,                                         // add r8, rax
		0x45, 0x31, 0xC9, // xor r9d, r9d
		0x49, 0x8B, 0x73, 0x08, // mov rsi, [r11+8]
		0x49, 0x89, 0x73, 0x10) // mov [r11+16], rsi
	loop := len(c)
	c = c.raw(0x48, 0x8B, 0x06, // mov rax, [rsi]
		0x48, 0x8B, 0x5E, 0x08, // mov rbx, [rsi+8]
		0x48, 0x8B, 0x4E, 0x10, // mov rcx, [rsi+16]
		0x48, 0x83, 0xC6, 0x18, // add rsi, 24
		0x83, 0xE0, 0x1F, // and eax, 31
		0xC1, 0xE0, 0x06, // shl eax, 6
		0x48, 0x05) // add rax, the handlers
	handlers := (len(c) + 4 + 2 + handlerSize - 1) &^ (handlerSize - 1)
	c = binary.LittleEndian.AppendUint32(c, uint32(tinyEntry+handlers))
	c = c.raw(0xFF, 0xE0) // jmp rax
	shuffle := []byte{
		0x4C, 0x89, 0xC0, 0x48, 0xC1, 0xE0, 13, 0x49, 0x31, 0xC0, // r8 ^= r8 << 13
		0x4C, 0x89, 0xC0, 0x48, 0xC1, 0xE8, 7, 0x49, 0x31, 0xC0, // r8 ^= r8 >> 7
		0x4C, 0x89, 0xC0, 0x48, 0xC1, 0xE0, 17, 0x49, 0x31, 0xC0, // r8 ^= r8 << 17
	}
	port := func(access ...byte) []byte {
		return append([]byte{0x89, 0xDA, 0x89, 0xC8}, access...) // mov edx, ebx; mov eax, ecx
	}
	arena := binary.LittleEndian.AppendUint32(nil, puppetArena)
	for op, body := range map[operation][]byte{
		opAgain: {0x49, 0xFF, 0xC1, // inc r9
			0x4D, 0x89, 0x0B, // mov [r11], r9
			0x49, 0x8B, 0x73, 0x08, // mov rsi, [r11+8]
			0x49, 0x89, 0x73, 0x10}, // mov [r11+16], rsi
		opWrite8:  {0x88, 0x0B},
		opWrite16: {0x66, 0x89, 0x0B},
		opWrite32: {0x89, 0x0B},
		opWrite64: {0x48, 0x89, 0x0B},
		opRead8:   {0x8A, 0x0B},
		opRead16:  {0x66, 0x8B, 0x0B},
		opRead32:  {0x8B, 0x0B},
		opRead64:  {0x48, 0x8B, 0x0B},
		opOut8:    port(0xEE),
		opOut16:   port(0x66, 0xEF),
		opOut32:   port(0xEF),
		opIn8:     port(0xEC),
		opIn16:    port(0x66, 0xED),
		opIn32:    port(0xED),
		opNoise:   append(shuffle, 0x44, 0x89, 0x03), // mov [rbx], r8d
		opFill: append(append([]byte{0x48, 0x89, 0xDF}, shuffle...), // mov rdi, rbx
			0x4C, 0x89, 0x07, // mov [rdi], r8
			0x48, 0x83, 0xC7, 0x08, // add rdi, 8
			0xFF, 0xC9, // dec ecx
			0x7F, 0xD7), // jg to the shuffle
		opOutBytes: append(append(append([]byte{0x48, 0x89, 0xF7, 0xBE}, arena...), // mov rdi, rsi; mov esi, arena
			port(0xF3, 0x6E)...), 0x48, 0x89, 0xFE), // rep outsb; mov rsi, rdi
		opInBytes: append(append([]byte{0xBF}, arena...), port(0xF3, 0x6C)...), // mov edi, arena; rep insb
	} {
		at := handlers + int(op)*handlerSize
		for len(c) < at+handlerSize {
			c = append(c, 0x90)
		}
		n := copy(c[at:], body)
		c[at+n] = 0xE9 // jmp loop
		binary.LittleEndian.PutUint32(c[at+n+1:], uint32(loop-(at+n+5)))
	}
	// Operations there are none of do nothing.
	for at := handlers + int(operations)*handlerSize; at < handlers+32*handlerSize; at += handlerSize {
		for len(c) < at+5 {
			c = append(c, 0x90)
		}
		c[at] = 0xE9
		binary.LittleEndian.PutUint32(c[at+1:], uint32(loop-(at+5)))
	}
	return c
}

// puppetStart takes a vCPU from real mode to the loop, with the boot vCPU's
// tables, at puppetTrampoline.
func puppetStart() []byte {
	const pointer = 0xF00 // of the descriptor table, in the same page
	start := []byte{
		0xFA,       // cli
		0x8C, 0xC8, // mov ax, cs
		0x8E, 0xD8, // mov ds, ax
		0x66, 0x0F, 0x01, 0x16, pointer & 0xFF, pointer >> 8, // lgdt [pointer]
		0x66, 0xB8, 0x20, 0, 0, 0, 0x0F, 0x22, 0xE0, // mov cr4, PAE
		0x66, 0xB8, 0x00, 0x90, 0, 0, 0x0F, 0x22, 0xD8, // mov cr3, the page tables
		0x66, 0xB9, 0x80, 0, 0, 0xC0, 0x0F, 0x32, // mov ecx, EFER; rdmsr
		0x66, 0x0D, 0x00, 0x01, 0, 0, 0x0F, 0x30, // or eax, LME; wrmsr
		0x66, 0xB8, 0x11, 0, 0, 0x80, 0x0F, 0x22, 0xC0, // mov cr0, PG|ET|PE
		0x66, 0xEA, 0, 0, 0, 0, 0x10, 0, // ljmp 0x10:tinyEntry
	}
	binary.LittleEndian.PutUint32(start[len(start)-6:], tinyEntry)
	page := make([]byte, pointer+6)
	copy(page, start)
	binary.LittleEndian.PutUint16(page[pointer:], 0x2F)
	binary.LittleEndian.PutUint32(page[pointer+2:], 0x500)
	return page
}

// puppet is the test's end of the strings.
type puppet struct {
	t testing.TB
	m *Machine
}

// newPuppet prepares a machine of puppetCode. All of its vCPUs begin with list,
// which the first does after it has started the others.
func newPuppet(t testing.TB, m *Machine, list []step) *puppet {
	t.Helper()
	p := &puppet{t, m}
	if err := m.memory.Write(puppetTrampoline, puppetStart()); err != nil {
		t.Fatal(err)
	}
	for cpu := range m.cpus.cpus {
		first := list
		if cpu == 0 {
			first = append(slices.Clone(startOthers), list...)
		}
		if !p.play(cpu, first) {
			t.Fatal("there is a list already")
		}
	}
	return p
}

// startOthers are the steps by which a vCPU starts all others: INIT and SIPI
// (Intel SDM vol. 3 §10.6.1).
var startOthers = []step{
	{opWrite32, localAPICCommand, 0x000C_4500},
	{opWrite32, localAPICCommand, 0x000C_4600 | puppetTrampoline>>12},
}

func (p *puppet) bytes(gpa, n uint64) []byte {
	b, err := p.m.memory.Slice(gpa, n)
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

// state returns one of the numbers that a vCPU and the test share.
func (p *puppet) state(cpu, i int) *uint64 {
	return wordAt(p.bytes(puppetState+uint64(cpu)*64+uint64(i)*8, 8))
}

// rounds returns how many lists a vCPU has done.
func (p *puppet) rounds(cpu int) uint64 { return atomic.LoadUint64(p.state(cpu, 0)) }

// play gives a vCPU its next list; it returns false while the vCPU has yet to
// begin the one before.
func (p *puppet) play(cpu int, list []step) bool {
	next, current := p.state(cpu, 1), atomic.LoadUint64(p.state(cpu, 2))
	if current != atomic.LoadUint64(next) {
		return false
	}
	at := uint64(puppetLists + 2*cpu*puppetListSize)
	if current == at {
		at += puppetListSize
	}
	b := p.bytes(at, puppetListSize)
	for i, s := range append(slices.Clip(list[:min(len(list), puppetMost)]), step{}) {
		binary.LittleEndian.PutUint64(b[24*i:], uint64(s.op))
		binary.LittleEndian.PutUint64(b[24*i+8:], s.at)
		binary.LittleEndian.PutUint64(b[24*i+16:], s.value)
	}
	atomic.StoreUint64(next, at)
	return true
}
