package hv

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/x86"
	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/pkg/ninep"
	"github.com/drzln/whiterun/store/closure"
)

// The hostile guest: puppets that bring the virtio devices up as a driver does
// and then abuse them, and everything else that a guest can reach, at random.

// hostileDuration returns how long a hostile guest lives: WHITERUN_HOSTILE, or
// a few seconds.
func hostileDuration(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WHITERUN_HOSTILE")
	if text == "" {
		return 4 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("WHITERUN_HOSTILE: %v", err)
	}
	return d
}

// Where a hostile guest has things. The arena lies above everything that it
// needs itself, so that no device writes there by its order.
const (
	hostileBARs     = 0xC000_0000 // in the boot page tables' reach, 64 KiB a slot
	hostileMessages = puppetArena + 0x10_0000
	hostileMessage  = 0x1000 // bytes from one message to the next
	hostileReplies  = puppetArena + 0x100_0000
	hostileRAM      = 64 << 20

	ringAvail = 0x8000 // from the descriptor table
	ringUsed  = 0x1_0000
	ringSize  = 0x2_0000
	chains    = 32 // that are laid out in each ring

	// The virtio BAR, a page each.
	barCommon, barISR, barDevice, barNotify, barTable, barPBA = 0, 0x1000, 0x2000, 0x3000, 0x4000, 0x5000
)

// virtqueue is one that the guest knows.
type virtqueue struct {
	slot, index int
	size        uint16
}

func (q virtqueue) ring() uint64     { return puppetArena + uint64(q.slot*2+q.index)*ringSize }
func (q virtqueue) bar() uint64      { return hostileBARs + uint64(q.slot)<<16 }
func (q virtqueue) doorbell() uint64 { return q.bar() + barNotify + uint64(q.index)*4 }

var (
	consoleIn  = virtqueue{1, 0, 64}
	consoleOut = virtqueue{1, 1, 64}
	storeQueue = virtqueue{2, 0, 256}
	virtqueues = []virtqueue{consoleIn, consoleOut, storeQueue}
)

// hostile writes a guest's lists and memory.
type hostile struct {
	*puppet
	*rand.Rand
	// careful keeps the guest from what rightly ends or breaks it alone: power
	// ports, messages other than fixed interrupts, devices that write to its code.
	careful bool
}

func (h *hostile) pick(of ...uint64) uint64 { return of[h.IntN(len(of))] }

// odd returns a number as people who look for bugs choose them.
func (h *hostile) odd() uint64 {
	switch h.IntN(4) {
	case 0:
		return h.pick(0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1<<63-1, 1<<63, ^uint64(0))
	case 1:
		return 1 << h.IntN(64)
	case 2:
		return uint64(h.IntN(256))
	}
	return h.Uint64()
}

// address returns a guest-physical one for a ring or a buffer.
func (h *hostile) address() uint64 {
	switch h.IntN(8) {
	case 0:
		return hostileRAM - h.pick(1, 2, 16, 4096)
	case 1:
		return hostileRAM + h.Uint64()>>h.IntN(38) | puppetArena // also its lower half is no code
	case 2:
		if !h.careful {
			return h.Uint64N(puppetArena)
		}
	}
	return puppetArena + h.Uint64N(hostileRAM-puppetArena)
}

// place puts a function's BAR where the guest can reach it and lets it decode.
func place(slot int) []step {
	config := x86.ECAMStart + uint64(slot)<<15
	return []step{
		{opWrite32, config + 0x10, hostileBARs + uint64(slot)<<16},
		{opWrite32, config + 0x14, 0},
		{opWrite16, config + 0x04, 6},
		{opWrite16, config + 0x42, 0x8000}, // MSI-X on
	}
}

