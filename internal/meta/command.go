package meta

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

const defaultConfig = "/etc/influxdb/influxdb-meta.conf"

// Commands are `run` and `config` of influxd-meta. prepare may change a server
// before it opens.
func Commands(prepare func(*Server)) []*cobra.Command {
	var path string
	run := &cobra.Command{
		Use:   "run",
		Short: "Run a meta node until it is told to stop",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := run(path, prepare); err != nil {
				return fmt.Errorf("run: %w", err)
			}
			return nil
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
		c.Flags().StringVar(&path, "config", "", "path of influxdb-meta.conf")
	}
	return []*cobra.Command{run, config}
}

func run(path string, prepare func(*Server)) error {
	if path == "" {
		path = os.Getenv("INFLUXDB_META_CONFIG_PATH")
	}
	if path == "" {
		if _, err := os.Stat(defaultConfig); err == nil {
			path = defaultConfig
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
			c, err := LoadConfig(path, os.Getenv)
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
