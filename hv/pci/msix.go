package pci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Parts of MSI-X (PCI Local Bus 3.0 §6.8.2).
const (
	msixPage  = 4096
	entrySize = 16
	// maxVectors is what fits the table's page.
	maxVectors = msixPage / entrySize

	entryData      = 8
	entryControl   = 12
	entryMasked    = 1
	controlMasked  = 1 << 14
	controlEnabled = 1 << 15
)

var errMSIXSpec = errors.New("MSI-X has 1 to 256 vectors, and a page of the BAR each for its table and its PBA")

// MSIXSpec says where in the BAR the two structures of MSI-X lie: each in a
// page of its own, offsets in bytes.
type MSIXSpec struct {
	Vectors    int // 0: no MSI-X
	Table, PBA uint64
}

func (s MSIXSpec) check(barSize uint64) error {
	if s.Vectors == 0 {
		return nil
	}
	inside := func(at uint64) bool { return at%msixPage == 0 && at < barSize }
	if s.Vectors < 0 || s.Vectors > maxVectors || !inside(s.Table) || !inside(s.PBA) || s.Table == s.PBA {
		return errMSIXSpec
	}
	return nil
}

func (s MSIXSpec) owns(offset uint64) bool {
	page := offset &^ (msixPage - 1)
	return s.Vectors > 0 && (page == s.Table || page == s.PBA)
}

// capability returns the registers behind ID and link; both offsets are in
// BAR 0.
func (s MSIXSpec) capability() []byte {
	p := make([]byte, 0, 10)
	p = binary.LittleEndian.AppendUint16(p, uint16(s.Vectors-1))
	p = binary.LittleEndian.AppendUint32(p, uint32(s.Table))
	return binary.LittleEndian.AppendUint32(p, uint32(s.PBA))
}

// msix is the state of one function's vectors.
type msix struct {
	spec MSIXSpec

	mu              sync.Mutex
	enabled, masked bool   // the message control register
	table           []byte // 16 bytes a vector, as the guest wrote them
	pba             []byte // a bit per vector
	vectors         []vector
}

// vector is an interrupt vector and the message it was last given.
type vector struct {
	Vector
	routed  bool
	address uint64
	data    uint32
}

func newMSIX(spec MSIXSpec) *msix {
	m := &msix{
		spec:    spec,
		table:   make([]byte, spec.Vectors*entrySize),
		pba:     make([]byte, (spec.Vectors+63)/64*8), // whole 64-bit words
		vectors: make([]vector, spec.Vectors),
	}
	for i := range m.vectors {
		m.table[i*entrySize+entryControl] = entryMasked // as after reset
	}
	return m
}

// trigger sends vector i or marks it pending. It is the hot path: a lock that
// is hardly ever contended and one system call.
func (m *msix) trigger(i int) (enabled bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.enabled {
		return false, nil
	}
	if i < 0 || i >= len(m.vectors) {
		return true, nil
	}
	if m.masked || m.entryMasked(i) {
		m.pba[i/8] |= 1 << (i % 8)
		return true, nil
	}
	return true, m.send(i)
}

// send gives the vector its message if the guest changed it since it was last
// sent, which spares the platform all messages that are never used.
func (m *msix) send(i int) error {
	v := &m.vectors[i]
	entry := m.table[i*entrySize:]
	address, data := binary.LittleEndian.Uint64(entry), binary.LittleEndian.Uint32(entry[entryData:])
	if !v.routed || v.address != address || v.data != data {
		if err := v.Route(address, data); err != nil {
			v.routed = false
			return fmt.Errorf("route interrupt vector %d to %#x, %#x: %w", i, address, data, err)
		}
		v.routed, v.address, v.data = true, address, data
	}
	v.Trigger()
	return nil
}

func (m *msix) entryMasked(i int) bool {
	return m.table[i*entrySize+entryControl]&entryMasked != 0
}

// sendPending sends what waited for its mask to go.
func (m *msix) sendPending() error {
	if !m.enabled || m.masked {
		return nil
	}
	var errs []error
	for i := range m.vectors {
		if bit := byte(1 << (i % 8)); m.pba[i/8]&bit != 0 && !m.entryMasked(i) {
			m.pba[i/8] &^= bit
			errs = append(errs, m.send(i))
		}
	}
	return errors.Join(errs...)
}

// setControl stores the message control register.
func (m *msix) setControl(control uint16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enabled, m.masked = control&controlEnabled != 0, control&controlMasked != 0
	return m.sendPending()
}

// read reads within one page of the BAR. Behind its structure it reads zero.
func (m *msix) read(offset uint64, p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	structure := m.table
	if offset&^(msixPage-1) == m.spec.PBA {
		structure = m.pba
	}
	clear(p)
	if at := offset % msixPage; at < uint64(len(structure)) {
		copy(p, structure[at:])
	}
}

// write writes within one page of the BAR. The PBA is read-only.
func (m *msix) write(offset uint64, p []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := offset % msixPage
	if offset-at != m.spec.Table || at >= uint64(len(m.table)) {
		return nil
	}
	copy(m.table[at:], p)
	return m.sendPending()
}

func (m *msix) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enabled = false
	var errs []error
	for i := range m.vectors {
		if v := m.vectors[i].Vector; v != nil {
			errs = append(errs, v.Close())
			m.vectors[i].Vector = nil
		}
	}
	return errors.Join(errs...)
}
