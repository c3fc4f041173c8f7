package x86

import "github.com/drzln/whiterun/hv/x86/aml"

// dsdt returns the definition block of a machine with ramSize bytes of memory:
// the devices that nothing else announces. Processors need no objects: the
// MADT names them, and there is neither frequency nor hot-plug to control.
func dsdt(ramSize uint64) []byte {
	const revision = 2 // integers are 64 bits wide
	t := newTable("DSDT", revision, 0)
	t = append(t, aml.Scope(`\_SB`,
		hostBridge(ramSize),
		motherboard(),
		serialPort(),
		panicPort(),
		powerButton(),
		eventDevice(),
	)...)
	// The first value goes into the sleep control register.
	t = append(t, aml.Name(`\_S5`, aml.Package(
		aml.Integer(SleepTypeS5), aml.Integer(0), aml.Integer(0), aml.Integer(0)))...)
	return seal(t)
}

// hostBridge is the PCI Express root: its windows are where base address
// registers decode. It has no _PRT: functions interrupt by message only.
func hostBridge(ramSize uint64) aml.Term {
	return aml.Device("PCI0",
		aml.Name("_HID", aml.EISAID("PNP0A08")),
		aml.Name("_CID", aml.EISAID("PNP0A03")),
		aml.Name("_UID", aml.Integer(0)),
		aml.Name("_SEG", aml.Integer(0)),
		aml.Name("_BBN", aml.Integer(0)),
		aml.Name("_CRS", aml.Resources(
			aml.BusRange(0, PCIBuses),
			aml.Window32(MMIO32Start, MMIO32Size),
			aml.Window64(MMIO64Start(ramSize), MMIO64Size),
		)),
		// The operating system gets control of every feature it asks for:
		// nothing else would handle them. A question with an unknown UUID is
		// answered with bit 2 of the status (PCI Firmware 3.3 §4.5.1).
		aml.Method("_OSC", 4,
			aml.If(aml.Equal(aml.Arg(0), aml.UUID("33db4d5b-1ff7-401c-9657-7441c03dd766")),
				aml.Return(aml.Arg(3))),
			aml.Else(
				aml.CreateDWordField(aml.Arg(3), 0, "STS0"),
				aml.Or(aml.Path("STS0"), aml.Integer(1<<2), aml.Path("STS0")),
				aml.Return(aml.Arg(3)))))
}

// motherboard claims what belongs to no other device. Linux uses ECAM only
// when it is claimed here (or, with port-based configuration space, in e820).
func motherboard() aml.Term {
	return aml.Device("MBRD",
		aml.Name("_HID", aml.EISAID("PNP0C02")),
		aml.Name("_CRS", aml.Resources(
			aml.FixedMemory(ECAMStart, ECAMSize),
			aml.IOPorts(ResetPort, SleepStatusPort-ResetPort+1),
		)))
}

// serialPort is COM1, a 16550A.
func serialPort() aml.Term {
	return aml.Device("COM1",
		aml.Name("_HID", aml.EISAID("PNP0501")),
		aml.Name("_UID", aml.Integer(0)),
		aml.Name("_CRS", aml.Resources(
			aml.IOPorts(COM1Port, 8),
			aml.EdgeInterrupt(COM1IRQ),
		)))
}

// panicPort is pvpanic, under the identifier that its driver knows.
func panicPort() aml.Term {
	return aml.Device("PVPN",
		aml.Name("_HID", aml.String("QEMU0001")),
		aml.Name("_STA", aml.Integer(0xF)),
		aml.Name("_CRS", aml.Resources(aml.IOPorts(PVPanicPort, 1))))
}

// powerButton is a control-method button: eventDevice presses it.
func powerButton() aml.Term {
	return aml.Device("PWRB", aml.Name("_HID", aml.EISAID("PNP0C0C")))
}

// eventDevice turns an interrupt into a press of the power button (ACPI 6.5
// §5.6.9): what an SCI and the fixed registers do elsewhere.
func eventDevice() aml.Term {
	const pressed = 0x80
	return aml.Device("GED0",
		aml.Name("_HID", aml.String("ACPI0013")),
		aml.Name("_UID", aml.Integer(0)),
		aml.Name("_CRS", aml.Resources(aml.EdgeInterrupt(PowerButtonIRQ))),
		aml.Method("_EVT", 1, aml.Notify(`\_SB.PWRB`, pressed)))
}
