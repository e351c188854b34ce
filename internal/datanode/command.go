package datanode

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/influxdata/influxdb/logger"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"concord/internal/version"
)

// Commands are `run` and `config` of influxd.
func Commands() []*cobra.Command {
	run := func(cmd *cobra.Command, load func() (*Config, error)) error { return run(cmd.Context(), load) }
	return Program.Commands("Run a data node until it is told to stop", run)
}

func run(ctx context.Context, load func() (*Config, error)) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	logging := logger.Config(cfg.Logging)
	log, err := logging.New(os.Stderr)
	if err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	if err := limitMemory(); err != nil {
		log.Warn("The garbage collector does not know how much memory there is", zap.Error(err))
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	node := New(cfg, version.String(), log, Seams{})
	if err := node.Open(); err != nil {
		return err
	}
	if node.Refusal() == "" {
		log.Info("Data node is up", zap.String("version", version.String()),
			zap.String("tcp", node.TCPAddr()), zap.String("http", node.HTTPAddr()), zap.Uint64("node_id", node.Meta.NodeID()))
	}

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			c, err := load()
			if err != nil {
				log.Error("Kept the configuration: the new one is bad", zap.Error(err))
				continue
			}
			if err := node.Reload(c); err != nil {
				log.Error("Kept the configuration: the new one is bad", zap.Error(err))
				continue
			}
			log.Info("Reloaded the [anti-entropy] section and the certificates")
		case <-ctx.Done():
			log.Info("Stopping")
			if cfg.Cluster.TerminationQueryLog {
				node.LogQueries()
			}
			stop() // a second signal ends the process at once
			return closeWithin(hardStop, node)
		}
	}
}

// hardStop is how long a node may take to stop, as for InfluxDB.
const hardStop = 30 * time.Second

// closeWithin closes a node, and gives up after limit: what was acknowledged is on disk.
func closeWithin(limit time.Duration, node *Node) error {
	done := make(chan error, 1)
	go func() { done <- node.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("not stopped within %s: ending hard, nothing that was acknowledged is lost", limit)
	}
}
