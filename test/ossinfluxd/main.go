// Command ossinfluxd is influxd backup and influxd restore of the engine's module, for tests. The whole influxd of that
// module does not build without Flux.
package main

import (
	"fmt"
	"os"

	"github.com/influxdata/influxdb/cmd/influxd/backup"
	"github.com/influxdata/influxdb/cmd/influxd/restore"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "backup":
			return backup.NewCommand().Run(args[1:]...)
		case "restore":
			return restore.NewCommand().Run(args[1:]...)
		}
	}
	return fmt.Errorf("backup or restore, not %q", args)
}
