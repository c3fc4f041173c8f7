package main

import (
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		series series
		want   time.Duration
	}{
		{nil, 0},
		{series{7}, 7},
		{series{9, 1}, 5},
		{series{9, 1, 4}, 4},
		{series{9, 1, 4, 2}, 3},
	} {
		before := append(series(nil), test.series...)
		if got := test.series.median(); got != test.want {
			t.Errorf("median of %v: %d, want %d", test.series, got, test.want)
		}
		for i := range before {
			if before[i] != test.series[i] {
				t.Errorf("median changed %v to %v", before, test.series)
			}
		}
	}
}

func TestCompare(t *testing.T) {
	second := series{2 * time.Second, time.Second, 3 * time.Second}
	for _, test := range []struct {
		series, base series
		want         string
	}{
		{second, second, "2.00 (1.00–3.00) 1.0×"},
		{series{5 * time.Second}, second, "5.00 (5.00–5.00) 2.5×"},
		{second, nil, "2.00 (1.00–3.00)"},
		{nil, second, none},
	} {
		if got := test.series.compare(test.base); got != test.want {
			t.Errorf("%v to %v: %q, want %q", test.series, test.base, got, test.want)
		}
	}
}

func TestAdd(t *testing.T) {
	at := map[string]time.Duration{markInit: 10, markWalk: 13, markSmall: 18, markBig: 25, markEnd: 40}
	reader := result{peer: peer{reads: true}}
	reader.add(run{at: at, gone: 44})
	for name, got := range map[string]struct {
		series series
		want   time.Duration
	}{
		"start": {reader.start, 10}, "walk": {reader.walk, 3}, "small": {reader.small, 5},
		"big": {reader.big, 7}, "stop": {reader.stop, 4},
	} {
		if len(got.series) != 1 || got.series[0] != got.want {
			t.Errorf("%s: %v, want %d", name, got.series, got.want)
		}
	}
	booter := result{}
	booter.add(run{at: at, gone: 44})
	if len(booter.start) != 1 || len(booter.walk)+len(booter.small)+len(booter.big) != 0 {
		t.Errorf("a guest that only boots has %+v", booter)
	}
}
