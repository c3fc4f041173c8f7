package x86

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ACPIConfig is what the ACPI tables of a machine depend on.
type ACPIConfig struct {
	APICIDs []uint32 // of every vCPU, in order (Topology.APICIDs)
	RAMSize uint64   // in bytes; the 64-bit PCI window follows RAM
}

// ErrACPISize is returned when the tables do not fit into ACPISize bytes.
var ErrACPISize = errors.New("ACPI tables do not fit")

// ACPI returns the ACPI tables of a machine as they lie at ACPIStart, at most
// ACPISize bytes: the RSDP first, then DSDT, FADT, MADT, MCFG and XSDT. They
// are those of ACPI 6.5 in its hardware-reduced form. Equal configurations
// give equal bytes.
//
// Hardware-reduced means that there is no ACPI timer, no SCI, no 8259 and no
// 8254 to describe or to probe for: Linux takes the I/O APIC's inputs as they
// are, power-off and reset are one port write each, and the power button is an
// interrupt of its own.
func ACPI(c ACPIConfig) ([]byte, error) {
	if len(c.APICIDs) == 0 {
		return nil, errors.New("ACPI tables: no vCPUs")
	}
	// Tables refer to each other by address, so each is placed before the one
	// that points to it; only the RSDP has a place of its own.
	t := tables(make([]byte, rsdpSize))
	definitions := t.place(dsdt(c.RAMSize))
	roots := []uint64{t.place(fadt(definitions)), t.place(madt(c.APICIDs)), t.place(mcfg())}
	copy(t, rsdp(t.place(xsdt(roots))))
	if len(t) > ACPISize {
		return nil, fmt.Errorf("%d bytes for %d vCPUs, want at most %d: %w", len(t), len(c.APICIDs), ACPISize, ErrACPISize)
	}
	return t, nil
}

// tables is the memory from ACPIStart on.
type tables []byte

// place appends a table on the next 64-byte boundary, which is more than ACPI
// asks of any, and returns its guest-physical address.
func (t *tables) place(table []byte) uint64 {
	for len(*t)%64 != 0 {
		*t = append(*t, 0)
	}
	at := uint64(ACPIStart + len(*t))
	*t = append(*t, table...)
	return at
}

// Who made the tables. Linux prints it.
const (
	oemID      = "WHTRUN"
	oemTableID = "WHITERUN"
	creatorID  = "WHTR"
)

// The header of every table but the RSDP (ACPI 6.5 §5.2.6), in bytes.
const (
	headerSize     = 36
	headerLength   = 4
	headerChecksum = 9
)

// newTable returns a table with room for size bytes, of which its header is
// filled in but for length and checksum: seal does those.
func newTable(signature string, revision byte, size int) []byte {
	h := make([]byte, 0, max(size, headerSize))
	h = append(h, signature...)
	h = append(h, 0, 0, 0, 0, revision, 0)
	h = append(h, oemID...)
	h = append(h, oemTableID...)
	h = binary.LittleEndian.AppendUint32(h, 1) // OEM revision
	h = append(h, creatorID...)
	h = binary.LittleEndian.AppendUint32(h, 1) // creator revision
	return h[:max(size, headerSize)]
}

// seal completes a table's header.
func seal(table []byte) []byte {
	binary.LittleEndian.PutUint32(table[headerLength:], uint32(len(table)))
	table[headerChecksum] = checksum(table)
	return table
}

// checksum returns the byte that makes the sum of b and itself zero.
func checksum(b []byte) byte {
	var sum byte
	for _, v := range b {
		sum += v
	}
	return -sum
}

// rsdpSize is the length of the RSDP in bytes.
const rsdpSize = 36

// rsdp returns the root pointer to the XSDT (§5.2.5.3). There is no RSDT:
// every kernel that knows this machine's devices reads the XSDT.
func rsdp(xsdt uint64) []byte {
	const (
		revision = 2
		version1 = 20 // the length of ACPI 1.0's part, which has its own checksum
	)
	b := make([]byte, rsdpSize)
	copy(b, "RSD PTR ")
	copy(b[9:], oemID)
	b[15] = revision
	binary.LittleEndian.PutUint32(b[20:], rsdpSize)
	binary.LittleEndian.PutUint64(b[24:], xsdt)
	b[8] = checksum(b[:version1])
	b[32] = checksum(b)
	return b
}

// xsdt returns the table of the tables at the given addresses (§5.2.8).
func xsdt(addresses []uint64) []byte {
	t := newTable("XSDT", 1, 0)
	for _, a := range addresses {
		t = binary.LittleEndian.AppendUint64(t, a)
	}
	return seal(t)
}

// The fields of the FADT that are not zero (§5.2.9): offset in bytes.
const (
	fadtSize          = 276
	fadtBootArch      = 109
	fadtFlags         = 112
	fadtResetReg      = 116
	fadtResetValue    = 128
	fadtMinorVersion  = 131
	fadtXDSDT         = 140
	fadtSleepControl  = 244
	fadtSleepStatus   = 256
	fadtHypervisor    = 268
	fadtMajorVersion  = 6
	fadtMinorVersion5 = 5
)

