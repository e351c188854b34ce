// Package cli is what the three commands share: flags with a single dash as
// InfluxDB has them, a default subcommand, one line for an error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"concord/internal/version"
)

// Partial is the exit code of a command that did what it could, and not all that it was asked for.
const Partial = 3

// partial is an error with that exit code.
type partial struct{ error }

func (p partial) Unwrap() error { return p.error }

// verbatim is an error whose text is printed as it is.
type verbatim string

func (v verbatim) Error() string { return string(v) }

// Verbatim is an error that is printed without the name of the command before it: scripts know its text.
func Verbatim(text string) error { return verbatim(text) }

// AsPartial makes err end the process with Partial.
func AsPartial(err error) error { return partial{err} }

// Run executes the command name with args and returns the exit code: 0, or after one line on standard error Partial
// for an error of AsPartial and 1 for all others. setup adds subcommands and flags; without a subcommand def runs,
// where it is not empty.
func Run(name, def string, args []string, setup func(root *cobra.Command)) int {
	root := NewRoot(name, setup)
	if def != "" {
		args = withDefault(def, args)
	}
	root.SetArgs(DoubleDash(args))
	if err := root.ExecuteContext(context.Background()); err != nil {
		text := oneLine(err)
		if !errors.As(err, new(verbatim)) {
			text = name + ": " + text
		}
		fmt.Fprintln(os.Stderr, text)
		if errors.As(err, &partial{}) {
			return Partial
		}
		return 1
	}
	return 0
}

// oneLine is the text of an error in one line. The library puts the commands that were meant below its error.
func oneLine(err error) string {
	text, near, ok := strings.Cut(err.Error(), "\n\nDid you mean this?\n")
	if ok {
		text += ": did you mean " + strings.Join(strings.Fields(near), " or ") + "?"
	}
	return strings.ReplaceAll(text, "\n", " ")
}

// NewRoot is the command name with its subcommands and flags, as Run executes it.
func NewRoot(name string, setup func(root *cobra.Command)) *cobra.Command {
	root := &cobra.Command{Use: name, SilenceUsage: true, SilenceErrors: true, Version: version.String()}
	root.SetVersionTemplate("Concord {{.Name}} {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	setup(root)
	root.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs, Example: "  " + name + " version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "Concord %s %s\n", name, version.String())
			return nil
		},
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if cmd == root {
			return err
		}
		return fmt.Errorf("%s: %w", Name(cmd), err)
	})
	help(root)
	return root
}

// Name is the name of a command with those of its parents, without that of the program.
func Name(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// help makes `help` of a command that does not exist an error: the library prints help, and ends without one.
func help(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	cmd, _, err := root.Find([]string{"help"})
	if err != nil {
		return // there are no commands
	}
	cmd.Example = "  " + root.Name() + " help version"
	cmd.Run, cmd.RunE = nil, func(_ *cobra.Command, args []string) error {
		about, rest, err := root.Find(args)
		if err != nil {
			return err
		} else if len(rest) > 0 {
			return fmt.Errorf("unknown command %q for %q", rest[0], about.CommandPath())
		}
		about.InitDefaultHelpFlag()
		return about.Help()
	}
}

// withDefault puts def before args that name no subcommand and ask for neither help nor the version.
func withDefault(def string, args []string) []string {
	if len(args) > 0 {
		flag := strings.TrimLeft(args[0], "-")
		if !strings.HasPrefix(args[0], "-") || args[0] == "-h" || flag == "help" || flag == "version" {
			return args
		}
	}
	return append([]string{def}, args...)
}

// DoubleDash writes InfluxDB's -config as the --config that the flag library
// knows. Short flags of one letter, negative numbers and what follows "--" stay.
func DoubleDash(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		if len(a) > 2 && a[0] == '-' && a[1] != '-' && (a[1] < '0' || a[1] > '9') && a[2] != '=' {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}
