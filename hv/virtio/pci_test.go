package virtio_test

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/pci/pcitest"
	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/virtiotest"
)

// echoDevice answers chains with their own contents.
type echoDevice struct {
	mu      sync.Mutex
	config  [8]byte
	changed func()

	refuse   error // from Activate
	features uint64
	queues   []*virtio.Queue
	serving  sync.WaitGroup
	resets   int
}

func (d *echoDevice) ID() virtio.DeviceID       { return virtio.Device9P }
func (d *echoDevice) Features() uint64          { return 1 << 3 }
func (d *echoDevice) QueueSizes() []uint16      { return []uint16{16, 64} }
func (d *echoDevice) SetConfigChanged(f func()) { d.changed = f }

func (d *echoDevice) ReadConfig(offset uint32, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(p)
	if int(offset) < len(d.config) {
		copy(p, d.config[offset:])
	}
}

func (d *echoDevice) WriteConfig(offset uint32, p []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(offset) < len(d.config) {
		copy(d.config[offset:], p)
	}
}

func (d *echoDevice) Activate(features uint64, queues []*virtio.Queue) error {
	d.features, d.queues = features, queues
	if d.refuse != nil {
		return d.refuse
	}
	for _, q := range queues {
		if q != nil {
			d.serving.Go(func() { _ = q.Serve(echo) })
		}
	}
	return nil
}

func (d *echoDevice) Reset() {
	d.resets++
	for _, q := range d.queues {
		if q != nil {
			q.Stop()
		}
	}
	d.queues = nil
	d.serving.Wait()
}

// Registers of struct virtio_pci_common_cfg, and the BAR.
const (
	deviceFeatureSelect, deviceFeature = 0x00, 0x04
	driverFeatureSelect, driverFeature = 0x08, 0x0C
	configVector, numQueues            = 0x10, 0x12
	deviceStatus, generation           = 0x14, 0x15
	queueSelect, queueSize             = 0x16, 0x18
	queueVector, queueEnable           = 0x1A, 0x1C
	queueNotifyOff, queueDesc          = 0x1E, 0x20
	queueAvail, queueUsed              = 0x28, 0x30

	isrAt, deviceAt, notifyAt, tableAt = 0x1000, 0x2000, 0x3000, 0x4000

	slot   = 1 << 15
	window = 1 << 32
)

// machine is a bus with one device, seen from the guest.
type machine struct {
	t         testing.TB
	memory    *mem.Memory
	platform  *pcitest.Platform
	bus       *pci.Bus
	device    *echoDevice
	transport *virtio.PCI
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, memory: virtiotest.NewMemory(t, 4<<20), platform: pcitest.New(), device: new(echoDevice)}
	m.bus = pci.New(m.platform, pci.Window{Start: window, Size: 1 << 30}, zerolog.Nop())
	var err error
	if m.transport, err = virtio.NewPCI(m.bus, m.device, m.memory, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.bus.Close(); err != nil {
			t.Error(err)
		}
		m.transport.Close()
	})
	m.bus.WriteConfig(slot+4, []byte{6, 0})
	return m
}

func (m *machine) read(at uint64, n int) uint64 {
	m.t.Helper()
	p := make([]byte, 8)
	if !m.bus.MMIORead(window+at, p[:n]) {
		m.t.Fatalf("nothing at %#x", at)
	}
	return binary.LittleEndian.Uint64(p)
}

func (m *machine) write(at uint64, n int, v uint64) {
	m.t.Helper()
	if !m.bus.MMIOWrite(window+at, binary.LittleEndian.AppendUint64(nil, v)[:n]) {
		m.t.Fatalf("nothing at %#x", at)
	}
}

