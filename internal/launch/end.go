package launch

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The exit statuses that are not an outcome of the guest.
const (
	StatusUsage   = 2
	StatusTimeout = 124
	StatusFailed  = 125
	statusSignal  = 128 // and the signal's number
)

// End is how an invocation ended: its exit status, and a sentence that says
// why. It is an error so that it can be a context's cause; a good end has
// status 0.
type End struct {
	Status int
	Why    string
}

func (e *End) Error() string { return e.Why }

// endOf returns the End in err's chain, or one that says that Whiterun failed
// and err's words.
func endOf(err error) *End {
	var end *End
	if errors.As(err, &end) {
		return end
	}
	return &End{StatusFailed, err.Error()}
}

// Usage returns an End for what cannot be asked for.
func Usage(format string, args ...any) *End {
	return &End{StatusUsage, fmt.Sprintf(format, args...)}
}

func ofSignal(number syscall.Signal) *End {
	return &End{statusSignal + int(number), "ended by " + unix.SignalName(number)}
}

func ofTimeout(after time.Duration) *End {
	return &End{StatusTimeout, fmt.Sprintf("the machine was ended: it ran for the %s that --timeout gives it", after)}
}

var (
	// errQuit: the user pressed Ctrl-a x.
	errQuit = &End{0, "ended by Ctrl-a x"}
	// errUnread: whoever read standard output is gone.
	errUnread = &End{statusSignal + int(syscall.SIGPIPE), "ended: nobody reads the guest's console any more"}
)

// ParseTimeout reads what --timeout takes: a positive duration such as "90s", or
// a plain number of seconds.
func ParseTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("the timeout is %q: write a duration such as 90s or 5m", text)
	}
	return d, nil
}
