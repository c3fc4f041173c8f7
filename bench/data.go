package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The data: small files in folders, and a big one.
const (
	smallDir   = "small"
	bigFile    = "big"
	smallFiles = 1000
	perFolder  = 20
	bigBytes   = 64 << 20
)

// smallSize returns the size in bytes of small file i: sizes as in a system's
// closure, of which half are below 4 KiB and few above 64 KiB, in a mixed order.
func smallSize(i int) int {
	sizes := [...]int{90, 700, 1500, 2300, 3100, 4800, 7000, 12000, 26000, 70001}
	return sizes[i*7%len(sizes)] + i
}

// smallBytes returns the length of all small files together.
func smallBytes() (total int64) {
	for i := range smallFiles {
		total += int64(smallSize(i))
	}
	return total
}

// makeData makes the data in the folder dir: the same bytes every time, and none
// that a file system could leave out.
func makeData(dir string) error {
	source := rand.NewChaCha8([32]byte{'b', 'e', 'n', 'c', 'h'})
	buffer := make([]byte, 1<<20)
	for i := range smallFiles {
		folder := filepath.Join(dir, smallDir, fmt.Sprintf("folder-%02d", i/perFolder))
		if i%perFolder == 0 {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
		contents := buffer[:smallSize(i)]
		_, _ = source.Read(contents)
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file-%03d", i)), contents, 0o644); err != nil {
			return err
		}
	}
	file, err := os.Create(filepath.Join(dir, bigFile))
	if err != nil {
		return err
	}
	defer file.Close()
	for range bigBytes / len(buffer) {
		_, _ = source.Read(buffer)
		if _, err := file.Write(buffer); err != nil {
			return err
		}
	}
	return file.Close()
}
