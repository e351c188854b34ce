// Package plain runs a single node of the engine as InfluxDB itself assembles
// it, with none of Concord's own parts: what a cluster's answers are compared with.
package plain

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/storage"
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine" // registers the tsm1 engine
	_ "github.com/influxdata/influxdb/tsdb/index"  // registers the inmem and tsi1 indexes
)

// Options say what node to start.
type Options struct {
	Dir   string // of all files; must exist
	Index string // inmem or tsi1
	Auth  bool   // clients must be users
}

// Node is a running node.
type Node struct {
	executor *query.Executor
	store    *tsdb.Store
	http     *httpd.Service
	stop     []func() error
}

// Start starts a node on a free loopback port.
func Start(o Options) (_ *Node, err error) {
	n := &Node{}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	mc := meta.NewConfig()
	mc.Dir = filepath.Join(o.Dir, "meta")
	if err := os.MkdirAll(mc.Dir, 0o755); err != nil {
		return nil, err
	}
	metaClient := meta.NewClient(mc)
	if err := n.open("the metadata", metaClient.Open, metaClient.Close); err != nil {
		return nil, err
	}

	dc := tsdb.NewConfig()
	dc.Dir, dc.WALDir, dc.Index = filepath.Join(o.Dir, "data"), filepath.Join(o.Dir, "wal"), o.Index
	n.store = tsdb.NewStore(dc.Dir)
	n.store.EngineOptions.Config = dc
	// It frees the caches of shards that seem cold, and at times a new one with the first write to it.
	n.store.EngineOptions.MonitorDisabled = true
	n.store.EngineOptions.EngineVersion, n.store.EngineOptions.IndexVersion = dc.Engine, dc.Index
	if err := n.open("the store", n.store.Open, n.store.Close); err != nil {
		return nil, err
	}

	certs := tlsconfig.NewTLSCertMonitor()
	if err := n.open("the certificate monitor", certs.Open, func() error { certs.Close(); return nil }); err != nil {
		return nil, err
	}
	sub := subscriber.NewService(subscriber.NewConfig(), certs)
	sub.MetaClient = metaClient
	if err := n.open("the subscriber", sub.Open, sub.Close); err != nil {
		return nil, err
	}
	writer := coordinator.NewPointsWriter()
	writer.TSDBStore, writer.MetaClient, writer.Subscriber = n.store, metaClient, sub
	if err := n.open("the points writer", writer.Open, writer.Close); err != nil {
		return nil, err
	}

	monc := monitor.NewConfig()
	monc.StoreEnabled = false
	mon := monitor.New(n, monc, &dc)
	mon.MetaClient = metaClient
	n.executor = query.NewExecutor()
	n.executor.StatementExecutor = &coordinator.StatementExecutor{
		MetaClient: metaClient, TaskManager: n.executor.TaskManager, TSDBStore: n.store, Monitor: mon,
		PointsWriter: writer,
		ShardMapper: &coordinator.LocalShardMapper{
			MetaClient: metaClient, TSDBStore: coordinator.LocalTSDBStore{Store: n.store},
		},
	}
	n.stop = append(n.stop, n.executor.Close)
	if err := n.open("the monitor", mon.Open, mon.Close); err != nil {
		return nil, err
	}

	hc := httpd.NewConfig()
	hc.BindAddress, hc.LogEnabled, hc.AuthEnabled = "127.0.0.1:0", false, o.Auth
	n.http = httpd.NewService(hc, certs)
	h := n.http.Handler
	h.MetaClient, h.QueryExecutor, h.Monitor, h.PointsWriter = metaClient, n.executor, mon, writer
	h.QueryAuthorizer, h.WriteAuthorizer = meta.NewQueryAuthorizer(metaClient), meta.NewWriteAuthorizer(metaClient)
	h.Store = storage.NewStore(n.store, metaClient)
	h.Version, h.BuildType = "1.13.2", "OSS"
	return n, n.open("the HTTP API", n.http.Open, n.http.Close)
}

func (n *Node) open(what string, open, stop func() error) error {
	if err := open(); err != nil {
		return fmt.Errorf("open %s: %w", what, err)
	}
	n.stop = append(n.stop, stop)
	return nil
}

// HTTPAddr is the host:port of the HTTP API.
func (n *Node) HTTPAddr() string { return n.http.Addr().String() }

// Statistics are those of the store and of queries.
func (n *Node) Statistics(tags map[string]string) []models.Statistic {
	return append(n.executor.Statistics(tags), n.store.Statistics(tags)...)
}

// Close stops all parts, the last started first.
func (n *Node) Close() error {
	var errs []error
	for i := len(n.stop) - 1; i >= 0; i-- {
		errs = append(errs, n.stop[i]())
	}
	n.stop = nil
	return errors.Join(errs...)
}