// bringUp is what a driver does (virtio 1.2 §3.1.1), for all queues of a slot.
func bringUp(slot int, features uint64, ring func(virtqueue, uint64) uint64) []step {
	bar := hostileBARs + uint64(slot)<<16
	list := append(place(slot), step{opWrite8, bar + 0x14, 0}, step{opRead8, bar + 0x14, 0},
		step{opWrite8, bar + 0x14, 1}, step{opWrite8, bar + 0x14, 3},
		step{opWrite32, bar + 0x00, 1}, step{opRead32, bar + 0x04, 0},
		step{opWrite32, bar + 0x08, 0}, step{opWrite32, bar + 0x0C, features & 0xFFFF_FFFF},
		step{opWrite32, bar + 0x08, 1}, step{opWrite32, bar + 0x0C, features >> 32},
		step{opWrite8, bar + 0x14, 11}, step{opWrite16, bar + 0x10, 0})
	for _, q := range virtqueues {
		if q.slot != slot {
			continue
		}
		entry := bar + barTable + uint64(q.index+1)*16
		desc, avail, used := ring(q, 0), ring(q, ringAvail), ring(q, ringUsed)
		list = append(list, step{opWrite16, q.ring() + ringAvail + 2, 0},
			step{opWrite32, entry, 0xFEE0_0000}, step{opWrite32, entry + 4, 0},
			step{opWrite32, entry + 8, 0x40 + uint64(q.index)}, step{opWrite32, entry + 12, 0},
			step{opWrite16, bar + 0x16, uint64(q.index)}, step{opRead16, bar + 0x18, 0},
			step{opWrite16, bar + 0x1A, uint64(q.index + 1)},
			step{opWrite32, bar + 0x20, desc & 0xFFFF_FFFF}, step{opWrite32, bar + 0x24, desc >> 32},
			step{opWrite32, bar + 0x28, avail & 0xFFFF_FFFF}, step{opWrite32, bar + 0x2C, avail >> 32},
			step{opWrite32, bar + 0x30, used & 0xFFFF_FFFF}, step{opWrite32, bar + 0x34, used >> 32},
			step{opWrite16, bar + 0x1C, 1})
	}
	return append(list, step{opWrite8, bar + 0x14, 15})
}

func properly(q virtqueue, offset uint64) uint64 { return q.ring() + offset }

// offer makes n more chains available, k at a time, with a doorbell for each k.
func offer(q virtqueue, from, n, k int) (list []step) {
	for i := from + k; i <= from+n; i += k {
		list = append(list, step{opWrite16, q.ring() + ringAvail + 2, uint64(i)}, step{opWrite16, q.doorbell(), uint64(q.index)})
	}
	return list
}

const driverFeatures = virtio.FeatureVersion1 | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

// program returns a list for a vCPU.
func (h *hostile) program() (list []step) {
	for most := 100 + h.IntN(1500); len(list) < most; {
		list = append(list, h.part()...)
	}
	return list
}

