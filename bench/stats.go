package main

import (
	"fmt"
	"slices"
	"time"
)

// series is the measurements of one thing.
type series []time.Duration

// median returns the middle one, or the mean of the two middle ones; 0 of none.
func (s series) median() time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// compare shows the median, the least and the most, in seconds, and the
// median's ratio to that of base.
func (s series) compare(base series) string {
	if len(s) == 0 {
		return none
	}
	text := fmt.Sprintf("%.2f (%.2f–%.2f)", s.median().Seconds(), slices.Min(s).Seconds(), slices.Max(s).Seconds())
	if reference := base.median(); reference > 0 {
		text += fmt.Sprintf(" %.1f×", s.median().Seconds()/reference.Seconds())
	}
	return text
}

// result is everything measured of a peer.
type result struct {
	peer   peer
	start  series // from the start to the guest's init
	stop   series // from the guest's last word to the machine's end
	walk   series
	small  series
	big    series
	counts counts
	failed int // runs without a result
}

// add takes a timed run.
func (r *result) add(run run) {
	r.start = append(r.start, run.at[markInit])
	r.stop = append(r.stop, run.gone-run.at[markEnd])
	if !r.peer.reads {
		return
	}
	r.walk = append(r.walk, run.between(markInit, markWalk))
	r.small = append(r.small, run.between(markWalk, markSmall))
	r.big = append(r.big, run.between(markSmall, markBig))
}
