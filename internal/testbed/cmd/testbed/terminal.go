package main

import (
	"os"

	"golang.org/x/term"
)

// rawTerminal passes every key on, where standard input is a terminal; the
// function it returns undoes that.
func rawTerminal() (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, state) }, nil
}