// part returns one attack.
func (h *hostile) part() (list []step) {
	again := func(n int, one func() step) {
		for range 1 + h.IntN(n) {
			list = append(list, one())
		}
	}
	slot := 1 + h.IntN(2)
	bar := hostileBARs + uint64(slot)<<16
	switch h.IntN(10) {
	case 0, 1: // a driver that knows what it does, until the ring has odd contents
		list = bringUp(slot, driverFeatures&^(h.odd()<<28&0xF000_0000), properly)
		for _, q := range virtqueues {
			if q.slot == slot {
				list = append(list, offer(q, 0, 1+h.IntN(2*chains), 1+h.IntN(5))...)
			}
		}
	case 2: // one that does not
		list = bringUp(slot, driverFeatures|h.odd(), func(q virtqueue, offset uint64) uint64 {
			if h.IntN(4) > 0 {
				return properly(q, offset)
			}
			return h.address() &^ h.pick(0, 1, 3, 15)
		})
		list = append(list, offer(virtqueues[h.IntN(3)], h.IntN(1<<16), 1+h.IntN(20), 1)...)
	case 3: // configuration space
		again(60, h.configAccess)
		list = append(list, place(slot)...)
	case 4: // all of it
		if h.IntN(4) == 0 {
			list = append(list, step{opFill, x86.ECAMStart + uint64(h.IntN(4))<<15, 512})
		}
		list = append(list, place(slot)...)
	case 5: // the BAR
		again(80, func() step { return h.barAccess(bar) })
	case 6: // ports
		again(60, h.portAccess)
		list = append(list, place(slot)...)
	case 7: // reset and doorbells
		again(20, func() step {
			if h.IntN(3) == 0 {
				return step{opWrite8, bar + 0x14, h.pick(0, 0, 0, 3, 11, 15, 128)}
			}
			return step{opWrite8 + operation(h.IntN(4)), bar + barNotify + h.pick(0, 4, 8, 0xFFC, 1, 2), h.odd()}
		})
	case 8: // what the rings and the messages hold
		q := virtqueues[h.IntN(3)]
		list = append(list, step{opFill, q.ring() + h.pick(0, ringAvail, ringUsed) + 8*h.Uint64N(512), 1 + h.Uint64N(64)})
		again(10, func() step {
			return step{opWrite16, q.ring() + ringAvail + 2*h.Uint64N(40), h.odd()}
		})
	case 9: // message-signalled interrupts and where nothing is
		again(20, func() step { return h.tableAccess(bar) })
		again(5, func() step { return h.access(hostileBARs + 0x10_0000 + h.Uint64N(0x100_0000)) })
		if !h.careful {
			again(5, func() step { return h.access(0xFEC0_0000 + h.pick(0, 0x20_0000) + h.Uint64N(0x400)) })
		}
	}
	return list
}

// windowData is the register, of four bytes, that gives access to the BAR
// through configuration space (VIRTIO_PCI_CAP_PCI_CFG).
const windowData = 0xA0

// configAccess reads or writes in ECAM, mostly of a function there is.
func (h *hostile) configAccess() step {
	offset := h.Uint64N(3)<<15 | h.Uint64N(0x110)
	if h.IntN(5) == 0 {
		offset = h.Uint64N(x86.ECAMSize)
	}
	if register := offset & 0xFFF; h.careful && register+8 > windowData && register < windowData+4 {
		return step{opRead32, x86.ECAMStart + offset, 0}
	}
	return h.access(x86.ECAMStart + offset)
}

// access reads or writes at gpa in some width.
func (h *hostile) access(gpa uint64) step {
	return step{opWrite8 + operation(h.IntN(8)), gpa, h.odd()}
}

// barAccess reads or writes somewhere in a BAR.
func (h *hostile) barAccess(bar uint64) step {
	offset := h.pick(barCommon, barCommon, barCommon, barISR, barDevice, barNotify, barPBA, 0x6000, 0x7FF8)
	if h.IntN(3) == 0 {
		offset += h.Uint64N(0x1000)
	} else {
		offset += h.Uint64N(0x40)
	}
	s := h.access(bar + offset)
	if h.careful && s.op <= opWrite64 && offset+8 > 0x20 && offset < 0x38 {
		s = step{opWrite32, bar + 0x20 + 4*h.Uint64N(6), h.pick(0, puppetArena+h.Uint64N(1<<28))} // the rings' addresses
	}
	if h.careful && offset >= barTable-8 && offset < barPBA {
		return h.tableAccess(bar)
	}
	return s
}

// tableAccess writes to the table of MSI-X.
func (h *hostile) tableAccess(bar uint64) step {
	entry, field := bar+barTable+16*h.Uint64N(4), 4*h.Uint64N(4)
	if !h.careful {
		return h.access(bar + barTable + h.Uint64N(0x1008))
	}
	value := h.odd()
	if field == 8 {
		value &^= 0x700 // no NMI, no INIT
	}
	return step{opWrite32, entry + field, value}
}

