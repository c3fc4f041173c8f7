package hv

// Reason is how a machine's run ended.
type Reason int

// The ways a run ends.
const (
	// PowerOff: the guest powered itself off.
	PowerOff Reason = iota
	// Reboot: the guest asked to be started again.
	Reboot
	// Panic: the guest's kernel panicked.
	Panic
	// TripleFault: the guest's processor shut down because it could not even
	// deliver a double fault.
	TripleFault
	// KVMError: KVM could not go on.
	KVMError
	// Stopped: the caller's context ended.
	Stopped
)

func (r Reason) String() string {
	switch r {
	case PowerOff:
		return "the guest powered off"
	case Reboot:
		return "the guest asked for a reboot"
	case Panic:
		return "the guest's kernel panicked"
	case TripleFault:
		return "the guest's processor triple-faulted"
	case KVMError:
		return "KVM could not run the guest any further"
	case Stopped:
		return "stopped"
	}
	return "unknown"
}

// Outcome is how a run ended, with what is known beyond the reason.
type Outcome struct {
	Reason Reason
	Detail string // "" when the reason says it all
}

func (o Outcome) String() string {
	if o.Detail == "" {
		return o.Reason.String()
	}
	return o.Reason.String() + ": " + o.Detail
}

// Exit statuses of Whiterun that an Outcome can have.
const (
	StatusPowerOff = 0
	StatusFailed   = 125
	StatusReboot   = 133
	StatusPanic    = 134
	StatusFault    = 135
)

// ExitStatus returns the process exit status for the outcome. That of a
// Stopped machine depends on who stopped it and is the caller's to choose;
// here it is StatusFailed.
func (o Outcome) ExitStatus() int {
	switch o.Reason {
	case PowerOff:
		return StatusPowerOff
	case Reboot:
		return StatusReboot
	case Panic:
		return StatusPanic
	case TripleFault, KVMError:
		return StatusFault
	}
	return StatusFailed
}