// negotiate goes to FEATURES_OK and returns whether it stuck.
func (m *machine) negotiate(features uint64) bool {
	m.write(deviceStatus, 1, 1)
	m.write(deviceStatus, 1, 3)
	for i := range uint64(2) {
		m.write(driverFeatureSelect, 4, i)
		m.write(driverFeature, 4, features>>(32*i)&0xFFFF_FFFF)
	}
	m.write(deviceStatus, 1, 11)
	return m.read(deviceStatus, 1) == 11
}

// enable tells the transport of queue i as d laid it out.
func (m *machine) enable(i int, d *virtiotest.Driver) {
	m.write(queueSelect, 2, uint64(i))
	m.write(queueSize, 2, uint64(d.Config.Size))
	m.write(queueVector, 2, uint64(i+1))
	m.write(queueDesc, 4, d.Config.Desc)
	m.write(queueDesc+4, 4, d.Config.Desc>>32)
	m.write(queueAvail, 8, d.Config.Avail)
	m.write(queueUsed, 8, d.Config.Used)
	m.write(queueEnable, 2, 1)
}

// enableMSIX unmasks all vectors, message i being data i.
func (m *machine) enableMSIX() {
	for i := range uint64(3) {
		m.write(tableAt+16*i, 8, 0xFEE0_0000)
		m.write(tableAt+16*i+8, 8, i)
	}
	m.bus.WriteConfig(slot+0x42, []byte{0, 0x80})
}

// await waits for a message with this data.
func (m *machine) await(data uint32) {
	m.t.Helper()
	for start := time.Now(); time.Since(start) < virtiotest.Timeout; time.Sleep(100 * time.Microsecond) {
		for _, message := range m.platform.Sent() {
			if message.Data == data {
				return
			}
		}
	}
	m.t.Fatalf("no interrupt %d", data)
}

const allFeatures = virtio.FeatureVersion1 | bothFeatures | 1<<3

func TestTransportIdentity(t *testing.T) {
	m := newMachine(t)
	p := make([]byte, 256)
	m.bus.ReadConfig(slot, p)
	le := binary.LittleEndian
	if v, d, rev, sub := le.Uint16(p), le.Uint16(p[2:]), p[8], le.Uint16(p[0x2E:]); v != 0x1AF4 || d != 0x1049 || rev != 1 || sub < 0x40 {
		t.Errorf("identity %x:%x revision %d subsystem %x", v, d, rev, sub)
	}
	// Type → offset and length, as struct virtio_pci_cap tells.
	want := map[byte][2]uint32{1: {0, 0x3C}, 2: {notifyAt, 8}, 3: {isrAt, 1}, 4: {deviceAt, 4096}, 5: {0, 0}}
	seen := 0
	for at := p[0x34]; at != 0; at = p[at+1] {
		if p[at] != 0x09 {
			continue
		}
		seen++
		kind := p[at+3]
		if got := [2]uint32{le.Uint32(p[at+8:]), le.Uint32(p[at+12:])}; got != want[kind] || p[at+4] != 0 {
			t.Errorf("capability %d: BAR %d, %#x", kind, p[at+4], got)
		}
		if length := p[at+2]; kind == 2 && (length != 20 || le.Uint32(p[at+16:]) != 4) || kind == 5 && length != 20 || kind != 2 && kind != 5 && length != 16 {
			t.Errorf("capability %d is %d bytes", kind, length)
		}
	}
	if seen != len(want) {
		t.Errorf("%d capabilities", seen)
	}
}

