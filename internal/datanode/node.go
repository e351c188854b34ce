// Package datanode assembles a data node: the storage engine, its HTTP API,
// the gRPC services for other nodes, replication, queries over the cluster and
// anti-entropy. It is the only place that knows every part.
package datanode

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine" // registers the tsm1 engine
	_ "github.com/influxdata/influxdb/tsdb/index"  // registers the inmem and tsi1 indexes
	"go.uber.org/zap"

	"concord/internal/budget"
	"concord/internal/clocks"
	"concord/internal/copystate"
	"concord/internal/deletes"
	"concord/internal/distquery"
	"concord/internal/entropy/local"
	"concord/internal/entropy/retype"
	"concord/internal/entropy/service"
	"concord/internal/entropy/view"
	"concord/internal/eventlog"
	"concord/internal/fulldisk"
	"concord/internal/handoff"
	"concord/internal/httpapi"
	"concord/internal/meta/client"
	"concord/internal/replication"
	"concord/internal/rpc"
	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
	"concord/internal/writecache"
)

// Node is a data node. Parts start in the order of Open and stop in reverse. It has a field for each part, as parts are
// made of each other, and none knows all.
type Node struct {
	Meta    *client.Client
	Store   *tsdb.Store
	Entropy *service.Service // nil when [anti-entropy] enabled = false

	seams    Seams
	cfg      *Config
	version  string
	log      *zap.Logger
	tcpAddr  string // advertised
	httpAddr string // advertised
	order    *replication.Order
	writer   *replication.Writer
	deleted  *deletes.Memory // what this node knows of deletes
	deletes  *deletes.Service
	ran      *deletes.RanLog  // deletes that ran here; nil without hinted handoff
	disk     *fulldisk.Store  // keeps the engine whole when its disk is full
	handoff  *handoff.Service // nil when [hinted-handoff] enabled = false
	executor *query.Executor
	queries  *budget.Budget      // what queries may hold in memory
	vector   distquery.Vector    // how aggregates are answered
	sketches *distquery.Sketches // how many series there are
	asked    budget.Requests     // queries of clients
	load     *httpapi.Load       // what clients ask
	overview *overview           // what this node says of itself for the page
	events   eventlog.Log        // what people want to know of
	started  time.Time
	sub      *subscriber.Service
	api      *httpapi.Server
	http     httpStore          // the cluster, for api
	memory   *local.Memory      // of copies
	holds    *retype.Gate       // of writes to the store
	copies   *copystate.Service // which copies are whole
	queues   queues
	clocks   *clocks.Watch                   // of the other data nodes
	cache    *writecache.Store               // all writes to Store go through it
	stopped  map[uint64]time.Time            // when shards were written to last before this start
	view     *view.View                      // the anti-entropy of the whole cluster
	suspects atomic.Pointer[service.Service] // Entropy, for hinted handoff, which runs before it is there
	certs    *tlsconfig.TLSCertMonitor
	peerTLS  *tlsconfig.TLSConfigManager // to and from data nodes
	metaTLS  *tlsconfig.TLSConfigManager // to meta nodes
	served   rpc.Served                  // what other nodes ask of this one
	stop     []func() error              // what Close runs, last first

	listener *sharedListener        // other nodes come in
	pool     *rpc.Pool              // to other data nodes
	refusal  atomic.Pointer[string] // why this node serves nothing; nil while it serves
	place    place
	life     sync.Mutex // held while parts are opened, closed or reloaded

	closeCopies func() error // may be called twice

	mon       *monitor.Monitor
	reporters reporters
}

// Seams are where tests and the tour change what a node does. Each may be nil.
type Seams struct {
	Blocked  func(addr string) bool    // whether the node must not call a peer, by its TCP address: a link is cut
	NotWhole func(shard uint64) string // why its copy of a shard cannot be trusted, instead of what the node knows
	Late     func(ctx context.Context) // holds up what the long poll of the metadata brings, until it returns
	Now      func() time.Time          // the clock that the node tells others
}

// New returns a data node that Open starts. cfg must be valid.
func New(cfg *Config, version string, log *zap.Logger, seams Seams) *Node {
	n := &Node{
		cfg: cfg, version: version, seams: seams, started: time.Now(), load: &httpapi.Load{},
		place: place{process: rand.Uint64() | 1, doubt: make(chan struct{}, 1)},
	}
	n.log = n.events.Of(log)
	n.clocks = clocks.NewWatch(n.log)
	return n
}

// TCPAddr is the host:port at which other nodes reach this one, after Open.
func (n *Node) TCPAddr() string { return n.tcpAddr }

// HTTPAddr is the host:port at which clients reach this node, after Open.
func (n *Node) HTTPAddr() string { return n.httpAddr }

// HintsPending tells whether hinted handoff of this node has entries of a shard.
func (n *Node) HintsPending(shard uint64) bool {
	return n.handoff != nil && len(n.handoff.Nodes(shard)) > 0
}

