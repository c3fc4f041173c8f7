package hv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/drzln/whiterun/hv/boot"
	"github.com/drzln/whiterun/hv/kvm"
	"github.com/drzln/whiterun/hv/legacy"
	"github.com/drzln/whiterun/hv/mem"
	"github.com/drzln/whiterun/hv/pci"
	"github.com/drzln/whiterun/hv/virtio"
	"github.com/drzln/whiterun/hv/virtio/console"
	"github.com/drzln/whiterun/hv/virtio/p9"
	"github.com/drzln/whiterun/hv/x86"
	"github.com/drzln/whiterun/pkg/manifest"
	"github.com/drzln/whiterun/pkg/ninep"
)

// ErrResources is returned for a machine that is larger than KVM or the host.
var ErrResources = errors.New("the host cannot give that much")

// The stages of a start that Options.Stage hears of.
const (
	StageKernel = "kernel" // the kernel and the initrds are in guest memory
	StageGuest  = "guest"  // the vCPUs run
	StageStore  = "store"  // the guest mounts the store
	StageInit   = "init"   // the guest opens the system's init
)

// Options is what a machine is made from.
type Options struct {
	// Manifest describes the machine and has been validated.
	Manifest *manifest.Manifest
	// Store is the tree behind the store share; nil for a machine without one.
	// The caller keeps it until Close.
	Store ninep.Tree
	// InitNode is the node of the system's init in Store, for StageInit; 0 when
	// it is not known.
	InitNode ninep.Node
	// Input is what the guest reads from its console; nil for nothing. Its end
	// means nothing to the machine. A Read that blocks outlives Run until the
	// caller ends it.
	Input io.Reader
	// Output is where the guest's console goes; nil to discard it. While a
	// Write blocks, so does the guest's output, but not the end of the machine.
	Output io.Writer
	// CacheDir holds decompressed kernels; "" for no cache.
	CacheDir string
	// Log is where the machine reports; the zero Logger is silent.
	Log zerolog.Logger
	// Stage is called when a stage of the start is reached, at most once each,
	// from any goroutine; nil for not at all.
	Stage func(stage string)
	// KVM is the path of the KVM device; "" for kvm.DefaultPath.
	KVM string

	// anyKVM lets tests run tiny guests where no kernel can run.
	anyKVM bool
}

// device is a virtio device with the name that it has in messages.
type device struct {
	name string
	virtio.Device
	function *virtio.PCI
}

// Machine is one virtual machine. It runs once.
type Machine struct {
	options Options
	log     zerolog.Logger

	vm     *kvm.VM
	memory *mem.Memory
	irqs   *interrupts
	bus    *pci.Bus
	ports  ports
	cpus   *cpuSet

	uart    *legacy.UART
	hvc     *console.Console
	shown   *consoles
	server  *ninep.Server // nil without a store
	devices []device

	sink     *sink
	delivery sync.Mutex // held while console input is handed to a device
	watch    *panicWatch
	watchers sync.WaitGroup // goroutines that look into a panic
	panicked sync.Once      // pvpanic told of a panic
	crashed  sync.Once      // pvpanic told of a crash kernel

	storeErrors atomic.Uint64 // files of the store that could not be read

	ending  sync.Once
	done    chan struct{} // closed when the guest has ended by itself
	outcome Outcome       // how; valid once done is closed

	closers []func() error // in reverse order of closing
}

