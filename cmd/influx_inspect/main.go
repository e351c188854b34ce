// Command influx_inspect looks into the files of the storage engine: the engine's own commands, and the version.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/influxdata/influxdb/cmd"
	"github.com/influxdata/influxdb/cmd/influx_inspect/buildtsi"
	"github.com/influxdata/influxdb/cmd/influx_inspect/cardinality"
	"github.com/influxdata/influxdb/cmd/influx_inspect/deletetsm"
	"github.com/influxdata/influxdb/cmd/influx_inspect/dumptsi"
	"github.com/influxdata/influxdb/cmd/influx_inspect/dumptsm"
	"github.com/influxdata/influxdb/cmd/influx_inspect/dumptsmwal"
	"github.com/influxdata/influxdb/cmd/influx_inspect/export"
	"github.com/influxdata/influxdb/cmd/influx_inspect/help"
	"github.com/influxdata/influxdb/cmd/influx_inspect/report"
	"github.com/influxdata/influxdb/cmd/influx_inspect/reportdisk"
	"github.com/influxdata/influxdb/cmd/influx_inspect/reporttsi"
	typeconflicts "github.com/influxdata/influxdb/cmd/influx_inspect/type_conflicts"
	"github.com/influxdata/influxdb/cmd/influx_inspect/verify/seriesfile"
	"github.com/influxdata/influxdb/cmd/influx_inspect/verify/tombstone"
	"github.com/influxdata/influxdb/cmd/influx_inspect/verify/tsm"
	_ "github.com/influxdata/influxdb/tsdb/engine" // registers the tsm1 engine

	"concord/internal/version"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "influx_inspect:", err)
		os.Exit(1)
	}
}

// command is one of the engine's.
type command interface{ Run(args ...string) error }

// commands make the engine's commands by their documented names.
var commands = map[string]func() command{
	"":                  func() command { return help.NewCommand() },
	"help":              func() command { return help.NewCommand() },
	"buildtsi":          func() command { return buildtsi.NewCommand() },
	"check-schema":      func() command { return typeconflicts.NewTypeConflictCheckerCommand() },
	"deletetsm":         func() command { return deletetsm.NewCommand() },
	"dumptsi":           func() command { return dumptsi.NewCommand() },
	"dumptsm":           func() command { return dumptsm.NewCommand() },
	"dumptsmwal":        func() command { return dumptsmwal.NewCommand() },
	"export":            func() command { return export.NewCommand() },
	"merge-schema":      func() command { return typeconflicts.NewMergeFilesCommand() },
	"report":            func() command { return report.NewCommand() },
	"report-db":         func() command { return cardinality.NewCommand() },
	"report-disk":       func() command { return reportdisk.NewCommand() },
	"reporttsi":         func() command { return reporttsi.NewCommand() },
	"verify":            func() command { return tsm.NewCommand() },
	"verify-seriesfile": func() command { return seriesfile.NewCommand() },
	"verify-tombstone":  func() command { return tombstone.NewCommand() },
}

func run(args []string, out io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case "version", "-version", "--version":
			_, err := fmt.Fprintln(out, "influx_inspect of InfluxDB", engineVersion(), "in Concord", version.String())
			return err
		}
	}
	name, rest := cmd.ParseCommandName(args)
	if name == "" && len(rest) > 0 {
		return fmt.Errorf("unknown flag %s: run influx_inspect help", rest[0])
	}
	of, ok := commands[name]
	if !ok {
		return fmt.Errorf("unknown command %q: run influx_inspect help", name)
	}
	if err := of().Run(rest...); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// engineVersion is that of the engine's module.
func engineVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/influxdata/influxdb" {
				return strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return "of an unknown version"
}
