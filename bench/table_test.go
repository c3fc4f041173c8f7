package main

import (
	"testing"
	"time"
)

func TestMarkdown(t *testing.T) {
	got := table{
		header: []string{"", "start", "×"},
		rows:   [][]string{{"whiterun", "1.00", "–"}, {"Ünïcode", "12345678", ""}},
	}.markdown()
	const want = "" +
		"|          |    start |   × |\n" +
		"|----------|---------:|----:|\n" +
		"| whiterun |     1.00 |   – |\n" +
		"| Ünïcode  | 12345678 |     |\n"
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestTables(t *testing.T) {
	results := []result{
		{
			peer: peer{name: "a"}, start: series{time.Second},
			counts: counts{
				boot: snapshot{exits: 5, calls: 50, known: true}, end: snapshot{exits: 7, calls: 90, known: true},
				memory: 3<<20 - 1, requests: 12, requestsKnown: true,
			},
		},
		{peer: peer{name: "b"}, start: series{3 * time.Second}},
	}
	times, counted := timeTable(results), countTable(results)
	for _, table := range []table{times, counted} {
		for _, row := range table.rows {
			if len(row) != len(table.header) {
				t.Errorf("row %q under header %q", row, table.header)
			}
		}
	}
	if got := times.rows[1][1]; got != "3.00 (3.00–3.00) 3.0×" {
		t.Errorf("b's start: %q", got)
	}
	want := []string{"a", "5", "2", "50", "40", "12", "3"}
	for i, cell := range counted.rows[0] {
		if cell != want[i] {
			t.Errorf("a's %s: %q, want %q", counted.header[i], cell, want[i])
		}
	}
	for i, cell := range counted.rows[1][1:] {
		if cell != none {
			t.Errorf("b's %s: %q, but nothing was counted", counted.header[i+1], cell)
		}
	}
}
