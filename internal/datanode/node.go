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
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine" // registers the tsm1 engine
	_ "github.com/influxdata/influxdb/tsdb/index"  // registers the inmem and tsi1 indexes
	"go.uber.org/zap"

	"concord/internal/clocks"
	"concord/internal/copystate"
	"concord/internal/deletes"
	"concord/internal/drops"
	"concord/internal/entropy/local"
	"concord/internal/entropy/retype"
	"concord/internal/entropy/service"
	"concord/internal/entropy/view"
	"concord/internal/eventlog"
	"concord/internal/fulldisk"
	"concord/internal/handoff"
	"concord/internal/httpapi"
	"concord/internal/listeners"
	"concord/internal/meta/client"
	"concord/internal/protocol"
	"concord/internal/replication"
	"concord/internal/rpc"
	"concord/internal/writecache"
)

// Node is a data node. Parts start in the order of Open and stop in reverse. It has a field for each part, because
// parts are made of each other and no part knows all of them; and a method for each step that makes one.
type Node struct {
	Meta    *client.Client
	Store   *tsdb.Store
	Entropy *service.Service // nil when [anti-entropy] enabled = false

	cfg     *Config
	version string
	log     *zap.Logger
	seams   Seams

	// How others reach this node, and it them.
	tcpAddr  string // advertised
	httpAddr string // advertised
	certs    certificates
	listener *sharedListener // other nodes come in
	pool     *rpc.Pool       // to other data nodes
	served   rpc.Served      // what other nodes ask of this one
	place    place
	tooOld   protocol.Once // nodes that are refused

	// The storage engine, and what is in front of it.
	stopped map[uint64]time.Time // when shards were written to last before this start
	memory  *local.Memory        // of copies
	drops   *drops.Store         // all that is dropped of Store is dropped through it
	cache   *writecache.Store    // all writes to Store go through it
	disk    *fulldisk.Store      // keeps the engine whole when its disk is full
	holds   *retype.Gate         // of writes to the store

	// Which copies are whole.
	copies      *copystate.Service
	closeCopies func() error  // may be called twice
	clocks      *clocks.Watch // of the other data nodes

	// Writes and deletes.
	order   *replication.Order
	writer  *replication.Writer
	deleted *deletes.Memory // what this node knows of deletes
	deletes *deletes.Service
	ran     *deletes.RanLog  // deletes that ran here; nil without hinted handoff
	handoff *handoff.Service // nil when [hinted-handoff] enabled = false
	queues  queues
	sub     *subscriber.Service

	// What reads them, and what compares them.
	queries   queries
	view      *view.View                      // the anti-entropy of the whole cluster
	suspects  atomic.Pointer[service.Service] // Entropy, for hinted handoff, which runs before it is there
	api       *httpapi.Server
	listeners *listeners.Listeners // for other protocols than HTTP
	mon       *monitor.Monitor

	// What this node says of itself to people.
	started   time.Time
	events    eventlog.Log
	load      *httpapi.Load // what clients ask
	overview  *overview     // for the page
	reporters reporters
	life      sync.Mutex     // held while parts are opened, closed or reloaded
	stop      []func() error // what Close runs, last first
}

// Seams are where tests and the tour change what a node does. Each may be nil.
type Seams struct {
	// Blocked says whether the node must not call a peer, by its TCP address: a link is cut.
	Blocked func(addr string) bool
	// NotWhole says why its copy of a shard cannot be trusted, instead of what the node knows.
	NotWhole func(shard uint64) string
	// Wrap gets each connection to a peer: what goes over it may be held.
	Wrap func(addr string, conn net.Conn) net.Conn
	// Late holds up what the long poll of the metadata brings, until it returns.
	Late func(ctx context.Context)
	// NoMeta reports whether the node cannot reach any meta node.
	NoMeta func() bool
	// Now is the clock that the node tells others.
	Now func() time.Time
	// Free tells the bytes that are free, and all bytes, of the file system of a folder.
	Free func(dir string) (free, total uint64, err error)
}

