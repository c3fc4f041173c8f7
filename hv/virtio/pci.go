package virtio

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/pci"
)

// Identity of a modern virtio function (virtio 1.2 §4.1.2).
const (
	pciVendor         = 0x1AF4
	pciDeviceBase     = 0x1040
	pciRevision       = 1
	pciSubsystem      = 0x1100   // any from 0x40 on
	classConsole      = 0x078000 // simple communication controller
	classUnclassified = 0xFF0000
)

// The BAR: a page for each structure, so that MSI-X has its own.
const (
	barCommon   = 0x0000
	barISR      = 0x1000
	barDevice   = 0x2000
	barNotify   = 0x3000
	barMSIX     = 0x4000
	barPBA      = 0x5000
	barSize     = 0x8000
	barPageSize = 0x1000

	notifyMultiplier = 4 // bytes from one queue's doorbell to the next

	maxQueues = 255 // each has a vector, and there are 256 of them
)

// noVector is VIRTIO_MSI_NO_VECTOR.
const noVector = 0xFFFF

// Device status bits (virtio 1.2 §2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128
)

// ISR status bits (virtio 1.2 §4.1.4.5).
const (
	isrQueue  = 1
	isrConfig = 2
)

// ConfigNotifier is a Device whose configuration changes on its own.
type ConfigNotifier interface {
	// SetConfigChanged gives the device the function it calls after a change,
	// while it holds the lock that its ReadConfig takes: a driver that reads
	// half of the old and half of the new then finds the generation changed.
	SetConfigChanged(changed func())
}

// PCI is a device behind the virtio PCI transport (virtio 1.2 §4.1), modern
// interface only. Interrupts are MSI-X; without it the driver finds them in
// the ISR status register but there is no INTx.
type PCI struct {
	device   Device
	memory   *mem.Memory
	function *pci.Function
	log      zerolog.Logger
	offered  uint64 // feature bits

	// What goroutines of the device touch, which must not wait for mu: its
	// holder may be waiting for them in Reset.
	isr          atomic.Uint32
	generation   atomic.Uint32
	configVector atomic.Uint32
	live         atomic.Bool // DRIVER_OK, so that interrupts may be sent
	needsReset   atomic.Bool
	warned       atomic.Bool

	mu            sync.Mutex
	status        uint8
	featureSelect [2]uint32 // of device_feature and driver_feature
	accepted      uint64
	queueSelect   uint16
	queues        []queueState
	active        bool // Activate was called after the last Reset
}

// queueState is what the driver said about one queue.
type queueState struct {
	max, size         uint16
	enabled           bool
	desc, avail, used uint64
	doorbell          int // eventfd
	vector            atomic.Uint32
	queue             *Queue     // the last activated one, or nil
	past              QueueStats // of those before
}

// NewPCI puts device on the bus. Errors are the bus's, or the host's refusal
// of an eventfd.
func NewPCI(bus *pci.Bus, device Device, memory *mem.Memory, log zerolog.Logger) (*PCI, error) {
	sizes := device.QueueSizes()
	if len(sizes) > maxQueues {
		return nil, fmt.Errorf("virtio device %d: %d queues, at most %d", device.ID(), len(sizes), maxQueues)
	}
	p := &PCI{
		device: device, memory: memory, log: log,
		offered: device.Features() | FeatureVersion1 | FeatureEventIdx | FeatureIndirectDesc,
		queues:  make([]queueState, len(sizes)),
	}
	spec := pci.Spec{
		Vendor: pciVendor, Device: pciDeviceBase + uint16(device.ID()), Revision: pciRevision,
		SubsystemVendor: pciVendor, Subsystem: pciSubsystem,
		Class:   classUnclassified,
		BARSize: barSize, Model: (*registers)(p),
		MSIX:         pci.MSIXSpec{Vectors: len(sizes) + 1, Table: barMSIX, PBA: barPBA},
		Capabilities: p.capabilities(),
	}
	if device.ID() == DeviceConsole {
		spec.Class = classConsole
	}
	for i := range p.queues {
		p.queues[i].doorbell = -1
	}
	for i, size := range sizes {
		if size == 0 || size > MaxQueueSize || bits.OnesCount16(size) != 1 {
			p.closeDoorbells()
			return nil, fmt.Errorf("virtio device %d: queue %d has size %d", device.ID(), i, size)
		}
		fd, err := newEvent()
		if err != nil {
			p.closeDoorbells()
			return nil, fmt.Errorf("virtio device %d: doorbell of queue %d: %w", device.ID(), i, err)
		}
		p.queues[i].max, p.queues[i].doorbell = size, fd
		spec.Doorbells = append(spec.Doorbells, pci.Doorbell{Offset: barNotify + notifyMultiplier*uint64(i), FD: fd})
	}
	p.clear()
	var err error
	if p.function, err = bus.AddFunction(spec); err != nil {
		p.closeDoorbells()
		return nil, fmt.Errorf("virtio device %d: %w", device.ID(), err)
	}
	if n, ok := device.(ConfigNotifier); ok {
		n.SetConfigChanged(p.configChanged)
	}
	return p, nil
}