func TestTransportServes(t *testing.T) {
	m := newMachine(t)
	m.enableMSIX()
	for round := range 3 { // with a reset in between
		if !m.negotiate(allFeatures) {
			t.Fatal("features refused")
		}
		m.write(configVector, 2, 0)
		d := virtiotest.NewDriver(t, m.memory, ringBase, 32, allFeatures)
		m.enable(1, d)
		m.write(deviceStatus, 1, 15)
		if got := m.read(deviceStatus, 1); got != 15 {
			t.Fatalf("status %d", got)
		}
		if m.device.features != allFeatures || m.device.queues[0] != nil || m.device.queues[1] == nil {
			t.Fatalf("activated with %#x, %v", m.device.features, m.device.queues)
		}
		r, w := d.AllocBytes([]byte("ping")), d.Alloc(4, true)
		for range 5 {
			d.SetUsedEvent(d.UsedIdx())
			d.Offer(r, w)
			m.write(notifyAt+4*1, 2, 1) // the way KVM does not take
			if _, n := d.WaitUsed(); n != 4 || string(d.Data(w)) != "ping" {
				t.Fatalf("%d bytes, %q", n, d.Data(w))
			}
			m.await(2)
		}
		m.device.mu.Lock()
		m.device.config[0]++
		m.device.changed()
		m.device.mu.Unlock()
		m.await(0)
		if got := m.read(generation, 1); got != uint64(round+1) {
			t.Fatalf("generation %d", got)
		}
		// Too late for all of this.
		m.write(queueDesc, 8, 0x1234)
		m.write(queueSize, 2, 2)
		m.write(driverFeature, 4, 0)
		if m.read(queueDesc, 8) != d.Config.Desc || m.read(queueSize, 2) != 32 {
			t.Fatal("queue changed after it was enabled")
		}
		m.write(deviceStatus, 1, 0)
		if got := m.read(deviceStatus, 1); got != 0 || m.device.resets != round+1 {
			t.Fatalf("status %d after %d resets", got, m.device.resets)
		}
		if m.read(queueEnable, 2) != 0 || m.read(configVector, 2) != 0xFFFF {
			t.Fatal("state survived reset")
		}
	}
	if stats := m.transport.Stats(); stats[1].Chains != 15 || stats[0].Chains != 0 {
		t.Fatalf("%+v", stats)
	}
}

func TestTransportFeatures(t *testing.T) {
	for _, test := range []struct {
		name     string
		features uint64
		ok       bool
	}{
		{"all", allFeatures, true},
		{"the least", virtio.FeatureVersion1, true},
		{"legacy", bothFeatures, false},
		{"not offered", allFeatures | 1<<4, false},
		{"not offered, high", allFeatures | 1<<63, false},
	} {
		m := newMachine(t)
		if got := m.negotiate(test.features); got != test.ok {
			t.Errorf("%s: %v", test.name, got)
		}
		if !test.ok {
			m.write(deviceStatus, 1, 15)
			if got := m.read(deviceStatus, 1); got != 3 || m.device.features != 0 {
				t.Errorf("%s: status %d", test.name, got)
			}
		}
	}
	m := newMachine(t)
	var offered uint64
	for i := range uint64(4) {
		m.write(deviceFeatureSelect, 4, i)
		if half := m.read(deviceFeature, 4); i < 2 {
			offered |= half << (32 * i)
		} else if half != 0 {
			t.Errorf("feature word %d is %#x", i, half)
		}
	}
	if offered != allFeatures {
		t.Errorf("offered %#x", offered)
	}
}

func TestTransportQueueRegisters(t *testing.T) {
	m := newMachine(t)
	if got := m.read(numQueues, 2); got != 2 {
		t.Errorf("%d queues", got)
	}
	for i, want := range []uint64{16, 64, 0} {
		m.write(queueSelect, 2, uint64(i))
		if got := m.read(queueSize, 2); got != want {
			t.Errorf("queue %d has size %d", i, got)
		}
		if got := m.read(queueNotifyOff, 2); want > 0 && got != uint64(i) {
			t.Errorf("queue %d has doorbell %d", i, got)
		}
	}
	m.write(queueVector, 2, 0) // of no queue
	m.write(queueEnable, 2, 1)
	if m.read(queueVector, 2) != 0xFFFF || m.read(queueEnable, 2) != 0 {
		t.Error("a queue that does not exist has state")
	}
	m.write(queueSelect, 2, 0)
	for _, v := range []struct{ write, read uint64 }{{2, 2}, {3, 0xFFFF}, {0xFFFF, 0xFFFF}} {
		m.write(queueVector, 2, v.write)
		m.write(configVector, 2, v.write)
		if q, c := m.read(queueVector, 2), m.read(configVector, 2); q != v.read || c != v.read {
			t.Errorf("vector %d reads %d and %d", v.write, q, c)
		}
	}
	m.write(deviceAt+1, 2, 0xABCD)
	if got := m.read(deviceAt, 4); got != 0xABCD00 {
		t.Errorf("device configuration %#x", got)
	}
}