// New returns a data node that Open starts. cfg must be valid.
func New(cfg *Config, version string, log *zap.Logger, seams Seams) *Node {
	if seams.Free == nil {
		seams.Free = fulldisk.Free
	}
	n := &Node{
		cfg: cfg, version: version, seams: seams, started: time.Now(), load: &httpapi.Load{},
		place: place{process: rand.Uint64() | 1, check: make(chan struct{}, 1)},
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

	n.onClose(n.certs.Close)
	if err := n.certs.open(n.cfg); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", n.cfg.BindAddress)
	if err != nil {
		return fmt.Errorf("listen on bind-address %s: %w", n.cfg.BindAddress, err)
	}
	n.listener = newSharedListener(ln, n.certs.peers)
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
		Dir: n.cfg.Meta.Dir, Log: n.log, TLS: n.certs.meta, Secret: n.cfg.Meta.InternalSharedSecret,
		Hash: n.cfg.Meta.PasswordHash, Protocol: n.cfg.TLS, Late: n.seams.Late, Cut: n.seams.NoMeta,
	})
	if err != nil {
		return fmt.Errorf("open the cached metadata: %w", err)
	}
	n.onClose(n.Meta.Close)
	n.pool = &rpc.Pool{
		Blocked: n.seams.Blocked, Wrap: n.seams.Wrap, Secret: n.cfg.Meta.InternalSharedSecret, TLS: n.certs.peers,
		Relies: n.relies, DialTimeout: time.Duration(n.cfg.Cluster.DialTimeout),
	}
	n.onClose(n.pool.Close)
	if err := n.openFolder(); err != nil {
		return err
	}
	return n.takePlace()
}

// openParts starts what serves, and what works on the shards. Each part is made of those before it.
func (n *Node) openParts() error {
	n.life.Lock()
	defer n.life.Unlock()
	for _, open := range []func() error{
		n.openStore, n.openCopies, n.openSubscriber, n.openOrder, n.tellOfAdoption, n.openWrites, n.leaveCluster,
		n.startWrites, n.openQueries, n.openEntropy, n.openServices, n.openBackups,
	} {
		if err := open(); err != nil {
			return err
		}
	}
	n.place.refusal.Store(nil)
	n.copiesAnswer()
	return nil
}

// relies is the metadata that requests of this node rely on.
func (n *Node) relies() rpc.Reliance {
	return rpc.Reliance{ClusterID: n.Meta.ClusterID(), Index: n.Meta.Index()}
}

// catchUp makes this node's copy of the metadata as new as a request of another node relies on. A node of another
// cluster, which had this address once, counts its own.
func (n *Node) catchUp(ctx context.Context, on rpc.Reliance) {
	if on.ClusterID != 0 && on.ClusterID != n.Meta.ClusterID() {
		return
	}
	if err := n.Meta.CatchUp(ctx, on.Index, ""); err != nil {
		n.log.Debug("Serving a request that relies on newer metadata", zap.Error(err))
	}
}

// logQueries logs the queries that run now.
func (n *Node) logQueries() {
	n.life.Lock()
	defer n.life.Unlock()
	if n.queries.executor != nil {
		n.queries.executor.TaskManager.LogCurrentQueries(n.log.Info)
	}
}

// inBackground runs a task until the node closes.
func (n *Node) inBackground(task func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { task(ctx) })
	n.onClose(func() error {
		cancel()
		running.Wait()
		return nil
	})
}

func (n *Node) onClose(fn func() error) { n.stop = append(n.stop, fn) }

// Reload takes over what can change while the node runs: the [anti-entropy]
// section, all certificates, and the level of the log. On an error nothing has changed.
func (n *Node) Reload(cfg *Config) error {
	n.life.Lock()
	defer n.life.Unlock()
	steps, err := n.certs.prepare(cfg)
	if err != nil {
		return err
	}
	if n.api != nil && n.cfg.HTTPD.HTTPSEnabled {
		apply, err := n.api.PrepareReload(cfg.http())
		if err != nil {
			return fmt.Errorf("reload the certificates of [http]: %w", err)
		}
		steps = append(steps, apply)
	}
	if n.listeners != nil {
		apply, err := n.listeners.PrepareReload()
		if err != nil {
			return err
		}
		steps = append(steps, apply...)
	}
	if n.queries.log != nil {
		apply, err := n.queries.log.prepareReload()
		if err != nil {
			return err
		}
		steps = append(steps, apply)
	}
	for _, apply := range steps {
		if err := apply(); err != nil {
			return fmt.Errorf("reload certificates and files: %w", err)
		}
	}
	if n.Entropy != nil {
		n.Entropy.SetConfig(cfg.AntiEntropy)
	}
	n.cfg.Logging.Level.SetLevel(cfg.Logging.Level.Level())
	return nil
}

// Close stops all parts, the last started first, and returns their errors. Before, it logs the queries that run, with
// [cluster] termination-query-log.
func (n *Node) Close() error {
	if n.cfg.Cluster.TerminationQueryLog {
		n.logQueries()
	}
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
	n.Entropy, n.handoff, n.queries.executor, n.queries.log, n.api, n.listeners = nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
