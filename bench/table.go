package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// none stands where nothing was measured.
const none = "–"

// table is rows of cells under a header.
type table struct {
	header []string
	rows   [][]string
}

// markdown renders the table so that it is readable as plain text too. The
// first column is left-aligned, the others are right-aligned.
func (t table) markdown() string {
	widths := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, cell := range cells {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				cell += space
			} else {
				cell = space + cell
			}
			b.WriteString("| " + cell + " ")
		}
		b.WriteString("|\n")
	}
	line(t.header)
	for i, width := range widths {
		if i == 0 {
			b.WriteString("|" + strings.Repeat("-", width+2))
		} else {
			b.WriteString("|" + strings.Repeat("-", width+1) + ":")
		}
	}
	b.WriteString("|\n")
	for _, row := range t.rows {
		line(row)
	}
	return b.String()
}

// timeTable compares every result with the first.
func timeTable(results []result) table {
	t := table{header: []string{"", "start → init", "power-off → gone", "find + stat all", "read small files", "read the big file"}}
	for _, r := range results {
		base := results[0]
		t.rows = append(t.rows, []string{
			r.peer.name, r.start.compare(base.start), r.stop.compare(base.stop),
			r.walk.compare(base.walk), r.small.compare(base.small), r.big.compare(base.big),
		})
	}
	return t
}

// countTable shows what was counted.
func countTable(results []result) table {
	t := table{header: []string{"", "exits, start → init", "exits, reading", "system calls, start → init", "system calls, reading", "9P requests", "memory, MiB"}}
	number := func(n uint64, known bool) string {
		if !known {
			return none
		}
		return strconv.FormatUint(n, 10)
	}
	for _, r := range results {
		boot, end := r.counts.boot, r.counts.end
		t.rows = append(t.rows, []string{
			r.peer.name,
			number(boot.exits, boot.known), number(end.exits-boot.exits, end.known),
			number(boot.calls, boot.known), number(end.calls-boot.calls, end.known),
			number(r.counts.requests, r.counts.requestsKnown),
			number((r.counts.memory+1<<19)>>20, r.counts.memory > 0),
		})
	}
	return t
}
