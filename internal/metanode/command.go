package metanode

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"concord/internal/daemon"
	"concord/internal/firststart"
	"concord/internal/meta/metaconfig"
	"concord/internal/meta/server"
	"concord/internal/version"
)

// Commands are `run`, `config` and `health` of influxd-meta.
func Commands() []*cobra.Command {
	var flags daemon.Flags
	run := func(cmd *cobra.Command, load func() (*metaconfig.Config, error)) error {
		return run(cmd.Context(), flags, load)
	}
	commands := metaconfig.Program.Commands("Run a meta node until it is told to stop", run)
	flags.Add(commands[0])
	return append(commands, daemon.Health("influxd-meta", metaconfig.Program,
		func(c *metaconfig.Config) (string, bool) {
			return c.Meta.HTTPBindAddress, c.Meta.HTTPSEnabled
		}))
}

func run(ctx context.Context, flags daemon.Flags, load func() (*metaconfig.Config, error)) (err error) {
	cfg, err := load()
	if err != nil {
		return err
	}
	plan, err := firststart.FromEnvironment(os.Getenv)
	if err != nil {
		return err
	}
	end, err := flags.Begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	log, err := daemon.Logger(cfg.Logging)
	if err != nil {
		return err
	}
	daemon.Warn(log, cfg.Notes)
	return daemon.Run(ctx, log, load, func(ctx context.Context) (daemon.Node[*metaconfig.Config], error) {
		n, err := Open(ctx, Deps{Deps: server.Deps{Config: cfg, Log: log}})
		if err != nil {
			return nil, err
		}
		log.Info("Meta node is up", zap.String("version", version.String()), zap.String("raft", n.RaftAddr()),
			zap.String("http", n.HTTPAddr()), zap.Int("data_nodes", len(n.State().DataNodes)))
		return daemon.WithTask(n, func(ctx context.Context) { n.FirstStart(plan.Join).Run(ctx) }), nil
	})
}
