package legacy

// Power events that a guest can raise through ports.
type PowerEvent int

// What a guest can ask for.
const (
	PowerNone PowerEvent = iota
	// PowerOff: the sleep control register was told to enter S5.
	PowerOff
	// Reset: the ACPI reset register or the keyboard controller's reset pulse.
	Reset
	// Panicked: pvpanic was told that the kernel panicked.
	Panicked
	// CrashLoaded: pvpanic was told that a crash kernel took over.
	CrashLoaded
)

const (
	sleepEnable    = 1 << 5 // ACPI 6.5 §4.8.3.7: SLP_EN, behind SLP_TYP in bits 2 to 4
	sleepTypeShift = 2
	sleepTypeMask  = 0x7

	i8042PulseReset = 0xFE

	pvpanicPanicked    = 1 << 0
	pvpanicCrashLoaded = 1 << 1
	// PVPanicEvents is what reading the pvpanic port answers: the events it
	// understands.
	PVPanicEvents = pvpanicPanicked | pvpanicCrashLoaded
)

// Sleep decodes a write of b to the ACPI sleep control register of a machine
// whose _S5_ announces sleepTypeS5.
func Sleep(b, sleepTypeS5 byte) PowerEvent {
	if b&sleepEnable != 0 && b>>sleepTypeShift&sleepTypeMask == sleepTypeS5 {
		return PowerOff
	}
	return PowerNone
}

// ResetRegister decodes a write of b to an ACPI reset register whose value to
// write is want.
func ResetRegister(b, want byte) PowerEvent {
	if b == want {
		return Reset
	}
	return PowerNone
}

// I8042 decodes a write of b to the keyboard controller's command port.
func I8042(b byte) PowerEvent {
	if b == i8042PulseReset {
		return Reset
	}
	return PowerNone
}

// PVPanic decodes a write of b to the pvpanic port (QEMU docs/specs/pvpanic).
func PVPanic(b byte) PowerEvent {
	switch {
	case b&pvpanicPanicked != 0:
		return Panicked
	case b&pvpanicCrashLoaded != 0:
		return CrashLoaded
	}
	return PowerNone
}
