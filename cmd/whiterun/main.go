// Command whiterun boots Nix-built machines straight from the Nix store under
// its own KVM hypervisor. Standard output is the guest's console, or the
// document that was asked for; Whiterun's own words go to standard error.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/rs/zerolog"

	"github.com/drzln/whiterun/internal/launch"
)

// cli is the command line.
type cli struct {
	LogFormat launch.Format `help:"How Whiterun's own words are written: ${enum}." enum:"auto,console,json" default:"auto" group:"words"`
	LogLevel  string        `help:"The least level that is written: ${enum}." enum:"debug,info,warn,error" default:"info" group:"words"`
	Quiet     bool          `short:"q" help:"Tell no stages of the start, and nothing of nix but its failures." group:"words"`

	Boot     bootCmd     `cmd:"" help:"Boot the system that a reference names."`
	Run      runCmd      `cmd:"" help:"Boot the machine that a manifest describes, without Nix."`
	Manifest manifestCmd `cmd:"" help:"Print the manifest of the machine that boot would make."`
	Doctor   doctorCmd   `cmd:"" help:"Say what this host lacks."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
	Direct   directCmd   `cmd:"" default:"withargs" help:"Boot a kernel, an initrd and a toplevel given as files. This is what whiterun does without a command."`
}

const description = `Boots Nix-built machines straight from the Nix store.

A reference is a flake's attribute (.#vm, path:DIR#nixosConfigurations.vm), a result link, or a store path.

Exit status: 0 the guest powered off; 2 wrong usage; 124 --timeout is over; 125 Whiterun failed; 133 the guest asked for a reboot; 134 the guest's kernel panicked; 135 a triple fault or an error of KVM; 128+n ended by signal n.`

func main() { os.Exit(run(os.Args[1:])) }

func run(arguments []string) (status int) {
	options := launch.Options{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Format: launch.Auto, Level: zerolog.InfoLevel}
	var c cli
	exit := -1 // what --help asks for
	parser, err := kong.New(&c, kong.Name("whiterun"), kong.Description(description), kong.Exit(func(code int) { exit = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.ExplicitGroups([]kong.Group{{Key: "machine", Title: "The machine:"}, {Key: "running", Title: "Running it:"}, {Key: "words", Title: "What is told:"}}))
	if err != nil {
		panic(err) // the structs above are wrong
	}
	parsed, err := parser.Parse(arguments)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		session, _ := launch.Start(options)
		return session.Finish(launch.Usage("%s (whiterun --help tells more)", strings.TrimSpace(err.Error())))
	}

	options.Format, options.Quiet = c.LogFormat, c.Quiet
	if options.Level, err = zerolog.ParseLevel(c.LogLevel); err != nil {
		panic(fmt.Sprintf("the levels of the command line and of the log differ: %v", err))
	}
	session, ctx := launch.Start(options)
	parsed.BindTo(ctx, (*context.Context)(nil))
	return session.Finish(parsed.Run(session))
}
