package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"

	"github.com/spf13/cobra"

	"concord/internal/durable"
)

// Flags are those of `run`, as InfluxDB has them.
type Flags struct{ pidFile, cpuProfile, memProfile string }

// Add adds the flags to a command.
func (f *Flags) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.pidFile, "pidfile", "", "write the ID of the process to this file, and remove it at the end")
	cmd.Flags().StringVar(&f.cpuProfile, "cpuprofile", "", "write a profile of the processors to this file, of all the time")
	cmd.Flags().StringVar(&f.memProfile, "memprofile", "", "write a profile of the memory to this file, at the end")
}

// Begin writes the ID of the process, and begins the profile of the processors. end is called when the process stops.
func (f *Flags) Begin() (end func() error, err error) {
	var steps []func() error
	end = func() error {
		var errs []error
		for _, step := range steps {
			errs = append(errs, step())
		}
		return errors.Join(errs...)
	}
	if f.pidFile != "" {
		if err := os.MkdirAll(filepath.Dir(f.pidFile), 0o777); err != nil {
			return nil, fmt.Errorf("-pidfile: %w", err)
		}
		if err := durable.WriteFile(f.pidFile, []byte(strconv.Itoa(os.Getpid())), 0o666); err != nil {
			return nil, fmt.Errorf("-pidfile: %w", err)
		}
		steps = append(steps, func() error { return os.Remove(f.pidFile) })
	}
	if f.cpuProfile != "" {
		out, err := os.Create(f.cpuProfile)
		if err == nil {
			err = pprof.StartCPUProfile(out)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("-cpuprofile: %w", err), end())
		}
		steps = append(steps, func() error {
			pprof.StopCPUProfile()
			return out.Close()
		})
	}
	if f.memProfile != "" {
		out, err := os.Create(f.memProfile)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("-memprofile: %w", err), end())
		}
		steps = append(steps, func() error { return errors.Join(pprof.WriteHeapProfile(out), out.Close()) })
	}
	return end, nil
}