// New assembles a machine: memory, interrupt controllers, devices, the kernel
// in place, the vCPUs ready to enter it. It returns ErrResources, the errors of
// kvm.Open and boot.Load, or ErrNoHardware. The caller closes the machine.
func New(ctx context.Context, o Options) (_ *Machine, err error) {
	if o.KVM == "" {
		o.KVM = kvm.DefaultPath
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	if o.Stage == nil {
		o.Stage = func(string) {}
	}
	o.Stage = onceEach(o.Stage)
	m := &Machine{options: o, log: o.Log, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	system, err := kvm.Open(o.KVM)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, system.Close()) }()
	if err := checkResources(system, o.Manifest); err != nil {
		return nil, err
	}
	if !o.anyKVM {
		if err := probe(system); err != nil {
			return nil, err
		}
	}
	for _, build := range []func(context.Context, *kvm.System) error{
		m.buildMemory, m.buildInterrupts, m.buildBus, m.buildConsole, m.buildStore, m.buildBoot,
	} {
		if err := build(ctx, system); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// onceEach returns stage so that it is called once for each name.
func onceEach(stage func(string)) func(string) {
	var told sync.Map
	return func(name string) {
		if _, again := told.LoadOrStore(name, true); !again {
			stage(name)
		}
	}
}

func checkResources(system *kvm.System, m *manifest.Manifest) error {
	if n, most := m.CPUs.Count(), system.MaxVCPUs(); n > most {
		return fmt.Errorf("%w: %d vCPUs were asked for and this host's KVM gives a machine at most %d: lower --cpus", ErrResources, n, most)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return fmt.Errorf("ask for the host's memory: %w", err)
	}
	host := (info.Totalram + info.Totalswap) * uint64(info.Unit)
	if m.MemoryBytes > host {
		return fmt.Errorf("%w: %d MiB of memory were asked for and this host has %d MiB with its swap: lower --mem", ErrResources, m.MemoryBytes>>20, host>>20)
	}
	return nil
}

func (m *Machine) onClose(f func() error) { m.closers = append(m.closers, f) }

func (m *Machine) buildMemory(_ context.Context, system *kvm.System) (err error) {
	if m.memory, err = mem.New(m.options.Manifest.MemoryBytes); err != nil {
		return err
	}
	m.onClose(m.memory.Close)
	if m.vm, err = system.CreateVM(); err != nil {
		return err
	}
	m.onClose(m.vm.Close)
	return mapMemory(m.vm, m.memory)
}

func (m *Machine) buildInterrupts(context.Context, *kvm.System) (err error) {
	if err := m.vm.CreateIRQChip(x86.IdentityMapStart, x86.TSSStart); err != nil {
		return err
	}
	m.irqs, err = newInterrupts(m.vm)
	return err
}

func (m *Machine) buildBus(context.Context, *kvm.System) error {
	window := pci.Window{Start: x86.MMIO64Start(m.memory.Size()), Size: x86.MMIO64Size}
	m.bus = pci.New(m.irqs, window, m.log)
	m.onClose(m.closeBus)
	return nil
}

// closeBus takes the devices' doorbells back, and only then closes them.
func (m *Machine) closeBus() error {
	err := m.bus.Close()
	for _, d := range m.devices {
		d.function.Close()
	}
	return err
}

// buildConsole wires both consoles. The path of a byte is: device, panic
// watch, choice of what is shown, sink, Output.
func (m *Machine) buildConsole(context.Context, *kvm.System) error {
	com1, err := newLine(m.vm, x86.COM1IRQ)
	if err != nil {
		return err
	}
	m.onClose(com1.Close)
	m.sink = newSink(m.options.Output)
	m.shown = newConsoles(m.sink)
	m.watch = newPanicWatch(m.suspectPanic)
	m.uart = legacy.NewUART(m.watch.watch(m.shown.writeSerial), com1.Pulse)
	m.ports = newPorts(m.uart, m.bus, m.power)
	m.hvc = console.New(m.watch.watch(m.shown.writeHVC))
	// Closed after the sink, which makes the console's last write fail.
	m.onClose(m.hvc.Close)
	m.onClose(func() error { m.sink.close(); return nil })
	return m.addDevice("console", m.hvc)
}

// buildStore adds the store share.
func (m *Machine) buildStore(context.Context, *kvm.System) error {
	spec := m.options.Manifest.Store
	if spec == nil || m.options.Store == nil {
		return nil
	}
	init, stage := m.options.InitNode, m.options.Stage
	m.server = ninep.NewServer(m.options.Store, ninep.Options{
		OnAttach: func() { stage(StageStore) },
		OnOpen: func(n ninep.Node) {
			if n == init && n != ninep.Root {
				stage(StageInit)
			}
		},
		OnError: m.storeError,
	})
	share, err := p9.New(spec.Tag, m.server)
	if err != nil {
		return err
	}
	return m.addDevice("store", share)
}

// maxStoreWarnings is how many files that cannot be read are worth a warning: a
// guest can try again without end.
const maxStoreWarnings = 8

// storeError tells of a file of the store that the host cannot read.
func (m *Machine) storeError(n ninep.Node, err error) {
	level := zerolog.DebugLevel
	if m.storeErrors.Add(1) <= maxStoreWarnings {
		level = zerolog.WarnLevel
	}
	m.log.WithLevel(level).Err(err).Uint32("node", uint32(n)).Msg("the host cannot read a file of the store")
}

// addDevice puts a device on the bus, in the order of calls.
func (m *Machine) addDevice(name string, d virtio.Device) error {
	function, err := virtio.NewPCI(m.bus, d, m.memory, m.log.With().Str("device", name).Logger())
	if err != nil {
		return err
	}
	m.devices = append(m.devices, device{name, d, function})
	return nil
}

// buildBoot loads the kernel and makes the vCPUs that enter it.
func (m *Machine) buildBoot(ctx context.Context, system *kvm.System) error {
	spec := m.options.Manifest
	topology := x86.Topology{Sockets: spec.CPUs.Sockets, Cores: spec.CPUs.Cores, Threads: spec.CPUs.Threads}
	apicIDs := topology.APICIDs()
	tables, err := x86.ACPI(x86.ACPIConfig{APICIDs: apicIDs, RAMSize: m.memory.Size()})
	if err != nil {
		return err
	}
	if err := m.memory.Write(x86.ACPIStart, tables); err != nil {
		return err
	}
	if err := x86.WriteBootTables(m.memory); err != nil {
		return err
	}
	if err := x86.WriteResetVector(m.memory); err != nil {
		return err
	}
	bootSpec := boot.Spec{
		Kernel:      spec.Kernel,
		Initrds:     spec.Initrds,
		CommandLine: spec.CommandLine,
		RSDP:        x86.ACPIStart,
		CacheDir:    m.options.CacheDir,
	}
	if spec.Store != nil {
		bootSpec.StoreDir = spec.Store.Dir
	}
	start, err := boot.Load(ctx, m.memory, bootSpec)
	if err != nil {
		return err
	}
	m.log.Debug().Str("kernel", spec.Kernel).Str("version", start.KernelVersion).Str("format", start.Format).
		Bool("cached", start.Cached).Msg("kernel loaded")
	if start.CacheErr != nil {
		m.log.Warn().Err(start.CacheErr).Msg("the decompressed kernel could not be cached")
	}
	m.options.Stage(StageKernel)
	supported, err := system.SupportedCPUID()
	if err != nil {
		return err
	}
	deadline := system.CheckExtension(kvm.CapTSCDeadlineTimer) > 0
	cpus := make([]*vcpu, len(apicIDs))
	for i, id := range apicIDs {
		c, err := m.vm.CreateVCPU(id)
		if err != nil {
			return err
		}
		m.onClose(c.Close)
		cpus[i] = &vcpu{kvm: c, index: i}
		// CPUID first: KVM judges MSRs and control registers by it.
		leaves := x86.CPUID(supported, topology, i, c.TSCKHz(), deadline)
		if err := c.SetCPUID(leaves); err != nil {
			return err
		}
		if err := c.SetMSRs(x86.BootMSRs()); err != nil {
			return err
		}
		if i > 0 {
			continue // waits for INIT and SIPI, which the kernel's local APIC handles
		}
		if err := enter(c, x86.BootRegs(start.Entry, start.ZeroPage)); err != nil {
			return err
		}
	}
	m.cpus = newCPUSet(cpus, m.exit, func(c *vcpu, err error) {
		m.end(Outcome{KVMError, fmt.Sprintf("KVM_RUN of %s: %v", c.describe(), err)})
	})
	return nil
}

// enter puts a vCPU into the boot processor's state, with the given general
// registers.
func enter(c *kvm.VCPU, regs kvm.Regs) error {
	sregs, err := c.Sregs()
	if err != nil {
		return err
	}
	x86.BootSregs(&sregs)
	if err := c.SetSregs(sregs); err != nil {
		return err
	}
	return c.SetRegs(regs)
}

// Close frees everything the machine holds. Run must have returned.
func (m *Machine) Close() error {
	var errs []error
	for i := len(m.closers) - 1; i >= 0; i-- {
		errs = append(errs, m.closers[i]())
	}
	m.closers = nil
	return errors.Join(errs...)
}
