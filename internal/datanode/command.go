package datanode

import (
	"context"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"concord/internal/daemon"
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
	log, err := daemon.Logger(cfg.Logging)
	if err != nil {
		return err
	}
	if err := limitMemory(); err != nil {
		log.Warn("The garbage collector does not know how much memory there is", zap.Error(err))
	}
	return daemon.Run(ctx, log, load, func(context.Context) (*Node, error) {
		n := New(cfg, version.String(), log, Seams{})
		if err := n.Open(); err != nil {
			return nil, err
		}
		if n.Refusal() == "" {
			log.Info("Data node is up", zap.String("version", version.String()), zap.String("tcp", n.TCPAddr()),
				zap.String("http", n.HTTPAddr()), zap.Uint64("node_id", n.Meta.NodeID()))
		}
		return n, nil
	})
}