// portAccess reads or writes a port.
func (h *hostile) portAccess() step {
	width := operation(h.IntN(3))
	if h.IntN(20) == 0 && h.careful {
		return step{opOutBytes + operation(h.IntN(2)), h.pick(x86.COM1Port, pci.DataPort, 0x80), h.Uint64N(100)}
	}
	port := h.pick(x86.COM1Port+h.Uint64N(8), x86.COM1Port+h.Uint64N(8), pci.AddressPort+h.Uint64N(8), pci.DataPort, h.Uint64N(1<<16))
	if !h.careful && h.IntN(500) == 0 {
		port = h.pick(x86.I8042Port, x86.PVPanicPort, x86.ResetPort, x86.SleepPort)
		return step{opOut8 + width, port, h.pick(0xFE, 1, 2, x86.ResetValue, x86.SleepTypeS5<<2|0x20)}
	}
	switch port {
	case x86.I8042Port, x86.PVPanicPort, x86.ResetPort, x86.SleepPort:
		if h.careful {
			return step{opIn8 + width, port, 0}
		}
	case pci.AddressPort:
		register := h.Uint64N(256)
		if h.careful && register&^3 == windowData {
			register = 0
		}
		return step{opOut32, port, 1<<31 | h.Uint64N(4)<<11 | register}
	}
	if h.IntN(3) == 0 {
		return step{opIn8 + width, port, 0}
	}
	return step{opOut8 + width, port, h.odd()}
}

// deal lays chains and messages out, right ones to begin with.
func (h *hostile) deal(q virtqueue, right bool) {
	desc, avail := h.bytes(q.ring(), 16*uint64(q.size)), h.bytes(q.ring()+ringAvail, 6+2*uint64(q.size))
	put := func(i int, gpa uint64, n uint32, flags, next uint16) {
		if !right && h.IntN(12) == 0 {
			gpa, n = h.address(), uint32(h.odd())
		}
		if !right && h.IntN(12) == 0 {
			flags, next = uint16(h.IntN(8)), uint16(h.odd())
		}
		binary.LittleEndian.PutUint64(desc[16*i:], gpa)
		binary.LittleEndian.PutUint64(desc[16*i+8:], uint64(n)|uint64(flags)<<32|uint64(next)<<48)
	}
	for i := range int(q.size) {
		head := uint16(i % chains)
		if q.slot == storeQueue.slot {
			head *= 3
		}
		binary.LittleEndian.PutUint16(avail[4+2*i:], head)
	}
	for i := range chains {
		reply, room := hostileReplies+uint64(i)<<16, uint32(1+h.IntN(1<<16))
		switch q {
		case consoleIn:
			put(i, reply, room, 2, 0)
		case consoleOut:
			put(i, reply, room>>8, 0, 0)
		case storeQueue:
			at := hostileMessages + uint64(i)*hostileMessage
			msg := h.message(i)
			if !right && h.IntN(4) == 0 {
				msg[h.IntN(len(msg))] ^= byte(h.odd())
			}
			copy(h.bytes(at, hostileMessage), msg)
			put(3*i, at, uint32(len(msg)), 1, uint16(3*i+1))
			put(3*i+1, reply, 11, 3, uint16(3*i+2))
			put(3*i+2, reply+4096, room>>1+4096, 2, 0)
		}
	}
}

