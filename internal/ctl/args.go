package ctl

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"concord/internal/cli"
)

// args checks what a command is given by the names of its arguments. Those in brackets may be left out.
func args(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		for i, name := range names {
			if i >= len(given) && !strings.HasPrefix(name, "[") {
				return missing(cmd, name)
			}
		}
		if len(given) > len(names) {
			return fmt.Errorf("%s: unexpected argument %q: %s", cli.Name(cmd), given[len(names)], cmd.UseLine())
		}
		return nil
	}
}

// missing says which argument a command needs.
func missing(cmd *cobra.Command, name string) error {
	return fmt.Errorf("%s: <%s> is missing: %s", cli.Name(cmd), name, cmd.UseLine())
}

// group makes cmd one that only has subcommands. Without one it shows its help; the library does the same for a
// subcommand that does not exist, and ends without an error.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		if len(given) == 0 {
			return cmd.Help()
		}
		text := fmt.Sprintf("unknown command %q for %q", given[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(given[0]); len(near) > 0 {
			return fmt.Errorf("%s: did you mean %s?", text, strings.Join(near, " or "))
		}
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		return fmt.Errorf("%s: it has %s", text, strings.Join(names, ", "))
	}
	return cmd
}