func TestTransportNeedsReset(t *testing.T) {
	for _, test := range []struct {
		name  string
		upset func(m *machine, d *virtiotest.Driver)
		after func(m *machine, d *virtiotest.Driver)
	}{
		{"queue outside memory", func(m *machine, d *virtiotest.Driver) { d.Config.Desc = 1 << 40 }, nil},
		{"queue size 0", func(m *machine, d *virtiotest.Driver) { d.Config.Size = 0 }, nil},
		{"queue too large", func(m *machine, d *virtiotest.Driver) { d.Config.Size = 128 }, nil},
		{"device refuses", func(m *machine, _ *virtiotest.Driver) { m.device.refuse = errors.New("no") }, nil},
		{"broken ring", nil, func(m *machine, d *virtiotest.Driver) {
			d.SetAvailIdx(100)
			m.write(notifyAt, 2, 0)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			m.enableMSIX()
			d := virtiotest.NewDriver(t, m.memory, ringBase, 16, allFeatures)
			if test.upset != nil {
				test.upset(m, d)
			}
			m.negotiate(allFeatures)
			m.write(configVector, 2, 0)
			m.enable(0, d)
			m.write(deviceStatus, 1, 15)
			if test.after != nil {
				test.after(m, d)
			}
			m.await(0)
			if got := m.read(deviceStatus, 1); got != 79 {
				t.Fatalf("status %d", got)
			}
			m.write(deviceStatus, 1, 0)
			if got := m.read(deviceStatus, 1); got != 0 {
				t.Fatalf("status %d after reset", got)
			}
			m.device.refuse = nil
			if !m.negotiate(allFeatures) {
				t.Fatal("features refused after reset")
			}
		})
	}
}

// Without MSI-X the ISR register tells, and reading it acknowledges.
func TestTransportISR(t *testing.T) {
	m := newMachine(t)
	m.device.changed() // not live: no interrupt
	if got := m.read(isrAt, 1); got != 0 {
		t.Fatalf("ISR %d before DRIVER_OK", got)
	}
	m.negotiate(virtio.FeatureVersion1)
	d := virtiotest.NewDriver(t, m.memory, ringBase, 16, 0)
	m.enable(0, d)
	m.write(deviceStatus, 1, 15)
	d.Offer(d.Alloc(1, true))
	m.write(notifyAt, 2, 0)
	d.WaitUsed()
	m.device.changed()
	var isr uint64
	for start := time.Now(); isr != 3 && time.Since(start) < virtiotest.Timeout; {
		isr |= m.read(isrAt, 1)
	}
	if isr != 3 || m.read(isrAt, 1) != 0 {
		t.Fatalf("ISR %d", isr)
	}
}

