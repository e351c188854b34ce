// Command influxd runs a Concord data node, or with `influxd dev` a whole
// cluster in one process.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"concord/internal/cli"
	"concord/internal/datanode"
	"concord/internal/devcluster"
)

func main() {
	os.Exit(cli.Run("influxd", "run", os.Args[1:], func(root *cobra.Command) {
		root.AddCommand(append(datanode.Commands(), devcluster.Command())...)
	}))
}
