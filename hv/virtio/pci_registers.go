package virtio

import "encoding/binary"

// Offsets in struct virtio_pci_common_cfg (virtio 1.2 §4.1.4.3).
const (
	regDeviceFeatureSelect = 0x00
	regDeviceFeature       = 0x04
	regDriverFeatureSelect = 0x08
	regDriverFeature       = 0x0C
	regConfigVector        = 0x10
	regNumQueues           = 0x12
	regStatus              = 0x14
	regGeneration          = 0x15
	regQueueSelect         = 0x16
	regQueueSize           = 0x18
	regQueueVector         = 0x1A
	regQueueEnable         = 0x1C
	regQueueNotifyOff      = 0x1E
	regQueueDesc           = 0x20
	regQueueAvail          = 0x28
	regQueueUsed           = 0x30
	commonSize             = 0x3C // with queue_notify_data and queue_reset, both 0
)

// registers is PCI as the model behind its BAR. A driver accesses each field
// with its own width (virtio 1.2 §4.1.3.1); any other access is served too, as
// the bytes of the structure that it touches.
type registers PCI

// ReadBAR implements pci.Device.
func (r *registers) ReadBAR(offset uint64, p []byte) {
	clear(p)
	at := uint32(offset % barPageSize)
	switch offset - uint64(at) {
	case barCommon:
		if at < commonSize {
			(*PCI)(r).readCommon(at, p)
		}
	case barISR:
		if at == 0 && len(p) > 0 {
			p[0] = byte(r.isr.Swap(0)) // reading acknowledges
		}
	case barDevice:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.device.ReadConfig(at, p)
	}
}

// WriteBAR implements pci.Device.
func (r *registers) WriteBAR(offset uint64, p []byte) {
	at := uint32(offset % barPageSize)
	switch offset - uint64(at) {
	case barCommon:
		if at < commonSize {
			(*PCI)(r).writeCommon(at, p)
		}
	case barDevice:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.device.WriteConfig(at, p)
	case barNotify:
		// KVM takes these, unless the guest put the BAR where it could not.
		if i := int(at / notifyMultiplier); i < len(r.queues) {
			writeEvent(r.queues[i].doorbell)
		}
	}
}

func (p *PCI) readCommon(at uint32, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	image := p.common()
	copy(b, image[at:])
}

// common returns the structure as it reads now.
func (p *PCI) common() (image [commonSize]byte) {
	le := binary.LittleEndian
	le.PutUint32(image[regDeviceFeatureSelect:], p.featureSelect[0])
	le.PutUint32(image[regDeviceFeature:], half(p.offered, p.featureSelect[0]))
	le.PutUint32(image[regDriverFeatureSelect:], p.featureSelect[1])
	le.PutUint32(image[regDriverFeature:], half(p.accepted, p.featureSelect[1]))
	le.PutUint16(image[regConfigVector:], uint16(p.configVector.Load()))
	le.PutUint16(image[regNumQueues:], uint16(len(p.queues)))
	image[regStatus] = p.status
	if p.needsReset.Load() {
		image[regStatus] |= statusNeedsReset
	}
	image[regGeneration] = byte(p.generation.Load())
	le.PutUint16(image[regQueueSelect:], p.queueSelect)
	q := p.selected()
	if q == nil { // a queue of size 0 does not exist
		le.PutUint16(image[regQueueVector:], noVector)
		return image
	}
	le.PutUint16(image[regQueueSize:], q.size)
	le.PutUint16(image[regQueueVector:], uint16(q.vector.Load()))
	if q.enabled {
		image[regQueueEnable] = 1
	}
	le.PutUint16(image[regQueueNotifyOff:], p.queueSelect)
	le.PutUint64(image[regQueueDesc:], q.desc)
	le.PutUint64(image[regQueueAvail:], q.avail)
	le.PutUint64(image[regQueueUsed:], q.used)
	return image
}

// half returns 32 of the 64 feature bits; there are no others.
func half(features uint64, selected uint32) uint32 {
	if selected > 1 {
		return 0
	}
	return uint32(features >> (32 * selected))
}

func (p *PCI) selected() *queueState {
	if int(p.queueSelect) < len(p.queues) {
		return &p.queues[p.queueSelect]
	}
	return nil
}

// writeCommon lays the written bytes over the structure as it reads, and then
// stores the fields they touched, in order.
func (p *PCI) writeCommon(at uint32, b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	image := p.common()
	end := at + uint32(copy(image[at:], b))
	le := binary.LittleEndian
	touched := func(field, n uint32) bool { return at < field+n && field < end }

	if touched(regDeviceFeatureSelect, 4) {
		p.featureSelect[0] = le.Uint32(image[regDeviceFeatureSelect:])
	}
	if touched(regDriverFeatureSelect, 4) {
		p.featureSelect[1] = le.Uint32(image[regDriverFeatureSelect:])
	}
	if touched(regDriverFeature, 4) && p.status&statusFeaturesOK == 0 {
		p.accept(p.featureSelect[1], le.Uint32(image[regDriverFeature:]))
	}
	if touched(regConfigVector, 2) {
		p.configVector.Store(p.vector(le.Uint16(image[regConfigVector:])))
	}
	if touched(regStatus, 1) {
		p.setStatus(image[regStatus])
	}
	if touched(regQueueSelect, 2) {
		p.queueSelect = le.Uint16(image[regQueueSelect:])
	}
	q := p.selected()
	if q == nil {
		return
	}
	if touched(regQueueVector, 2) {
		q.vector.Store(p.vector(le.Uint16(image[regQueueVector:])))
	}
	if q.enabled || p.status&statusDriverOK != 0 {
		return // from then on a queue is as it is until reset
	}
	if touched(regQueueSize, 2) {
		q.size = le.Uint16(image[regQueueSize:])
	}
	if touched(regQueueDesc, 8) {
		q.desc = le.Uint64(image[regQueueDesc:])
	}
	if touched(regQueueAvail, 8) {
		q.avail = le.Uint64(image[regQueueAvail:])
	}
	if touched(regQueueUsed, 8) {
		q.used = le.Uint64(image[regQueueUsed:])
	}
	if touched(regQueueEnable, 2) {
		q.enabled = le.Uint16(image[regQueueEnable:]) == 1
	}
}

// accept stores 32 of the driver's feature bits. Above 64 there are none to
// accept.
func (p *PCI) accept(selected, v uint32) {
	if selected <= 1 {
		shift := 32 * selected
		p.accepted = p.accepted&^(0xFFFF_FFFF<<shift) | uint64(v)<<shift
	}
}

// vector returns v, or NO_VECTOR for one that the function does not have.
func (p *PCI) vector(v uint16) uint32 {
	if int(v) > len(p.queues) {
		return noVector
	}
	return uint32(v)
}
