package meta

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
	"concord/internal/version"
)

// Commands are `run` and `config` of influxd-meta. prepare may change a server
// before it opens.
func Commands(prepare func(*Server)) []*cobra.Command {
	return metaconfig.Program.Commands("Run a meta node until it is told to stop", func(cmd *cobra.Command, load func() (*metaconfig.Config, error)) error {
		return run(cmd.Context(), load, prepare)
	})
}

func run(ctx context.Context, load func() (*metaconfig.Config, error), prepare func(*Server)) error {
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

	s := NewServer(cfg, log)
	prepare(s)
	if err := s.Open(ctx); err != nil {
		return err
	}
	log.Info("Meta node is up", zap.String("version", version.String()),
		zap.String("raft", s.RaftAddr()), zap.String("http", s.HTTPAddr()), zap.Int("data_nodes", len(s.State().DataNodes)))
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			c, err := load()
			if err == nil {
				err = s.Reload(c)
			}
			if err != nil {
				log.Error("Kept the certificates: the new ones are bad", zap.Error(err))
				continue
			}
			log.Info("Reloaded the certificates")
		case <-ctx.Done():
			log.Info("Stopping")
			return s.Close()
		}
	}
}
