package manifest

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// sizeUnits maps what may follow a number to its shift; the letter case is free.
var sizeUnits = map[string]uint{
	"":  20, // a plain number is MiB
	"k": 10, "kb": 10, "kib": 10,
	"m": 20, "mb": 20, "mib": 20,
	"g": 30, "gb": 30, "gib": 30,
	"t": 40, "tb": 40, "tib": 40,
}

// ParseSize reads an amount of memory: a number of MiB ("1024"), or a number
// with a unit ("512M", "2G", "1GiB"), each unit a power of 1024. The result is
// in bytes and fits a machine.
func ParseSize(text string) (uint64, error) {
	trimmed := strings.TrimSpace(text)
	if strings.HasPrefix(trimmed, "-") {
		return 0, fmt.Errorf("memory is %q: there is no negative memory", text)
	}
	digits := len(trimmed) - len(strings.TrimLeft(trimmed, "0123456789"))
	shift, known := sizeUnits[strings.ToLower(strings.TrimSpace(trimmed[digits:]))]
	if digits == 0 || !known {
		return 0, fmt.Errorf("memory is %q: write a number of MiB such as 1024, or a size such as 512M or 2G", text)
	}
	n, err := strconv.ParseUint(trimmed[:digits], 10, 64)
	if err != nil || bits.Len64(n)+int(shift) > 64 || n<<shift > MaxMemoryBytes {
		return 0, fmt.Errorf("memory is %q: no machine has more than %d TiB", text, uint64(MaxMemoryBytes)>>40)
	}
	n <<= shift
	switch {
	case n < MinMemoryBytes:
		return 0, fmt.Errorf("memory is %q: a machine needs at least %d MiB", text, MinMemoryBytes/MiB)
	case n%MiB != 0:
		return 0, fmt.Errorf("memory is %q: it must be a whole number of MiB", text)
	}
	return n, nil
}

// ParseCPUs reads a processor topology: a number of vCPUs ("4", one socket of
// single-threaded cores), or its parts ("sockets=1,cores=2,threads=2", each 1
// when it is not named).
func ParseCPUs(text string) (CPUs, error) {
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
		if n < 1 || n > MaxVCPUs {
			return CPUs{}, fmt.Errorf("CPUs are %q: a machine has 1 to %d", text, MaxVCPUs)
		}
		return CPUs{Sockets: 1, Cores: n, Threads: 1}, nil
	}

	c := CPUs{Sockets: 1, Cores: 1, Threads: 1}
	seen := make(map[string]bool, 3)
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		field := map[string]*int{"sockets": &c.Sockets, "cores": &c.Cores, "threads": &c.Threads}[key]
		if !ok || field == nil {
			return CPUs{}, fmt.Errorf("CPUs are %q: write a number such as 4, or sockets=1,cores=2,threads=2", text)
		}
		if seen[key] {
			return CPUs{}, fmt.Errorf("CPUs are %q: %s is given twice", text, key)
		}
		seen[key] = true
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > MaxVCPUs {
			return CPUs{}, fmt.Errorf("CPUs are %q: %s must be a number from 1 to %d", text, key, MaxVCPUs)
		}
		*field = n
	}
	if c.Count() > MaxVCPUs {
		return CPUs{}, fmt.Errorf("CPUs are %q: that makes %d, and a machine has 1 to %d", text, c.Count(), MaxVCPUs)
	}
	return c, nil
}
