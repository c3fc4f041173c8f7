package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names of marks: lines the guest prints when something is over.
const (
	markPrefix = "bench: "
	markInit   = "init"  // the system's init runs
	markWalk   = "walk"  // every name of the store was found and its attributes read
	markSmall  = "small" // all small files were read
	markBig    = "big"   // the big file was read
	markEnd    = "end"   // the guest is about to power off
)

// tally is how much was done.
type tally struct {
	items int
	bytes int64
}

// piece is a piece of work and the mark that ends it.
type piece struct {
	mark string
	do   func() (tally, error)
}

// work is what the guest does with the store and the data in it, in order. Each
// finds the guest's cache as the one before has left it: names from the first,
// no contents.
func work(store, data string) []piece {
	return []piece{
		{markWalk, func() (tally, error) { return walk(store) }},
		{markSmall, func() (tally, error) { return readAll(filepath.Join(data, smallDir)) }},
		{markBig, func() (tally, error) { return readAll(filepath.Join(data, bigFile)) }},
	}
}

// walk finds everything below dir, which it counts too, and reads its attributes.
func walk(dir string) (t tally, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		t.items++
		if info.Mode().IsRegular() {
			t.bytes += info.Size()
		}
		return nil
	})
	return t, err
}

// readAll reads every regular file at or below path from its beginning to its end.
func readAll(path string) (t tally, err error) {
	buffer := make([]byte, 128<<10)
	err = filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		n, err := readFile(path, buffer)
		t.items++
		t.bytes += n
		return err
	})
	return t, err
}

func readFile(path string, buffer []byte) (total int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for {
		n, err := file.Read(buffer)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func formatMark(name string, t tally) string {
	return fmt.Sprintf("%s%s %d %d", markPrefix, name, t.items, t.bytes)
}

// errGuest is what a guest says when it cannot go on.
var errGuest = errors.New("the guest says")

// parseMark reads a line of the console. ok is false for one that is no mark.
func parseMark(line string) (name string, t tally, ok bool, err error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(line), markPrefix)
	if !ok {
		return "", t, false, nil
	}
	if reason, failed := strings.CutPrefix(text, "failed: "); failed {
		return "", t, false, fmt.Errorf("%w: %s", errGuest, reason)
	}
	n, err := fmt.Sscanf(text, "%s %d %d", &name, &t.items, &t.bytes)
	return name, t, err == nil && n == 3, nil
}