// Reset stops the device, as the driver's reset does.
func (p *PCI) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reset()
}

// Close stops the device for good. The bus must be closed before, which takes
// the doorbells back, and the guest must not run any more.
func (p *PCI) Close() {
	p.Reset()
	p.closeDoorbells()
}

func (p *PCI) closeDoorbells() {
	for i := range p.queues {
		if q := &p.queues[i]; q.doorbell >= 0 {
			_ = unix.Close(q.doorbell)
			q.doorbell = -1
		}
	}
}

// Stats returns the counters of each queue, over all resets.
func (p *PCI) Stats() []QueueStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	stats := make([]QueueStats, len(p.queues))
	for i := range p.queues {
		stats[i] = p.queues[i].stats()
	}
	return stats
}

func (s *queueState) stats() QueueStats {
	if s.queue == nil {
		return s.past
	}
	now := s.queue.Stats()
	return QueueStats{
		Kicks:      s.past.Kicks + now.Kicks,
		Interrupts: s.past.Interrupts + now.Interrupts,
		Chains:     s.past.Chains + now.Chains,
	}
}

// setStatus is a write of device_status (virtio 1.2 §2.1, §3.1.1). Bits are
// only ever added, each when its turn has come; 0 resets.
func (p *PCI) setStatus(v uint8) {
	if v == 0 {
		p.reset()
		return
	}
	added := v &^ p.status
	p.status |= added & (statusAcknowledge | statusDriver | statusFailed)
	if added&statusFeaturesOK != 0 && p.featuresValid() {
		p.status |= statusFeaturesOK
	}
	if added&statusDriverOK != 0 && p.status&(statusFeaturesOK|statusFailed) == statusFeaturesOK {
		p.status |= statusDriverOK
		p.activate()
	}
}

func (p *PCI) featuresValid() bool {
	return p.accepted&^p.offered == 0 && p.accepted&FeatureVersion1 != 0
}

// activate hands the enabled queues to the device. What is wrong with them is
// the driver's fault and the driver's to know.
func (p *PCI) activate() {
	p.live.Store(true)
	queues := make([]*Queue, len(p.queues))
	for i := range p.queues {
		s := &p.queues[i]
		s.past, s.queue = s.stats(), nil
		if !s.enabled {
			continue
		}
		q, err := NewQueue(QueueConfig{
			Memory: p.memory, Size: s.size, MaxSize: s.max,
			Desc: s.desc, Avail: s.avail, Used: s.used,
			Features: p.accepted, Doorbell: s.doorbell,
			Interrupt: func() { p.interrupt(&s.vector, isrQueue) },
			Failed:    p.fail,
		})
		if err != nil {
			p.fail(fmt.Errorf("queue %d: %w", i, err))
			return
		}
		s.queue, queues[i] = q, q
	}
	p.active = true
	if err := p.device.Activate(p.accepted, queues); err != nil {
		p.fail(fmt.Errorf("activate: %w", err))
	}
}

// fail tells the driver that only a reset helps.
func (p *PCI) fail(err error) {
	if !p.needsReset.CompareAndSwap(false, true) {
		return
	}
	level := zerolog.DebugLevel // a guest can break its queues without end
	if p.warned.CompareAndSwap(false, true) {
		level = zerolog.WarnLevel
	}
	p.log.WithLevel(level).Err(err).Uint16("virtio", uint16(p.device.ID())).Msg("device needs a reset by its driver")
	p.configInterrupt()
}

// reset returns when the device no longer touches guest memory; the driver,
// which polls for status 0, never sees anything between.
func (p *PCI) reset() {
	p.live.Store(false)
	if p.active {
		p.device.Reset()
		p.active = false
	}
	p.clear()
}

// clear is the state after reset. Queues stay known for their counters.
func (p *PCI) clear() {
	p.status, p.accepted, p.queueSelect = 0, 0, 0
	p.featureSelect = [2]uint32{}
	p.needsReset.Store(false)
	p.isr.Store(0)
	p.configVector.Store(noVector)
	for i := range p.queues {
		s := &p.queues[i]
		s.size, s.enabled = s.max, false
		s.desc, s.avail, s.used = 0, 0, 0
		s.vector.Store(noVector)
	}
}

// configChanged is what a ConfigNotifier calls.
func (p *PCI) configChanged() {
	p.generation.Add(1)
	p.configInterrupt()
}

func (p *PCI) configInterrupt() {
	if p.live.Load() {
		p.interrupt(&p.configVector, isrConfig)
	}
}

// interrupt sends the message of a vector, or sets the ISR bit while MSI-X is
// off.
func (p *PCI) interrupt(vector *atomic.Uint32, isr uint32) {
	if !p.function.Interrupt(int(vector.Load())) {
		p.isr.Or(isr)
	}
}
