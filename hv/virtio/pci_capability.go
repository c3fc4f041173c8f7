package virtio

import (
	"encoding/binary"

	"github.com/drzln/whiterun/hv/pci"
)

// Types of struct virtio_pci_cap (virtio 1.2 §4.1.4).
const (
	capCommon = 1
	capNotify = 2
	capISR    = 3
	capDevice = 4
	capWindow = 5 // VIRTIO_PCI_CAP_PCI_CFG
)

// Offsets in struct virtio_pci_cap behind its ID and link.
const (
	capBodyLen     = 0 // cap_len, which counts ID and link
	capBodyType    = 1
	capBodyBAR     = 2
	capBodyOffset  = 6
	capBodyLength  = 10
	capBodyEnd     = 14
	capBodyHeader  = 2 // bytes before the body
	windowDataSize = 4
)

// capabilities tells where in BAR 0 each structure is.
func (p *PCI) capabilities() []pci.Capability {
	body := func(kind byte, offset, length, more int) []byte {
		b := make([]byte, capBodyEnd+more)
		b[capBodyLen] = byte(len(b) + capBodyHeader)
		b[capBodyType] = kind
		binary.LittleEndian.PutUint32(b[capBodyOffset:], uint32(offset))
		binary.LittleEndian.PutUint32(b[capBodyLength:], uint32(length))
		return b
	}
	notify := body(capNotify, barNotify, notifyMultiplier*len(p.queues), 4)
	binary.LittleEndian.PutUint32(notify[capBodyEnd:], notifyMultiplier)

	window := pci.Capability{
		Body:     body(capWindow, 0, 0, windowDataSize),
		Writable: make([]byte, capBodyEnd+windowDataSize),
		Read:     p.readWindow,
		Write:    p.writeWindow,
	}
	window.Writable[capBodyBAR] = 0xFF
	for i := capBodyOffset; i < len(window.Writable); i++ {
		window.Writable[i] = 0xFF
	}
	return []pci.Capability{
		{Body: body(capCommon, barCommon, commonSize, 0)},
		{Body: body(capISR, barISR, 1, 0)},
		{Body: body(capDevice, barDevice, barPageSize, 0)},
		{Body: notify},
		window,
	}
}

// windowTarget returns what the registers of VIRTIO_PCI_CAP_PCI_CFG name
// (virtio 1.2 §4.1.4.9): access to the BAR through configuration space, for
// firmware that cannot map it. It reaches what an access to the BAR would, and
// nothing else. ok is false when no access has that shape.
func windowTarget(body []byte) (offset uint64, data []byte, ok bool) {
	offset = uint64(binary.LittleEndian.Uint32(body[capBodyOffset:]))
	length := uint64(binary.LittleEndian.Uint32(body[capBodyLength:]))
	switch {
	case body[capBodyBAR] != 0, length != 1 && length != 2 && length != 4,
		offset%length != 0, offset+length > barSize:
		return 0, nil, false
	}
	return offset, body[capBodyEnd:][:length], true
}

func (p *PCI) readWindow(body []byte, _, to int) {
	if offset, data, ok := windowTarget(body); ok && to > capBodyEnd {
		p.function.ReadBAR(offset, data)
	}
}

func (p *PCI) writeWindow(body []byte, _, to int) {
	if offset, data, ok := windowTarget(body); ok && to > capBodyEnd {
		p.function.WriteBAR(offset, data)
	}
}
