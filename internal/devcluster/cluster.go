// Package devcluster runs a whole cluster in one process on loopback: real
// nodes on real sockets, with hooks to cut links and to stop, wipe and restart
// nodes. `influxd dev` and the cluster tests use it.
package devcluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/datanode"
	"concord/internal/meta/metaconfig"
	"concord/internal/meta/server"
	"concord/internal/metanode"
	"concord/internal/version"
)

// Options say what cluster to start.
type Options struct {
	Dir        string // holds meta and data1, data2, …; must exist
	DataNodes  int
	Ports      func(node int) Ports // node 0 is the meta node; nil for free ports
	Logger     *zap.Logger          // nil for none
	DataConfig func(*datanode.Config)
	MetaConfig func(*metaconfig.Config)
	// NotWhole is why a data node's copy of a shard cannot be trusted, instead of what the node knows; nil for that.
	NotWhole func(node int, shard uint64) string
	// Late holds up what the long poll of the metadata brings to a data node, until it returns; nil for not at all.
	Late  func(ctx context.Context, node int)
	Lease time.Duration            // for which the meta node grants leases; 0 for its own
	Now   func(node int) time.Time // the clock that a data node tells others; nil for time.Now
	// WritesEnd is after how long a rebalance takes writes for ended that began before a change of owners; 0 for its
	// own.
	WritesEnd time.Duration
	// Free tells what is free, and all bytes, on the disk of every data node; nil for what is.
	Free func(dir string) (free, total uint64, err error)
}

// Ports are the two ports of a node: of a data node gRPC and HTTP, of the meta
// node Raft and HTTP. 0 is a free one.
type Ports struct{ TCP, HTTP int }

// Cluster is a running cluster. Its methods count data nodes from 0.
type Cluster struct {
	Meta *metanode.Node
	Data []*datanode.Node

	opts       Options
	configs    []*datanode.Config // of each data node
	metaConfig *metaconfig.Config
	links      *links
	extra      []*datanode.Node
}

// newCluster is a cluster of which no node has started.
func newCluster(o Options) *Cluster {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Ports == nil {
		o.Ports = func(int) Ports { return Ports{} }
	}
	c := &Cluster{
		Data: make([]*datanode.Node, o.DataNodes), opts: o, configs: make([]*datanode.Config, o.DataNodes),
		metaConfig: o.metaConfig(), links: newLinks(o.DataNodes),
	}
	for i := range c.configs {
		c.configs[i] = o.dataConfig(c.DataDir(i), o.Ports(i+1))
	}
	return c
}

// Start starts a meta node and the data nodes, and joins them.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := newCluster(o)
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err := c.startMeta(ctx); err != nil {
		return nil, err
	}
	for i := range c.Data {
		if err := c.StartData(i); err != nil {
			return nil, err
		}
		addr := c.Data[i].TCPAddr()
		if _, err := c.Meta.AddData(ctx, addr); err != nil {
			return nil, fmt.Errorf("add data node %s: %w", addr, err)
		}
	}
	// Every node must know all others before the first write, or a node would
	// take the cluster for smaller than it is.
	return c, c.Wait(ctx, func() bool {
		for _, n := range c.Data {
			if len(n.Meta.DataNodes()) != o.DataNodes {
				return false
			}
		}
		return true
	})
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (o Options) metaConfig() *metaconfig.Config {
	p := o.Ports(0)
	cfg := metaconfig.New()
	cfg.Meta.Dir = filepath.Join(o.Dir, "meta")
	cfg.Meta.BindAddress, cfg.Meta.HTTPBindAddress = loopback(p.TCP), loopback(p.HTTP)
	cfg.SingleServer = true
	if o.MetaConfig != nil {
		o.MetaConfig(cfg)
	}
	return cfg
}

func (c *Cluster) startMeta(ctx context.Context) error {
	n, err := metanode.Open(ctx, metanode.Deps{
		Deps:      server.Deps{Config: c.metaConfig, Log: c.opts.Logger},
		LeaseTime: c.opts.Lease, WritesEnd: c.opts.WritesEnd,
	})
	if err != nil {
		return fmt.Errorf("meta node: %w", err)
	}
	c.Meta = n
	return nil
}

func (o Options) dataConfig(dir string, p Ports) *datanode.Config {
	cfg := datanode.NewConfig()
	cfg.BindAddress, cfg.HTTPD.BindAddress = loopback(p.TCP), loopback(p.HTTP)
	cfg.Meta.Dir = filepath.Join(dir, "meta")
	cfg.Data.Dir, cfg.Data.WALDir = filepath.Join(dir, "data"), filepath.Join(dir, "wal")
	cfg.HintedHandoff.Dir = filepath.Join(dir, "hh")
	cfg.HintedHandoff.RetryInterval = itoml.Duration(50 * time.Millisecond)
	cfg.HintedHandoff.RetryMaxInterval = itoml.Duration(500 * time.Millisecond)
	cfg.HTTPD.LogEnabled = false
	cfg.Monitor.StoreEnabled = false
	cfg.AntiEntropy.CheckInterval = itoml.Duration(time.Second)
	cfg.AntiEntropy.Settle = itoml.Duration(time.Second)
	cfg.AntiEntropy.AutoRepairDiff = false // differences are to be seen
	if o.DataConfig != nil {
		o.DataConfig(cfg)
	}
	return cfg
}