// Open starts all parts, unless other members have to confirm first who this node is. When it fails, what had started
// is stopped.
func (n *Node) Open() (err error) {
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if err := os.MkdirAll(n.cfg.Meta.Dir, 0o755); err != nil {
		return fmt.Errorf("create the meta folder: %w", err)
	}

	n.certs = tlsconfig.NewTLSCertMonitor()
	if err := n.certs.Open(); err != nil {
		return fmt.Errorf("start the certificate monitor: %w", err)
	}
	n.onClose(func() error { n.certs.Close(); return nil })
	if n.peerTLS, err = tlsmanager.New(n.cfg.Cluster.TLS, n.certs, "cluster", tlsmanager.Nodes); err != nil {
		return fmt.Errorf("[cluster] https: %w", err)
	}
	n.onClose(n.peerTLS.Close)
	if n.metaTLS, err = tlsmanager.New(n.cfg.metaTLS(), n.certs, "meta", tlsmanager.Anyone); err != nil {
		return fmt.Errorf("[meta] meta-tls: %w", err)
	}
	n.onClose(n.metaTLS.Close)

	ln, err := n.peerTLS.Listen("tcp", n.cfg.BindAddress)
	if err != nil {
		return fmt.Errorf("listen on bind-address %s: %w", n.cfg.BindAddress, err)
	}
	n.listener = newSharedListener(ln)
	n.onClose(func() error { n.listener.Close(); return nil })
	n.tcpAddr = n.cfg.advertised(n.cfg.BindAddress, ln.Addr())
	httpLn, err := net.Listen("tcp", n.cfg.HTTPD.BindAddress)
	if err != nil {
		return fmt.Errorf("listen on [http] bind-address %s: %w", n.cfg.HTTPD.BindAddress, err)
	}
	// The engine's HTTP service opens its own listener; this one only claims the
	// port early, so that a taken port is an error before any shard is opened.
	n.cfg.HTTPD.BindAddress = httpLn.Addr().String()
	n.httpAddr = n.cfg.advertised(n.cfg.HTTPD.BindAddress, httpLn.Addr())
	httpLn.Close()

	n.Meta, err = client.Open(client.Deps{
		Dir: n.cfg.Meta.Dir, Log: n.log, TLS: n.metaTLS, Secret: n.cfg.Meta.InternalSharedSecret, Late: n.seams.Late,
	})
	if err != nil {
		return fmt.Errorf("open the cached metadata: %w", err)
	}
	n.onClose(n.Meta.Close)
	n.pool = &rpc.Pool{Blocked: n.seams.Blocked, Secret: n.cfg.Meta.InternalSharedSecret, TLS: n.peerTLS, Index: n.Meta.Index}
	n.onClose(n.pool.Close)
	if err := n.keepFolder(); err != nil {
		return err
	}
	return n.takePlace()
}

// openParts starts what serves, and what works on the shards. Each part is made of those before it.
func (n *Node) openParts() error {
	n.life.Lock()
	defer n.life.Unlock()
	for _, open := range []func() error{
		n.openStore, n.openCopies, n.openSubscriber, n.openOrder, n.openWrites, n.leaveCluster, n.startWrites,
		n.openQueries, n.openEntropy, n.openServices,
	} {
		if err := open(); err != nil {
			return err
		}
	}
	n.refusal.Store(nil)
	return nil
}

// catchUp makes this node's copy of the metadata as new as a request of another node relies on.
func (n *Node) catchUp(ctx context.Context, index uint64) {
	if err := n.Meta.CatchUp(ctx, index, ""); err != nil {
		n.log.Debug("Serving a request that relies on newer metadata", zap.Error(err))
	}
}

// LogQueries logs the queries that run now.
func (n *Node) LogQueries() {
	n.life.Lock()
	defer n.life.Unlock()
	if n.executor != nil {
		n.executor.TaskManager.LogCurrentQueries(n.log.Info)
	}
}

func (n *Node) onClose(fn func() error) { n.stop = append(n.stop, fn) }

// Reload takes over what can change while the node runs: the [anti-entropy]
// section and all certificates. On an error nothing has changed.
func (n *Node) Reload(cfg *Config) error {
	n.life.Lock()
	defer n.life.Unlock()
	var steps []func() error
	for _, m := range []struct {
		manager *tlsconfig.TLSConfigManager
		tls     trust.TLS
		peers   tlsmanager.Peers
	}{{n.peerTLS, cfg.Cluster.TLS, tlsmanager.Nodes}, {n.metaTLS, cfg.metaTLS(), tlsmanager.Anyone}} {
		if !m.manager.UseTLS() {
			continue
		}
		apply, err := m.manager.PrepareReconfigure(tlsmanager.Options(m.tls, m.peers)...)
		if err != nil {
			return fmt.Errorf("reload certificates: %w", err)
		}
		steps = append(steps, apply)
	}
	if n.api != nil && n.cfg.HTTPD.HTTPSEnabled {
		apply, err := n.api.PrepareReload(cfg.HTTPD)
		if err != nil {
			return fmt.Errorf("reload the certificates of [http]: %w", err)
		}
		steps = append(steps, apply)
	}
	for _, apply := range steps {
		if err := apply(); err != nil {
			return fmt.Errorf("reload certificates: %w", err)
		}
	}
	if n.Entropy != nil {
		n.Entropy.SetConfig(cfg.AntiEntropy)
	}
	return nil
}

// Close stops all parts, the last started first, and returns their errors.
func (n *Node) Close() error {
	err := n.leavePlace()
	n.life.Lock()
	defer n.life.Unlock()
	return errors.Join(err, n.unwind(0))
}

// unwind stops what was started after the first parts, the last started first.
func (n *Node) unwind(first int) error {
	var errs []error
	for len(n.stop) > first {
		last := len(n.stop) - 1
		errs = append(errs, n.stop[last]())
		n.stop = n.stop[:last]
	}
	n.suspects.Store(nil)
	n.queues.close()
	n.reporters.clear()
	n.Entropy, n.handoff, n.executor, n.api = nil, nil, nil, nil
	return errors.Join(errs...)
}
