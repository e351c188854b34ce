// Command influxd-meta runs a Concord meta node.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"concord/internal/cli"
	"concord/internal/metanode"
)

func main() {
	os.Exit(cli.Run("influxd-meta", "run", os.Args[1:], func(root *cobra.Command) {
		root.AddCommand(metanode.Commands()...)
	}))
}
