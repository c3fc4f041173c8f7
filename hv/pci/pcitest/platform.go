// Package pcitest is a pci.Platform for tests: it remembers which doorbells
// are registered and which messages were sent.
package pcitest

import (
	"errors"
	"sync"

	"github.com/drzln/whiterun/hv/pci"
)

// Doorbell is one registration.
type Doorbell struct {
	GPA uint64
	FD  int
}

// Message is one interrupt message.
type Message struct {
	Address uint64
	Data    uint32
}

// ErrTaken is returned for a doorbell at an address that has one, as KVM does.
var ErrTaken = errors.New("doorbell address is taken")

// Platform implements pci.Platform.
type Platform struct {
	mu        sync.Mutex
	doorbells map[uint64]int
	sent      []Message
	routes    int
	vectors   int // open ones
}

// New returns a platform without doorbells and vectors.
func New() *Platform { return &Platform{doorbells: map[uint64]int{}} }

// AddDoorbell implements pci.Platform.
func (p *Platform) AddDoorbell(gpa uint64, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.doorbells[gpa]; taken {
		return ErrTaken
	}
	p.doorbells[gpa] = fd
	return nil
}

// RemoveDoorbell implements pci.Platform.
func (p *Platform) RemoveDoorbell(gpa uint64, fd int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := p.doorbells[gpa]; !ok || have != fd {
		return errors.New("no such doorbell")
	}
	delete(p.doorbells, gpa)
	return nil
}

// NewVector implements pci.Platform.
func (p *Platform) NewVector() (pci.Vector, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vectors++
	return &vector{platform: p}, nil
}

// Doorbells returns how many doorbells are registered.
func (p *Platform) Doorbells() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.doorbells)
}

// Doorbell returns the eventfd registered at gpa.
func (p *Platform) Doorbell(gpa uint64) (fd int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fd, ok = p.doorbells[gpa]
	return fd, ok
}

// Sent returns the messages sent since the last call.
func (p *Platform) Sent() []Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	sent := p.sent
	p.sent = nil
	return sent
}

// Routes returns how often a vector was given a message.
func (p *Platform) Routes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.routes
}

// Vectors returns how many vectors are open.
func (p *Platform) Vectors() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vectors
}

type vector struct {
	platform *Platform
	routed   bool
	message  Message
}

func (v *vector) Route(address uint64, data uint32) error {
	v.platform.mu.Lock()
	defer v.platform.mu.Unlock()
	v.platform.routes++
	v.routed, v.message = true, Message{address, data}
	return nil
}

func (v *vector) Trigger() {
	v.platform.mu.Lock()
	defer v.platform.mu.Unlock()
	if v.routed {
		v.platform.sent = append(v.platform.sent, v.message)
	}
}

func (v *vector) Close() error {
	v.platform.mu.Lock()
	defer v.platform.mu.Unlock()
	v.platform.vectors--
	return nil
}