// message returns 9P message i of a session.
func (h *hostile) message(i int) []byte {
	build := func(t ninep.MessageType, fields ...any) []byte {
		msg := []byte{0, 0, 0, 0, byte(t), byte(i), 0}
		for _, field := range fields {
			if text, ok := field.(string); ok {
				msg = binary.LittleEndian.AppendUint16(msg, uint16(len(text)))
				field = []byte(text)
			}
			msg, _ = binary.Append(msg, binary.LittleEndian, field)
		}
		binary.LittleEndian.PutUint32(msg, uint32(len(msg)))
		return msg
	}
	fid, other := uint32(h.IntN(4)), uint32(1+h.IntN(4))
	offset, length := h.pick(0, 0, 4096, h.odd()), uint32(h.pick(16, 4096, 60000, h.odd()))
	file := []string{"small", "large", "gone", "link", "folder"}[h.IntN(5)]
	switch {
	case i == 0:
		return build(ninep.Tversion, uint32(65536), ninep.Version)
	case i == 1:
		return build(ninep.Tattach, uint32(0), ^uint32(0), "", "", uint32(0))
	case i == 2: // so that one read at least meets the file that is gone
		return build(ninep.Twalk, uint32(0), uint32(9), uint16(2), hostilePackage, "gone")
	case i == 3:
		return build(ninep.Tlopen, uint32(9), uint32(0))
	case i == 4:
		return build(ninep.Tread, uint32(9), uint64(0), uint32(4096))
	case i == 5:
		return build(ninep.Twalk, uint32(0), uint32(8), uint16(2), hostilePackage, "large")
	case i == 6:
		return build(ninep.Tlopen, uint32(8), uint32(0))
	case i < 10:
		return build(ninep.Tread, uint32(8), offset, length)
	}
	switch h.IntN(10) {
	case 0, 1:
		return build(ninep.Twalk, uint32(0), other, uint16(2), hostilePackage, file)
	case 2:
		return build(ninep.Tlopen, fid, uint32(0))
	case 3, 4:
		return build(ninep.Tread, fid, offset, length)
	case 5:
		return build(ninep.Treaddir, fid, offset, length)
	case 6:
		return build(ninep.Tgetattr, fid, h.odd())
	case 7:
		return build(ninep.Treadlink, fid)
	case 8:
		return build(ninep.Tclunk, fid)
	}
	return build(ninep.MessageType(h.IntN(256)), fid, h.Uint64(), h.Uint64())
}

const hostilePackage = "00000000000000000000000000000000-hostile"

// hostileStore returns the index of a store with all there can be in one, and
// a file that has gone since.
func hostileStore(t testing.TB) *closure.Index {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	top := filepath.Join(dir, hostilePackage)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(top, "folder"), 0o755))
	for name, size := range map[string]int{"small": 1, "large": 1<<20 + 655, "gone": 4096} {
		check(os.WriteFile(filepath.Join(top, name), bytes.Repeat([]byte{'x'}, size), 0o644))
	}
	for i := range 200 {
		check(os.WriteFile(filepath.Join(top, "folder", strings.Repeat("n", 1+i)), nil, 0o644))
	}
	check(os.Symlink("small", filepath.Join(top, "link")))
	index, err := closure.Build(t.Context(), dir, []string{top})
	check(err)
	t.Cleanup(func() { check(index.Close()) })
	check(os.Remove(filepath.Join(top, "gone")))
	return index
}

// lines counts what is logged.
type lines struct {
	n    atomic.Int64
	mu   sync.Mutex
	head bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	if l.n.Add(1) <= 20 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.head.Write(p)
	}
	return len(p), nil
}

// lazy is a console's reader that takes a rest now and then.
type lazy struct{ n atomic.Int64 }

func (l *lazy) Write(p []byte) (int, error) {
	if n := l.n.Add(int64(len(p))); n%64 == 0 {
		time.Sleep(time.Millisecond)
	}
	return len(p), nil
}

// typist types nonsense until its reader stops reading.
type typist struct{ ended <-chan struct{} }

func (y typist) Read(p []byte) (int, error) {
	select {
	case <-y.ended:
		return 0, io.EOF
	case <-time.After(5 * time.Millisecond):
		return copy(p, "nonsense\x00\x1b[c\xff"), nil
	}
}

// reached counts what a hostile guest came to.
type reached struct {
	exits, chains, requests, refused, read, console, rounds, others uint64
}

func (r *reached) add(m *Machine, h *hostile, out *lazy) {
	r.exits += m.cpus.exits.io.Load() + m.cpus.exits.mmio.Load()
	for _, d := range m.devices {
		for _, q := range d.function.Stats() {
			r.chains += q.Chains
		}
	}
	stats := m.server.Stats()
	for _, n := range stats.Messages {
		r.requests += n
	}
	r.refused, r.read = r.refused+stats.Errors, r.read+stats.ReadBytes
	r.console += uint64(out.n.Load())
	for cpu := range m.cpus.cpus {
		if n := h.rounds(cpu); cpu == 0 {
			r.rounds += n
		} else {
			r.others += n
		}
	}
}

