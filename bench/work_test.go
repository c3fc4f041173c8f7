package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMarks(t *testing.T) {
	want := tally{999, 1 << 40}
	name, got, ok, err := parseMark(formatMark(markWalk, want) + "\r")
	if name != markWalk || got != want || !ok || err != nil {
		t.Errorf("%s %+v %t %v", name, got, ok, err)
	}
	for _, line := range []string{"", "[    1.0] bench", "bench:", "bench: walk", "bench: walk x y", "a bench: init 0 0"} {
		if _, _, ok, err := parseMark(line); ok || err != nil {
			t.Errorf("%q: %t, %v", line, ok, err)
		}
	}
	if _, _, ok, err := parseMark("bench: failed: no store"); ok || !errors.Is(err, errGuest) {
		t.Errorf("a guest that failed: %t, %v", ok, err)
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("bench: init 0 0")
	f.Add("bench: failed: mount: no such device")
	f.Fuzz(func(t *testing.T, line string) {
		name, done, ok, err := parseMark(line)
		if ok && (err != nil || name == "") {
			t.Fatalf("%q: %q %+v %v", line, name, done, err)
		}
	})
}

// The guest's work on the data, on this machine.
func TestWork(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := makeData(data); err != nil {
		t.Fatal(err)
	}
	folders := smallFiles/perFolder + 3 // with the store, the data and its folder of folders
	want := map[string]tally{
		markWalk:  {smallFiles + 1 + folders, smallBytes() + bigBytes},
		markSmall: {smallFiles, smallBytes()},
		markBig:   {1, bigBytes},
	}
	for _, piece := range work(dir, data) {
		got, err := piece.do()
		if err != nil || got != want[piece.mark] {
			t.Errorf("%s: %+v, %v; want %+v", piece.mark, got, err, want[piece.mark])
		}
	}
	if _, err := readAll(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading nothing: %v", err)
	}
}

func TestParseWords(t *testing.T) {
	words := parseWords("loglevel=4 quiet init=/nix/store/x/init bench.store=9p bench.work=a=b\n")
	for word, want := range map[string]string{"init=": "/nix/store/x/init", wordStore: "9p", wordWork: "a=b", "quiet": ""} {
		if words[word] != want {
			t.Errorf("%s: %q, want %q", word, words[word], want)
		}
	}
}
