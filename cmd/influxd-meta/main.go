// Command influxd-meta runs a Concord meta node.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"concord/internal/cli"
	"concord/internal/meta"
	"concord/internal/metanode"
	"concord/internal/rpc"
)

func main() {
	var pool rpc.Pool
	code := cli.Run("influxd-meta", "run", os.Args[1:], func(root *cobra.Command) {
		root.AddCommand(meta.Commands(func(s *meta.Server) { metanode.Prepare(s, &pool) })...)
	})
	pool.Close()
	os.Exit(code)
}
