// Command influxd-ctl administers a Concord cluster.
package main

import (
	"os"

	"concord/internal/cli"
	"concord/internal/ctl"
)

func main() { os.Exit(cli.Run("influxd-ctl", "", os.Args[1:], ctl.Setup)) }