// Flags of the FADT (§5.2.9, table 5.10), and of its IAPC_BOOT_ARCH (table
// 5.11). What is left clear there matters as much: no legacy devices, no 8042.
const (
	flagWBINVD          = 1 << 0 // the instruction works
	flagProcC1          = 1 << 2 // HLT works
	flagPowerButton     = 1 << 4 // no fixed button: a device, or none
	flagSleepButton     = 1 << 5
	flagResetReg        = 1 << 10
	flagHardwareReduced = 1 << 20

	bootNoVGA     = 1 << 2
	bootNoCMOSRTC = 1 << 5
)

// fadt returns the fixed description: where the DSDT is, and the three ports
// that sleep and reset the machine.
func fadt(dsdt uint64) []byte {
	t := newTable("FACP", fadtMajorVersion, fadtSize)
	le := binary.LittleEndian
	le.PutUint16(t[fadtBootArch:], bootNoVGA|bootNoCMOSRTC)
	le.PutUint32(t[fadtFlags:], flagWBINVD|flagProcC1|flagPowerButton|flagSleepButton|flagResetReg|flagHardwareReduced)
	copy(t[fadtResetReg:], portRegister(ResetPort))
	t[fadtResetValue] = ResetValue
	t[fadtMinorVersion] = fadtMinorVersion5
	le.PutUint64(t[fadtXDSDT:], dsdt)
	copy(t[fadtSleepControl:], portRegister(SleepPort))
	copy(t[fadtSleepStatus:], portRegister(SleepStatusPort))
	copy(t[fadtHypervisor:], "WHITERUN")
	return seal(t)
}

// portRegister returns the generic address of a one-byte register in I/O space
// (§5.2.3.2).
func portRegister(port uint64) []byte {
	const ioSpace, bits, byteAccess = 1, 8, 1
	return binary.LittleEndian.AppendUint64([]byte{ioSpace, bits, 0, byteAccess}, port)
}

// Entries of the MADT (§5.2.12): type and length in bytes.
const (
	madtLocalAPIC       = 0
	madtIOAPIC          = 1
	madtLocalAPICNMI    = 4
	madtLocalX2APIC     = 9
	madtLocalX2APICNMI  = 10
	madtEnabled         = 1
	madtAllUIDs         = 0xFF
	madtAllX2UIDs       = 0xFFFF_FFFF
	madtNMIInput        = 1    // LINT1, where KVM and every PC have it
	firstX2APICID       = 0xFF // not expressible in a local APIC entry
	madtRevision        = 6
	madtNoPCATCompat    = 0 // flags: there is no 8259
	madtBusDefaultFlags = 0 // polarity and trigger mode
)

// madt returns the interrupt controllers: a local APIC for each vCPU, whose
// UID is its number, and the I/O APIC, whose inputs are GSI 0 and up. No input
// is overridden: nothing is wired to the ISA interrupts' odd places.
func madt(apicIDs []uint32) []byte {
	le := binary.LittleEndian
	t := newTable("APIC", madtRevision, 0)
	t = le.AppendUint32(t, LocalAPICStart)
	t = le.AppendUint32(t, madtNoPCATCompat)
	x2APIC := false
	for uid, id := range apicIDs {
		if id < firstX2APICID && uid < madtAllUIDs {
			t = append(t, madtLocalAPIC, 8, byte(uid), byte(id))
			t = le.AppendUint32(t, madtEnabled)
			continue
		}
		x2APIC = true
		t = append(t, madtLocalX2APIC, 16, 0, 0)
		t = le.AppendUint32(t, id)
		t = le.AppendUint32(t, madtEnabled)
		t = le.AppendUint32(t, uint32(uid))
	}
	t = append(t, madtIOAPIC, 12, IOAPICID, 0)
	t = le.AppendUint32(t, IOAPICStart)
	t = le.AppendUint32(t, 0) // first GSI
	t = append(t, madtLocalAPICNMI, 6, madtAllUIDs, madtBusDefaultFlags, 0, madtNMIInput)
	if x2APIC {
		t = append(t, madtLocalX2APICNMI, 12, madtBusDefaultFlags, 0)
		t = le.AppendUint32(t, madtAllX2UIDs)
		t = append(t, madtNMIInput, 0, 0, 0)
	}
	return seal(t)
}

// mcfg returns where PCI configuration space is (PCI Firmware 3.3 §4.1.2).
func mcfg() []byte {
	t := newTable("MCFG", 1, 0)
	t = append(t, make([]byte, 8)...)
	t = binary.LittleEndian.AppendUint64(t, ECAMStart)
	t = append(t, 0, 0, 0, PCIBuses-1) // segment, first bus, last bus
	t = append(t, make([]byte, 4)...)
	return seal(t)
}
