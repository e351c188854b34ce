package datanode

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"concord/internal/version"
)

// Commands are `run` and `config` of influxd.
func Commands() []*cobra.Command {
	var path string
	run := &cobra.Command{
		Use:   "run",
		Short: "Run a data node until it is told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), path)
		},
	}
	config := &cobra.Command{
		Use:   "config",
		Short: "Print the configuration: the defaults, or those of -config with the environment applied",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := LoadConfig(path, os.Getenv)
			if err != nil {
				return err
			}
			return c.Print(cmd.OutOrStdout())
		},
	}
	for _, c := range []*cobra.Command{run, config} {
		c.Flags().StringVar(&path, "config", "", "path of influxdb.conf")
	}
	return []*cobra.Command{run, config}
}

func run(ctx context.Context, path string) error {
	if path == "" {
		path = os.Getenv("INFLUXDB_CONFIG_PATH")
	}
	if path == "" {
		if _, err := os.Stat("/etc/influxdb/influxdb.conf"); err == nil {
			path = "/etc/influxdb/influxdb.conf"
		}
	}
	cfg, err := LoadConfig(path, os.Getenv)
	if err != nil {
		return err
	}
	log, err := cfg.Logging.New(os.Stderr)
	if err != nil {
		return fmt.Errorf("logging: %w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()

	node := New(cfg, version.String(), log)
	if err := node.Open(); err != nil {
		return err
	}
	log.Info("Data node is up", zap.String("version", version.String()),
		zap.String("tcp", node.TCPAddr()), zap.String("http", node.HTTPAddr()), zap.Uint64("node_id", node.Meta.NodeID()))

	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-hup:
			c, err := LoadConfig(path, os.Getenv)
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
			return node.Close()
		}
	}
}
