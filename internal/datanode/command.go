package datanode

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"concord/internal/daemon"
	"concord/internal/firststart"
	"concord/internal/meta/httpclient"
	"concord/internal/version"
)

// Commands are `run`, `config` and `health` of influxd.
func Commands() []*cobra.Command {
	var flags daemon.Flags
	run := func(cmd *cobra.Command, load func() (*Config, error)) error { return run(cmd.Context(), flags, load) }
	commands := Program.Commands("Run a data node until it is told to stop", run)
	flags.Add(commands[0])
	return append(commands, daemon.Health("influxd", Program, func(c *Config) (string, bool) {
		return c.HTTPD.BindAddress, c.HTTPD.HTTPSEnabled
	}))
}

func run(ctx context.Context, flags daemon.Flags, load func() (*Config, error)) (err error) {
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
	if err := limitMemory(); err != nil {
		log.Warn("The garbage collector does not know how much memory there is", zap.Error(err))
	}
	return daemon.Run(ctx, log, load, func(context.Context) (daemon.Node[*Config], error) {
		n := New(cfg, version.String(), log, Seams{})
		if err := n.Open(); err != nil {
			return nil, err
		}
		if n.Refusal() == "" {
			log.Info("Data node is up", zap.String("version", version.String()), zap.String("tcp", n.TCPAddr()),
				zap.String("http", n.HTTPAddr()), zap.Uint64("node_id", n.Meta.NodeID()))
		}
		return daemon.WithTask(n, func(ctx context.Context) { n.startFirst(ctx, plan) }), nil
	})
}

// startFirst does what the environment asks of a node without a cluster.
func (n *Node) startFirst(ctx context.Context, plan firststart.Plan) {
	toMeta := httpclient.New(n.certs.meta, n.cfg.Meta.InternalSharedSecret)
	defer toMeta.Close()
	firststart.Data{
		Plan: plan, Addr: n.tcpAddr, Dir: n.cfg.Meta.Dir, Auth: n.cfg.HTTPD.AuthEnabled, Meta: n.Meta, Ask: toMeta.Ask,
		Log: n.log,
	}.Run(ctx)
}
