package ctl

import (
	"fmt"

	"github.com/spf13/cobra"
)

func completion() *cobra.Command {
	return &cobra.Command{
		Use: "completion <bash|zsh|fish>", Short: "Print a script that completes commands and flags in a shell",
		Long: "Print a script that completes commands and flags in a shell. Flags are completed in the form with two dashes.",
		Example: "  influxd-ctl completion bash > /etc/bash_completion.d/influxd-ctl\n" +
			"  influxd-ctl completion zsh > \"${fpath[1]}/_influxd-ctl\"\n" +
			"  influxd-ctl completion fish > ~/.config/fish/completions/influxd-ctl.fish",
		Args: args("bash|zsh|fish"), ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, w := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			}
			return fmt.Errorf("completion: shell %q is not supported: bash, zsh or fish", args[0])
		},
	}
}