// hostileRun lets one machine live for a while, adds what it came to, and
// returns how it ended.
func hostileRun(t *testing.T, store ninep.Tree, seed uint64, careful bool, life time.Duration, sum *reached) Outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log lines
	var out lazy
	m, err := New(ctx, tinyOptions(t, puppetCode(seed), func(o *Options) {
		o.Manifest.CPUs.Cores = 3
		o.Manifest.Store = &manifest.Store{Tag: "nix-store", Dir: "/nix/store"}
		o.Store, o.Input, o.Output = store, typist{ctx.Done()}, &out
		o.Log = zerolog.New(&log).Level(zerolog.InfoLevel)
	}))
	if err != nil {
		t.Fatal(err)
	}
	first := append(bringUp(1, driverFeatures, properly), bringUp(2, driverFeatures, properly)...)
	for _, q := range virtqueues {
		first = append(first, offer(q, 0, chains, 1)...)
	}
	h := &hostile{newPuppet(t, m, first), rand.New(rand.NewPCG(seed, 0)), careful}
	for _, q := range virtqueues {
		h.deal(q, true)
	}
	type end struct {
		Outcome
		error
	}
	ended := make(chan end, 1)
	go func() {
		outcome, err := m.Run(ctx)
		ended <- end{outcome, err}
	}()
	var over end
	stop := time.After(life)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var stopped time.Time
	for running := true; running; {
		select {
		case over = <-ended:
			running = false
		case <-stop:
			stopped = time.Now()
			cancel()
		case <-tick.C:
			h.play(h.IntN(3), h.program())
			h.deal(virtqueues[h.IntN(3)], h.IntN(2) == 0)
			switch h.IntN(20) {
			case 0:
				m.Resize(uint16(h.Uint32()), uint16(h.Uint32()))
			case 1:
				if m.Pause() == nil {
					m.Resume()
				}
			}
		}
	}
	if !stopped.IsZero() {
		// The second that is promised, and one for a busy machine.
		if took := time.Since(stopped); took > 2*time.Second {
			t.Errorf("seed %d: Run returned %v after it was told to", seed, took)
		}
	}
	if over.error != nil {
		t.Errorf("seed %d: %v", seed, over.error)
	}
	sum.add(m, h, &out)
	if n := log.n.Load(); n > 2*maxStoreWarnings {
		t.Errorf("seed %d: %d lines are logged:\n%s", seed, n, log.head.Bytes())
	}
	if err := m.Close(); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	return over.Outcome
}

// TestHostileGuest lets careful guests live for half of the time, which no
// outcome but the test's own end may cut short, and careless ones, which may
// end as they like, for the other half. Nothing of either stays.
func TestHostileGuest(t *testing.T) {
	requireKVM(t)
	ownTemporary(t)
	store := hostileStore(t)
	first := rand.Uint64()
	var sum reached
	hostileRun(t, store, first, true, 200*time.Millisecond, &sum) // what is made once is there
	before, began := held(t), time.Now()
	outcomes := map[Reason]int{}
	var machines uint64
	for seed := first; !t.Failed() && time.Since(began) < hostileDuration(t)/2; seed++ {
		machines++
		if outcome := hostileRun(t, store, seed, true, 2*time.Second, &sum); outcome.Reason != Stopped {
			t.Errorf("seed %d: the careful guest ended: %v", seed, outcome)
		}
	}
	for seed := first; !t.Failed() && time.Since(began) < hostileDuration(t); seed++ {
		machines++
		outcomes[hostileRun(t, store, seed, false, time.Second, &sum).Reason]++
	}
	t.Logf("%d machines from seed %d on: %+v; the careless ended: %v", machines, first, sum, outcomes)
	if sum.exits < 1000*machines || sum.chains < 10*machines || sum.requests < 10*machines ||
		sum.refused == 0 || sum.read == 0 || sum.console == 0 || sum.rounds == 0 || sum.others == 0 {
		t.Errorf("the guests did not reach what they were to: %+v", sum)
	}
	held(t).sameAs(t, before, 4<<20)
}
