package machine

// Job is what a machine is to run, on either side of the border: the host half
// makes it, the guest half or the host's own namespace carries it out.
type Job struct {
	// Args is the command; Args[0] is an absolute path or looked up in PATH.
	Args []string
	// Env is the command's whole environment, NAME=VALUE.
	Env []string
	// Dir is the folder it runs in.
	Dir string
	// Shares are host folders to mount, in this order.
	Shares []Share
	// Copies are files to copy to memory before the command runs, because
	// reading them through a share is slow.
	Copies []Copy
	// Terminal runs the command on a terminal of its own.
	Terminal bool
	// Keep leaves what the command writes to the root in place: the machine
	// is shut down in an orderly way.
	Keep bool
}

// Share is a host folder that the command sees.
type Share struct {
	Source   string // folder on the host, absolute
	Target   string // absolute path the command finds it at
	Writable bool
}

// Copy is a file copied into the machine, which may execute it.
type Copy struct {
	Source, Target string
}
