package boot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/drzln/whiterun/hv/mem"
)

// initrdAlign is what the kernel wants between two archives, in bytes.
const initrdAlign = 4

var errEmpty = errors.New("is empty")

// initrds are the open initrd files, in the order of loading.
type initrds []initrd

type initrd struct {
	path string
	file *os.File
	size uint64 // in bytes, unpadded
}

// openInitrds opens the files, or says in a sentence which one cannot be used.
func openInitrds(paths []string) (initrds, error) {
	var all initrds
	for _, path := range paths {
		f, size, err := openRegular(path)
		if err == nil && size == 0 {
			f.Close()
			err = errEmpty
		}
		if err != nil {
			all.close()
			return nil, fmt.Errorf("initrd %s: %w", path, err)
		}
		all = append(all, initrd{path, f, size})
	}
	return all, nil
}

func (all initrds) close() {
	for _, i := range all {
		i.file.Close()
	}
}

// size returns the length of all of them in guest memory, in bytes.
func (all initrds) size() uint64 {
	var total uint64
	for _, i := range all {
		total += alignUp(i.size, initrdAlign)
	}
	return total
}

// load reads the initrds to where they end as high as possible: below the end
// of low RAM, not above last, the highest guest-physical address the kernel
// takes, and never below kernelEnd. It returns where they are.
func (all initrds) load(ctx context.Context, m *mem.Memory, kernelEnd, last uint64) (span, error) {
	if len(all) == 0 {
		return span{}, nil
	}
	if last == 0 {
		last = oldInitrdMax
	}
	const page = 4096
	ram, size := lowRAM(m), all.size()
	lowest := alignUp(kernelEnd, page)
	if end := lowest + size; end > ram || end > last+1 {
		if end > last+1 {
			return span{}, fmt.Errorf("initrd %s %w: it would end at guest-physical address %#x, and this kernel takes an initrd below %#x only",
				all.names(), ErrMemory, end, last+1)
		}
		return span{}, memoryError("initrd "+all.names(), end, ram)
	}
	at := span{start: (min(ram, last+1) - size) / page * page, size: size}
	next := at.start
	for _, i := range all {
		view, err := m.Slice(next, i.size)
		if err != nil {
			return span{}, fmt.Errorf("initrd %s at guest-physical %#x: %w", i.path, next, err)
		}
		if err := readInto(ctx, view, i.file, 0, nil); err != nil {
			if ctx.Err() != nil {
				return span{}, err
			}
			return span{}, fmt.Errorf("initrd %s: %w", i.path, err)
		}
		next += alignUp(i.size, initrdAlign)
	}
	return at, nil
}

// names returns the path, or how many there are.
func (all initrds) names() string {
	if len(all) == 1 {
		return all[0].path
	}
	return fmt.Sprintf("%s and %d more", all[0].path, len(all)-1)
}
