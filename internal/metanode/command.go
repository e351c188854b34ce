package metanode

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/influxdata/influxdb/logger"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"concord/internal/meta/metaconfig"
	"concord/internal/meta/server"
	"concord/internal/version"
)

// Commands are `run` and `config` of influxd-meta.
func Commands() []*cobra.Command {
	return metaconfig.Program.Commands("Run a meta node until it is told to stop", func(cmd *cobra.Command, load func() (*metaconfig.Config, error)) error {
		return run(cmd.Context(), load)
	})
}

func run(ctx context.Context, load func() (*metaconfig.Config, error)) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	logging := logger.Config(cfg.Logging)
	log, err := logging.New(os.Stderr)
	if err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	n, err := Open(ctx, Deps{Deps: server.Deps{Config: cfg, Log: log}})
	if err != nil {
		return err
	}
	log.Info("Meta node is up", zap.String("version", version.String()),
		zap.String("raft", n.RaftAddr()), zap.String("http", n.HTTPAddr()), zap.Int("data_nodes", len(n.State().DataNodes)))
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			c, err := load()
			if err == nil {
				err = n.Reload(c)
			}
			if err != nil {
				log.Error("Kept the certificates: the new ones are bad", zap.Error(err))
				continue
			}
			log.Info("Reloaded the certificates")
		case <-ctx.Done():
			log.Info("Stopping")
			return n.Close()
		}
	}
}
