// Package virtio owns the part of virtio 1.2 that all devices share: the split
// virtqueue (§2.7) and the PCI transport (§4.1). Each device is a package
// below it that knows its queues and guest memory and nothing of PCI.
package virtio

// DeviceID is a virtio device type (virtio 1.2 §5).
type DeviceID uint16

// The device types Whiterun has.
const (
	DeviceConsole DeviceID = 3
	Device9P      DeviceID = 9
)

// Feature bits that do not belong to one device type (virtio 1.2 §6).
const (
	FeatureIndirectDesc uint64 = 1 << 28
	FeatureEventIdx     uint64 = 1 << 29
	FeatureVersion1     uint64 = 1 << 32
)

// Device is one virtio device behind a transport. The transport calls its
// methods one at a time.
type Device interface {
	// ID returns the device type.
	ID() DeviceID
	// Features returns the device-type feature bits on offer. The transport
	// adds the ones it and the queue implement.
	Features() uint64
	// QueueSizes returns the largest size of each queue, a power of two.
	QueueSizes() []uint16
	// ReadConfig fills p from offset bytes into the device's configuration
	// structure; what lies behind its end reads as zero.
	ReadConfig(offset uint32, p []byte)
	// WriteConfig stores p there; what the device does not let the driver
	// write is ignored.
	WriteConfig(offset uint32, p []byte)
	// Activate hands over the queues when the driver sets DRIVER_OK, with the
	// features both sides agreed on. queues has one element per queue of
	// QueueSizes, nil where the driver enabled none. The device serves them in
	// goroutines of its own until Reset.
	Activate(features uint64, queues []*Queue) error
	// Reset ends what Activate began and returns when no goroutine of the
	// device touches guest memory any more. It may be called at any time, also
	// twice or before Activate.
	Reset()
}