// DataDir is the folder of a data node.
func (c *Cluster) DataDir(i int) string {
	return filepath.Join(c.opts.Dir, "data"+strconv.Itoa(i+1))
}

// StartData starts a data node, also again after StopData.
func (c *Cluster) StartData(i int) error {
	n := c.newData(i)
	free := c.configs[i].HTTPD.BindAddress
	err := n.Open()
	// The engine opens its own HTTP listener: a free port may be taken in between. While a node is stopped, a
	// connection or a cluster of another test may have one of its ports, until that test ends.
	again := strings.HasSuffix(free, ":0") || c.links.ran(i)
	for began := time.Now(); errors.Is(err, syscall.EADDRINUSE) && again && time.Since(began) < portWait; {
		time.Sleep(20 * time.Millisecond)
		c.configs[i].HTTPD.BindAddress = free
		n = c.newData(i)
		err = n.Open()
	}
	if err != nil {
		return fmt.Errorf("data node %d: %w", i+1, err)
	}
	c.Data[i] = n
	c.links.started(i, n.TCPAddr())
	c.configs[i].BindAddress = n.TCPAddr() // the same port after a restart
	// On a busy machine, the other members may need more than one look to see that it is there.
	for began := time.Now(); strings.Contains(n.Refusal(), unreached) && time.Since(began) < 20*time.Second; {
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// portWait is how long a node waits for a port that others have.
const portWait = 2 * time.Minute

// unreached is a part of why a data node serves nothing while no other member has confirmed who it is.
const unreached = "no other member reaches it"

// Extra starts one more data node on the folders in dir, as another process would. It is in no cluster unless its
// folders say so. It stops with the cluster at the latest.
func (c *Cluster) Extra(dir string) (*datanode.Node, error) {
	log := c.opts.Logger.With(zap.String("extra_data_node", dir))
	start := func() (*datanode.Node, error) {
		n := datanode.New(c.opts.dataConfig(dir, Ports{}), version.String(), log, datanode.Seams{})
		return n, n.Open()
	}
	n, err := start()
	// A free port may be taken before the engine opens it, as in StartData.
	for began := time.Now(); errors.Is(err, syscall.EADDRINUSE) && time.Since(began) < portWait; {
		time.Sleep(20 * time.Millisecond)
		n, err = start()
	}
	if err != nil {
		return nil, err
	}
	c.extra = append(c.extra, n)
	return n, nil
}

// newData makes a data node with the seams of this cluster.
func (c *Cluster) newData(i int) *datanode.Node {
	log := c.opts.Logger.With(zap.Int("data_node", i+1))
	return datanode.New(c.configs[i], version.String(), log, c.seams(i))
}

func (c *Cluster) seams(i int) datanode.Seams {
	s := datanode.Seams{
		Blocked: func(addr string) bool { return c.links.blocked(i, addr) },
		Wrap:    func(addr string, conn net.Conn) net.Conn { return c.links.wrap(i, addr, conn) },
		NoMeta:  func() bool { return c.links.hasNoMeta(i) },
	}
	s.Free = c.opts.Free
	if f := c.opts.NotWhole; f != nil {
		s.NotWhole = func(shard uint64) string { return f(i, shard) }
	}
	if f := c.opts.Late; f != nil {
		s.Late = func(ctx context.Context) { f(ctx, i) }
	}
	if f := c.opts.Now; f != nil {
		s.Now = func() time.Time { return f(i) }
	}
	return s
}

// StopData stops a data node; its files stay.
func (c *Cluster) StopData(i int) error {
	n := c.Data[i]
	if n == nil {
		return nil
	}
	c.Data[i] = nil
	err := n.Close()
	// One that is kept would fail the first request to the next node on the same port.
	http.DefaultClient.CloseIdleConnections()
	return err
}

// Reload makes all nodes load their certificates and settings anew, as SIGHUP does.
func (c *Cluster) Reload() error {
	errs := []error{c.Meta.Reload(c.metaConfig)}
	for i, n := range c.Data {
		if n != nil {
			errs = append(errs, n.Reload(c.configs[i]))
		}
	}
	return errors.Join(errs...)
}

// Wipe removes the shards of a stopped data node from its disk.
func (c *Cluster) Wipe(i int) error {
	if c.Data[i] != nil {
		return errors.New("stop the node before wiping it")
	}
	return errors.Join(os.RemoveAll(c.configs[i].Data.Dir), os.RemoveAll(c.configs[i].Data.WALDir))
}

// Shards lists the shards of a database as the meta node knows them.
func (c *Cluster) Shards(db string) []cluster.Shard {
	var out []cluster.Shard
	for _, s := range c.Meta.State().Shards() {
		if s.Database == db {
			out = append(out, s)
		}
	}
	return out
}

// Wait polls until ok, or returns the context's error.
func (c *Cluster) Wait(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// Close stops all nodes, data nodes first.
func (c *Cluster) Close() error {
	var errs []error
	for i := range c.Data {
		c.GoOn(i)
	}
	for _, n := range c.extra {
		errs = append(errs, n.Close())
	}
	for i := range c.Data {
		errs = append(errs, c.StopData(i))
	}
	if c.Meta != nil {
		errs = append(errs, c.Meta.Close())
	}
	return errors.Join(errs...)
}
