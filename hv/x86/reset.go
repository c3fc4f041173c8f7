package x86

import (
	"fmt"

	"github.com/drzln/whiterun/hv/mem"
)

// resetVector is what a BIOS would have at ResetVector, in real mode: write
// ResetValue to ResetPort, then halt for ever.
//
// Linux jumps there to reboot by its BIOS. It does so on every machine whose
// ACPI is hardware-reduced: it then expects EFI to do it, and without EFI, goes
// on to the BIOS and never to the reset register that the FADT names
// (arch/x86/kernel/reboot.c, efi_reboot_required).
var resetVector = []byte{
	0xBA, ResetPort & 0xFF, ResetPort >> 8, // mov $ResetPort, %dx
	0xB0, ResetValue, // mov $ResetValue, %al
	0xEE,       // out %al, (%dx)
	0xF4,       // hlt
	0xEB, 0xFD, // jmp to the hlt
}

// WriteResetVector writes the code at ResetVector.
func WriteResetVector(m *mem.Memory) error {
	if err := m.Write(ResetVector, resetVector); err != nil {
		return fmt.Errorf("reset vector: %w", err)
	}
	return nil
}
