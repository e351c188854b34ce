// Command influxd-ctl is an operator's hand on a Concord cluster.
package main

import (
	"os"

	"concord/internal/cli"
	"concord/internal/ctl"
)

func main() { os.Exit(cli.Run("influxd-ctl", "", os.Args[1:], ctl.Setup)) }
