package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/influxdata/influxdb/logger"
	"github.com/spf13/cobra"

	"concord/internal/datanode"
	"concord/internal/page"
)

// tourLimit bounds the tour: it takes well under a minute on two cores.
const tourLimit = 2 * time.Minute

type devFlags struct {
	nodes, offset int
	dir           string
	exit, empty   bool
}

// Command is `influxd dev`.
func Command() *cobra.Command {
	var f devFlags
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run a whole cluster in this process, on loopback, and show entropy found and repaired",
		Example: "  influxd dev\n  influxd dev -empty -dir /tmp/cluster -port-offset 1000",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dev(cmd.Context(), f, cmd.OutOrStdout())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&f.nodes, "data-nodes", 3, "number of data nodes")
	fl.IntVar(&f.offset, "port-offset", 0, "added to every port")
	fl.StringVar(&f.dir, "dir", "", "where the nodes keep their files (default: a temporary folder, removed at exit)")
	fl.BoolVar(&f.exit, "exit", false, "end after the tour; exit code 0 only if all it claims was true")
	fl.BoolVar(&f.empty, "empty", false, "skip the tour")
	return cmd
}

// ports are 8086/8088, 8186/8188, … for data nodes and 8091/8089 for the meta node.
func (f devFlags) ports(node int) Ports {
	if node == 0 {
		return Ports{TCP: 8089 + f.offset, HTTP: 8091 + f.offset}
	}
	return Ports{TCP: 8088 + 100*(node-1) + f.offset, HTTP: 8086 + 100*(node-1) + f.offset}
}

// dataConfig lets the tour's entropy stay for it to be seen: hinted handoff
// would deliver what a node missed as soon as it is back.
func (f devFlags) dataConfig(c *datanode.Config) { c.HintedHandoff.Enabled = f.empty }

func (f devFlags) validate() error {
	switch {
	case f.nodes < 1 || f.nodes > 50:
		return fmt.Errorf("-data-nodes %d: give 1 to 50", f.nodes)
	case !f.empty && f.nodes < 3:
		return fmt.Errorf("-data-nodes %d: the tour needs three; pass -empty to skip it", f.nodes)
	case f.exit && f.empty:
		return errors.New("-exit ends after the tour, -empty skips it: give one of them")
	}
	if last := f.ports(f.nodes).TCP; f.offset < -8000 || last > 65535 {
		return fmt.Errorf("-port-offset %d: ports must be between 1 and 65535", f.offset)
	}
	return nil
}

func dev(ctx context.Context, f devFlags, out io.Writer) (err error) {
	if err := f.validate(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, remove, err := f.makeDir()
	if err != nil {
		return err
	}
	defer remove()
	logFile, err := os.OpenFile(filepath.Join(dir, "dev.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer logFile.Close()
	cfg := logger.NewConfig()
	log, err := cfg.New(logFile)
	if err != nil {
		return err
	}

	c, err := Start(ctx, Options{Dir: dir, DataNodes: f.nodes, Ports: f.ports, Logger: log, DataConfig: f.dataConfig})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: end what uses the port, or shift all ports with -port-offset", err)
	} else if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	sayNodes(out, c, logFile.Name())
	if !f.empty {
		if err := tourWithin(ctx, tourLimit, c, out); err != nil {
			return fmt.Errorf("the tour failed: %w", err)
		}
	}
	if f.exit {
		return nil
	}
	sayCommands(out, c)
	<-ctx.Done()
	fmt.Fprintln(out, "Stopping.")
	return nil
}

// makeDir makes the folder of the cluster. remove removes it when it is a temporary one.
func (f devFlags) makeDir() (dir string, remove func(), err error) {
	if f.dir == "" {
		dir, err = os.MkdirTemp("", "concord-dev-")
		if err != nil {
			return "", nil, fmt.Errorf("make a temporary folder: %w", err)
		}
		return dir, func() { os.RemoveAll(dir) }, nil
	}
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make -dir: %w", err)
	}
	if _, err := os.Stat(filepath.Join(f.dir, "meta")); err == nil && !f.empty {
		return "", nil, fmt.Errorf("%s holds a cluster already: pass -empty to run it, or give the tour another -dir",
			f.dir)
	}
	return f.dir, func() {}, nil
}

// sayNodes says where the page of the cluster is, and where the nodes are.
func sayNodes(out io.Writer, c *Cluster, logFile string) {
	fmt.Fprintf(out, "Watch it in a browser: http://%s%s\n\n", c.Data[0].HTTPAddr(), page.Base)
	fmt.Fprintf(out, "Concord: %d data nodes and one meta node in one process; logs in %s\n", len(c.Data), logFile)
	fmt.Fprintf(out, "   meta node     http %s\n", c.Meta.HTTPAddr())
	for i, n := range c.Data {
		fmt.Fprintf(out, "   data node %-3d http %-16s tcp %s\n", i+1, n.HTTPAddr(), n.TCPAddr())
	}
}

// sayCommands says what to try while the cluster runs.
func sayCommands(out io.Writer, c *Cluster) {
	http := c.Data[0].HTTPAddr()
	fmt.Fprintf(out, `
Try:
   curl -G http://%s/query --data-urlencode 'q=SHOW DATABASES'
   curl http://%s/shard-repair/status
   influxd-ctl -bind %s entropy show
Ctrl-C ends the cluster.
`, http, http, c.Meta.HTTPAddr())
}

func tourWithin(ctx context.Context, limit time.Duration, c *Cluster, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return Tour(ctx, c, out)
}