func TestTransportWindow(t *testing.T) {
	m := newMachine(t)
	p := make([]byte, 256)
	m.bus.ReadConfig(slot, p)
	at := uint64(slot)
	for c := p[0x34]; c != 0; c = p[c+1] {
		if p[c] == 0x09 && p[c+3] == 5 {
			at += uint64(c)
		}
	}
	access := func(bar byte, offset, length uint32) {
		m.bus.WriteConfig(at+4, []byte{bar})
		m.bus.WriteConfig(at+8, binary.LittleEndian.AppendUint32(nil, offset))
		m.bus.WriteConfig(at+12, binary.LittleEndian.AppendUint32(nil, length))
	}
	data := func() uint64 {
		p := make([]byte, 8)
		m.bus.ReadConfig(at+16, p[:4])
		return binary.LittleEndian.Uint64(p)
	}
	access(0, numQueues, 2)
	if got := data(); got != 2 {
		t.Fatalf("num_queues through the window: %d", got)
	}
	access(0, deviceStatus, 1)
	m.bus.WriteConfig(at+16, []byte{3})
	if got := m.read(deviceStatus, 1); got != 3 {
		t.Fatalf("status written through the window: %d", got)
	}
	for _, bad := range [][3]uint32{{1, deviceStatus, 1}, {0, 0x8000, 4}, {0, 0xFFFF_FFFC, 4}, {0, deviceStatus, 3}, {0, deviceStatus, 0}, {0, 2, 4}, {0, deviceStatus, 0xFFFF_FFFF}} {
		access(byte(bad[0]), bad[1], bad[2])
		m.bus.WriteConfig(at+16, []byte{0, 0, 0, 0})
		data()
		if got := m.read(deviceStatus, 1); got != 3 {
			t.Fatalf("%v reached the device", bad)
		}
	}
}

// FuzzTransport plays a driver that knows no order. Each operation is an
// opcode, a length, a 16-bit offset and 8 bytes.
func FuzzTransport(f *testing.F) {
	const operation = 12
	op := func(code, n byte, at uint16, v uint64) []byte {
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16([]byte{code, n}, at), v)
	}
	up := func(ops ...[]byte) (script []byte) {
		for _, o := range append([][]byte{
			op(1, 4, driverFeatureSelect, 0), op(1, 4, driverFeature, uint64(bothFeatures)),
			op(1, 4, driverFeatureSelect, 1), op(1, 4, driverFeature, 1), op(1, 1, deviceStatus, 11),
			op(1, 2, queueSelect, 0), op(1, 2, queueSize, 8), op(1, 8, queueDesc, 0x1000),
			op(1, 8, queueAvail, 0x2000), op(1, 8, queueUsed, 0x3000), op(1, 2, queueEnable, 1),
			op(1, 1, deviceStatus, 15),
		}, ops...) {
			script = append(script, o...)
		}
		return script
	}
	f.Add(up(op(4, 8, 0x2000, 0x0000_0000_0001_0000), op(1, 2, notifyAt, 0), op(1, 1, deviceStatus, 0)))
	f.Add(up(op(4, 8, 0x2000, 0x0000_0000_00FF_0000), op(1, 2, notifyAt, 0), op(0, 1, deviceStatus, 0)))
	f.Add(up(op(2, 4, 0x40, 0x8000_0000), op(3, 4, 0x80, 0), op(5, 0, 0, 0), op(1, 1, deviceStatus, 128)))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200*operation {
			return // each reset starts and ends threads
		}
		m := newMachine(t)
		for ; len(script) >= operation; script = script[operation:] {
			at := uint64(binary.LittleEndian.Uint16(script[2:]))
			p := append([]byte(nil), script[4:][:script[1]%9]...)
			switch script[0] % 6 {
			case 0:
				m.bus.MMIORead(window+at%0x8000, p)
			case 1:
				m.bus.MMIOWrite(window+at%0x8000, p)
			case 2:
				m.bus.WriteConfig(slot+0x40+at%0xC0, p)
			case 3:
				m.bus.ReadConfig(slot+at%0x1000, p)
			case 4:
				if m.device.queues == nil || at >= 0x8000 { // rings are written by devices too, unordered
					_ = m.memory.Write(at, p)
				}
			case 5:
				m.device.changed()
			}
		}
		done := make(chan struct{})
		go func() { defer close(done); m.transport.Reset() }()
		select {
		case <-done:
		case <-time.After(virtiotest.Timeout):
			t.Fatal("reset takes for ever")
		}
	})
}
