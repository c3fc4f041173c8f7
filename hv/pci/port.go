package pci

import "sync/atomic"

// The two ports of configuration mechanism 1 (PCI Local Bus 3.0 §3.2.2.3.2).
// Linux trusts ECAM early only when this older way works too: without it the
// check of the MCFG table against e820 is left out, and ECAM is refused until
// ACPI's own reservations are known (arch/x86/pci/mmconfig-shared.c).
const (
	AddressPort = 0xCF8 // 4 ports
	DataPort    = 0xCFC // 4 ports

	addressEnable = 1 << 31
)

// portAddress is the address register.
type portAddress struct{ atomic.Uint32 }

// ReadPort reads from I/O port AddressPort … DataPort+3. The address register
// is one of 32 bits: smaller accesses are not for it.
func (b *Bus) ReadPort(port uint16, p []byte) {
	fill(p, 0xFF)
	switch {
	case port == AddressPort && len(p) == 4:
		address := b.port.Load()
		p[0], p[1], p[2], p[3] = byte(address), byte(address>>8), byte(address>>16), byte(address>>24)
	case port >= DataPort:
		if offset, ok := b.port.offset(port, p); ok {
			b.ReadConfig(offset, p)
		}
	}
}

// WritePort writes to I/O port AddressPort … DataPort+3.
func (b *Bus) WritePort(port uint16, p []byte) {
	switch {
	case port == AddressPort && len(p) == 4:
		b.port.Store(uint32(p[0]) | uint32(p[1])<<8 | uint32(p[2])<<16 | uint32(p[3])<<24)
	case port >= DataPort:
		if offset, ok := b.port.offset(port, p); ok {
			b.WriteConfig(offset, p)
		}
	}
}

// offset returns the ECAM offset that an access to the data register means.
func (a *portAddress) offset(port uint16, p []byte) (uint64, bool) {
	address, lane := a.Load(), int(port-DataPort)
	if address&addressEnable == 0 || lane+len(p) > 4 {
		return 0, false
	}
	// Bus, device and function sit four bits lower than in ECAM.
	return uint64(address&0xFF_FF00)<<4 | uint64(address&0xFC) + uint64(lane), true
}
