// Package daemon runs a node as a process: it logs to standard error, reloads the configuration on SIGHUP, and stops
// on SIGINT and SIGTERM.
package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/influxdata/influxdb/logger"
	"go.uber.org/zap"

	"concord/internal/config"
)

// Node is what Run runs. C is its configuration.
type Node[C any] interface {
	Reload(C) error // changes nothing when it fails
	Close() error
}

// Logger returns a logger to standard error.
func Logger(c config.Logging) (*zap.Logger, error) {
	engine := logger.Config(c)
	log, err := engine.New(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("logging: %w", err)
	}
	return log, nil
}

// Warn logs what a configuration file has that has no effect.
func Warn(log *zap.Logger, notes config.Notes) {
	for _, note := range notes {
		log.Warn(note)
	}
}

// Run opens a node, and closes it when ctx ends or a signal says so, also while it is being opened. load loads the
// configuration for a reload. Run tells systemd when the node is open, and when it stops.
func Run[C any, N Node[C]](
	ctx context.Context, log *zap.Logger, load func() (C, error), open func(context.Context) (N, error),
) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	type opened struct {
		node N
		err  error
	}
	opening := make(chan opened, 1)
	go func() {
		node, err := open(ctx)
		opening <- opened{node, err}
	}()
	end := func(closeNode func() error) error {
		log.Info("Stopping")
		tell(log, daemon.SdNotifyStopping)
		stop() // a second signal ends the process at once
		return closeWithin(hardStop, os.Stderr, closeNode)
	}
	var node N
	select {
	case o := <-opening:
		if o.err != nil {
			return o.err
		}
		node = o.node
	case <-ctx.Done(): // opening large shards may take minutes
		return end(func() error {
			o := <-opening
			if o.err != nil {
				return o.err
			}
			return o.node.Close()
		})
	}
	tell(log, daemon.SdNotifyReady)
	for {
		select {
		case <-hup:
			c, err := load()
			if err == nil {
				err = node.Reload(c)
			}
			if err != nil {
				log.Error("Not reloaded: the new configuration is not valid, and the old one stays", zap.Error(err))
				continue
			}
			log.Info("Reloaded what can change while the node runs")
		case <-ctx.Done():
			return end(node.Close)
		}
	}
}

// tell tells systemd the state of the process, where systemd started it.
func tell(log *zap.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("Cannot tell systemd about this process", zap.String("state", state), zap.Error(err))
	}
}

// hardStop is how long a node may take to stop, as for InfluxDB.
const hardStop = 30 * time.Second

// closeWithin calls fn, and gives up after limit: what was acknowledged is on disk. It then writes to stacks where all
// goroutines are, as only that tells what fn waits for.
func closeWithin(limit time.Duration, stacks io.Writer, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		pprof.Lookup("goroutine").WriteTo(stacks, 1)
		return fmt.Errorf("not stopped within %s: ending hard, nothing that was acknowledged is lost", limit)
	}
}
