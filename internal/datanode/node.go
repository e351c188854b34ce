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
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/httpd"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/precreator"
	"github.com/influxdata/influxdb/services/retention"
	"github.com/influxdata/influxdb/services/subscriber"
	"github.com/influxdata/influxdb/tsdb"
	_ "github.com/influxdata/influxdb/tsdb/engine" // registers the tsm1 engine
	_ "github.com/influxdata/influxdb/tsdb/index"  // registers the inmem and tsi1 indexes
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/budget"
	"concord/internal/clocks"
	"concord/internal/continuous"
	"concord/internal/copystate"
	"concord/internal/deletes"
	"concord/internal/distquery"
	"concord/internal/entropy"
	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/retype"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/transport"
	"concord/internal/entropy/tsmfile"
	"concord/internal/fulldisk"
	"concord/internal/handoff"
	"concord/internal/httpapi"
	"concord/internal/meta"
	"concord/internal/replication"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
	"concord/internal/writecache"
)

// Node is a data node. Parts start in the order of Open and stop in reverse.
type Node struct {
	Meta    *meta.Client
	Store   *tsdb.Store
	Entropy *entropy.Service // nil when [anti-entropy] enabled = false

	// Blocked, when set before Open, tells which peers (by TCP address) this node
	// must not call: with it tests and the tour cut links.
	Blocked func(addr string) bool
	// NotWhole, when set before Open, is why this node's copy of a shard cannot be trusted, instead of what the
	// node knows: with it tests make a copy incomplete.
	NotWhole func(shard uint64) string
	// Late, when set before Open, holds up what the long poll of the metadata brings until it returns: with it tests
	// make a node late.
	Late func(ctx context.Context)
	// Now, when set before Open, is the clock that this node tells others: with it tests move it.
	Now func() time.Time

	cfg      *Config
	version  string
	log      *zap.Logger
	tcpAddr  string // advertised
	httpAddr string // advertised
	writer   *replication.Writer
	deleted  *deletes.Memory // what this node knows of deletes
	deletes  *deletes.Service
	ran      *deletes.RanLog  // deletes that ran here; nil without hinted handoff
	disk     *fulldisk.Store  // keeps the engine whole when its disk is full
	handoff  *handoff.Service // nil when [hinted-handoff] enabled = false
	executor *query.Executor
	queries  *budget.Budget  // what queries may hold in memory
	asked    budget.Requests // queries of clients
	sub      *subscriber.Service
	api      *httpapi.Server
	http     httpStore // the cluster, for api
	local    *entropy.Local
	copies   *copystate.Service // which copies are whole
	queues   queues
	clocks   *clocks.Watch                   // of the other data nodes
	cache    *writecache.Store               // all writes to Store go through it
	suspects atomic.Pointer[entropy.Service] // Entropy, for hinted handoff, which runs before it is there
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

// New returns a data node that Open starts. cfg must be valid.
func New(cfg *Config, version string, log *zap.Logger) *Node {
	n := &Node{cfg: cfg, version: version, log: log, clocks: clocks.NewWatch(log)}
	n.place = place{process: rand.Uint64() | 1, doubt: make(chan struct{}, 1)}
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

	n.Meta = meta.NewClient(n.cfg.Meta.Dir, n.log)
	n.Meta.Late = n.Late
	n.Meta.Secure(n.metaTLS, n.cfg.Meta.InternalSharedSecret)
	if err := n.Meta.Open(); err != nil {
		return fmt.Errorf("open the cached metadata: %w", err)
	}
	n.onClose(n.Meta.Close)
	n.pool = &rpc.Pool{Blocked: n.Blocked, Secret: n.cfg.Meta.InternalSharedSecret, TLS: n.peerTLS, Index: n.Meta.Index}
	n.onClose(n.pool.Close)
	if err := n.keepFolder(); err != nil {
		return err
	}
	return n.takePlace()
}

// openParts starts what serves, and what works on the shards.
func (n *Node) openParts() error {
	n.life.Lock()
	defer n.life.Unlock()
	n.Store = tsdb.NewStore(n.cfg.Data.Dir)
	n.Store.EngineOptions.Config = n.cfg.engine()
	n.Store.EngineOptions.EngineVersion = n.cfg.Data.Engine
	n.Store.EngineOptions.IndexVersion = n.cfg.Data.Index
	n.Store.EngineOptions.MonitorDisabled = true // it frees caches that are written to; writecache has another one
	n.Store.WithLogger(n.log)
	// The engine may compact as soon as it opens.
	n.local = entropy.NewLocal(n.Store, n.Meta.ClusterID, n.cfg.entropyDir())
	n.local.OnDamage = func(shard uint64, d *tsmfile.Damage) {
		n.log.Error("A file of a shard is damaged", zap.Uint64("db_shard_id", shard), zap.String("file", d.File), zap.Int64("offset", d.Offset), zap.String("key", d.Key), zap.String("reason", d.Reason))
	}
	n.local.OnAside = func(shard uint64, dir string) {
		n.log.Info("Damaged files were set aside", zap.Uint64("db_shard_id", shard), zap.String("kept", dir))
	}
	n.local.OnHidden = n.hiddenFound
	n.local.OnRetype = func(shard uint64, kept retype.Kept) {
		n.log.Warn("Values of another type were set aside", zap.Uint64("db_shard_id", shard), zap.Int("points", kept.Points), zap.String("kept", kept.Path))
	}
	gate := scrub.NewGate(n.cfg.Data)
	gate.OnDamage = n.foundByGate
	n.onClose(gate.Close)
	n.Store.EngineOptions.CompactionPlannerCreator = gate.Planner
	damaged, err := scrub.BeforeOpen(n.cfg.Data.Dir)
	if err != nil {
		return fmt.Errorf("look for files in %s that cannot be opened: %w", n.cfg.Data.Dir, err)
	}
	fields, err := fieldindex.BeforeOpen(n.fieldFolders())
	if err != nil {
		return fmt.Errorf("look for indexes of fields in %s that cannot be loaded: %w", n.cfg.Data.Dir, err)
	}
	if err := n.Store.Open(); err != nil {
		return fmt.Errorf("open the storage engine in %s: %w", n.cfg.Data.Dir, err)
	}
	n.onClose(n.Store.Close)
	stopped := written(n.Store) // before anything is written
	fields.AfterOpen(n.Store)
	if err := n.fieldsRebuilt(fields.Rebuilt); err != nil {
		return err
	}
	n.cache = writecache.Wrap(n.Store, n.log)
	n.onClose(n.cache.Close)
	n.disk = fulldisk.New(n.cache, []string{n.cfg.Data.Dir, n.cfg.Data.WALDir}, n.log)
	n.onClose(n.disk.Close)

	if err := n.openCopies(stopped); err != nil {
		return err
	}

	n.sub = subscriber.NewService(n.cfg.Subscriber, n.certs)
	n.sub.MetaClient = n.Meta
	n.sub.WithLogger(n.log)
	if err := n.sub.Open(); err != nil {
		return fmt.Errorf("open the subscriber: %w", err)
	}
	n.onClose(n.sub.Close)

	n.writer = replication.NewWriter(n.Meta, n.Store, n.sub, n.pool)
	n.writer.WriteTimeout = time.Duration(n.cfg.Cluster.WriteTimeout)
	n.writer.WithLogger(n.log)
	n.deleted = deletes.NewMemory(n.Meta)
	n.writer.Begun, n.writer.Deletes, n.local.Deletes = n.local.Begin, n.deleted, n.deleted
	writes := &retype.Gate{Store: n.disk}
	n.writer.Shards = writes
	n.local.Shards, n.local.HoldWrites = n.writer.Repairs(), writes.Hold
	n.writer.HasLacks = n.copies.Lacking
	n.local.PointVersions = n.writer.Repairs().Versions
	n.writer.Missed, n.writer.Lacks, n.writer.Admit = n.missed, n.copies.Missed, n.copies.Admit
	n.writer.NotWhole = func(ctx context.Context, shard uint64) bool { return len(n.copies.Unfit(ctx, shard)) > 0 }
	n.writer.Deleted, n.writer.Refresh = n.Meta.Deleted, n.Meta.Refresh
	for shard, found := range damaged {
		if err := n.local.Found(shard, found...); err != nil {
			return err
		}
	}
	if err := n.openOrder(); err != nil {
		return err
	}
	n.onClose(n.closeCopies) // before the clock: until then others tell this node of their clocks
	if err := n.openHandoff(); err != nil {
		return err
	}
	if n.place.left.Swap(false) {
		if err := n.forgetCluster(); err != nil {
			return fmt.Errorf("this node left its cluster, but %w", err)
		}
	}
	if err := n.deletes.Open(); err != nil {
		return fmt.Errorf("open the deletes: %w", err)
	}
	n.onClose(n.deletes.Close)
	if err := n.writer.Open(); err != nil {
		return fmt.Errorf("open the points writer: %w", err)
	}
	n.onClose(n.writer.Close)
	n.queues.writer.Store(n.writer)
	n.mon = n.newMonitor()

	if n.queries, err = n.cfg.queryBudget(); err != nil {
		return err
	}
	n.openExecutor(n.pool, n.mon)
	n.onClose(n.executor.Close)

	n.reporters.add(n.executor, n.Store, n.writer, n.sub, &n.served, n.copies, n.clocks, n.queries)
	if n.handoff != nil {
		n.reporters.add(n.handoff)
	}
	view, err := n.openEntropy(n.pool)
	if err != nil {
		return err
	}
	n.closeIdleServer()
	// Clients are served from now on: what was confirmed to others while this node was down is to be true here.
	if err := n.Meta.Refresh(); err != nil && n.Meta.NodeID() != 0 {
		n.log.Warn("No meta node says what changed while this node was down: serving the copy", zap.Error(err))
	}
	if err := n.openServices(n.mon, view); err != nil {
		return err
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

// foundByGate notes damage that a compaction would have met, and has it healed.
func (n *Node) foundByGate(shard uint64, found []*tsmfile.Damage) {
	if err := n.local.Found(shard, found...); err != nil {
		n.log.Error("Cannot note damage", zap.Uint64("db_shard_id", shard), zap.Error(err))
	}
	if e := n.suspects.Load(); e != nil {
		e.Suspect(shard)
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

// openExecutor makes the InfluxQL executor over the whole cluster.
func (n *Node) openExecutor(pool *rpc.Pool, mon *monitor.Monitor) {
	c := n.cfg.Cluster
	n.http = n.newHTTPStore(pool)
	n.executor = query.NewExecutor()
	mapper, schema := distquery.NewShardMapper(n.Meta, n.Store, pool), distquery.NewSchema(n.Meta, n.Store, pool)
	mapper.Whole, schema.Whole = n.whole(), n.whole()
	n.executor.StatementExecutor = &distquery.Executor{
		Base: coordinator.StatementExecutor{
			MetaClient:          n.Meta,
			TaskManager:         n.executor.TaskManager,
			Monitor:             mon,
			PointsWriter:        n.writer,
			MaxSelectPointN:     c.MaxSelectPointN,
			MaxSelectSeriesN:    c.MaxSelectSeriesN,
			MaxSelectBucketsN:   c.MaxSelectBucketsN,
			StrictErrorHandling: n.cfg.Data.StrictErrorHandling,
		},
		Mapper: mapper,
		Store: func(r *distquery.Report, share *budget.Share) coordinator.TSDBStore {
			return clusterStore{Store: n.Store, Schema: schema.For(r, share), delete: n.deletes}
		},
		Strict:  c.IncompleteReads == failIncomplete,
		State:   n.Meta.State,
		Refresh: n.Meta.Refresh,
		Log:     n.log,

		Budget: n.queries, Requests: &n.asked,
	}
	tm := n.executor.TaskManager
	tm.QueryTimeout = time.Duration(c.QueryTimeout)
	tm.LogQueriesAfter = time.Duration(c.LogQueriesAfter)
	tm.MaxConcurrentQueries = c.MaxConcurrentQueries
	tm.LogTimedoutQueries = c.LogTimedOutQueries
	if n.cfg.Data.QueryLogEnabled {
		n.executor.WithLogger(n.log)
	}
}

// openEntropy starts the anti-entropy service and answers other nodes.
// The view is the whole cluster's anti-entropy, which also answers when the
// service is off.
func (n *Node) openEntropy(pool *rpc.Pool) (*entropy.View, error) {
	local := n.local
	if n.handoff != nil {
		local.Pending = n.handoff.Nodes
	}
	shards := &shardcopy.Server{
		Store: n.Store, Pool: pool, Begun: local.Copied, Deletes: n.deleted.DeletesSeen, Hold: n.deleted.HoldDeletes,
		NotWhole: n.notWhole, HoldWrites: n.cache.Hold,
		Dir: filepath.Join(n.cfg.entropyDir(), "incoming"), CheckDisk: local.CheckDisk, Log: n.log,
	}
	local.Files = shards.FillFrom
	local.Pace = pace.New(n.requests())
	if err := shards.Discard(func(id uint64) bool { _, ok := n.Meta.Shard(id); return ok }); err != nil {
		return nil, fmt.Errorf("remove files of shards that are gone: %w", err)
	}
	swept, stop := make(chan struct{}), make(chan struct{})
	go func() { defer close(swept); n.sweep(shards, stop) }()
	n.onClose(func() error { close(stop); <-swept; return nil })
	tr := transport.New(pool)
	view := &entropy.View{State: n.Meta.State, Transport: tr, NodeID: n.Meta.NodeID}
	var control entropy.Control // stays nil when the service is off
	if n.cfg.AntiEntropy.Enabled {
		n.Entropy = entropy.New(n.cfg.AntiEntropy, entropy.Deps{
			Dir: n.cfg.entropyDir(), Meta: n.Meta, Local: local, Transport: tr, Pace: local.Pace,
		})
		n.Entropy.WithLogger(n.log)
		shards.Wait = n.Entropy.Throttle
		n.suspects.Store(n.Entropy)
		if err := n.Entropy.Open(); err != nil {
			return nil, fmt.Errorf("open anti-entropy: %w", err)
		}
		n.onClose(n.Entropy.Close)
		n.reporters.add(n.Entropy)
		if n.copies.Lacking() {
			n.Entropy.Lacks(0)
		}
		control, view.Self = n.Entropy, n.Entropy
	}

	guard := rpc.NewGuard(n.cfg.Meta.InternalSharedSecret)
	s := rpc.NewServer(append(rpc.CatchingUp(n.catchUp), guard.Option(), n.served.Option())...)
	n.registerServices(s, local, control, shards)
	ln, done := n.listener.forOneServer(), make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(guard.Listener(ln)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.log.Error("Serving other nodes ended", zap.Error(err))
		}
	}()
	n.onClose(func() error { s.Stop(); <-done; return nil })
	return view, nil
}

// requests returns a function that tells how many writes and queries of clients this node has served. A call of
// another node may ask it while the node closes, so it has the parts of its own.
func (n *Node) requests() func() int64 {
	executor, writer, store := n.executor, n.writer, n.http
	return func() int64 {
		queries, _ := executor.Statistics(nil)[0].Values["queriesExecuted"].(int64)
		return n.served.Requests() + writer.Requests() + store.Requests() + queries
	}
}

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

// openServices starts the engine's services and, last of all, the HTTP API.
func (n *Node) openServices(mon *monitor.Monitor, view *entropy.View) error {
	start := func(name string, s interface {
		WithLogger(*zap.Logger)
		Open() error
		Close() error
	}) error {
		s.WithLogger(n.log)
		if err := s.Open(); err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		n.onClose(s.Close)
		if r, ok := s.(monitor.Reporter); ok {
			n.reporters.add(r)
		}
		return nil
	}

	if err := start("the monitor", mon); err != nil {
		return err
	}
	n.observe()
	if n.cfg.Precreator.Enabled {
		s := precreator.NewService(n.cfg.Precreator)
		s.MetaClient = n.Meta
		if err := start("shard precreation", s); err != nil {
			return err
		}
	}
	if n.cfg.ContinuousQuery.Enabled {
		s := continuous.New(n.cfg.ContinuousQuery, n.Meta, n.executor, mon)
		mon.RegisterDiagnosticsClient("cq", s)
		if err := start("continuous queries", s); err != nil {
			return err
		}
	}
	if n.cfg.Retention.Enabled {
		s := retention.NewService(n.cfg.Retention)
		s.SetMetaClient(n.Meta)
		s.TSDBStore = n.Store
		// Each node drops its own ownership: the others still have to delete their copy.
		s.DropShardMetaRef = func(id uint64, owners []uint64) error { return n.Meta.RemoveShardOwner(id, n.Meta.NodeID()) }
		if err := start("retention enforcement", s); err != nil {
			return err
		}
	}
	if !n.cfg.HTTPD.Enabled {
		return nil
	}
	s := httpapi.New(n.cfg.HTTPD, n.certs, n.queries, &n.asked)
	n.api = s
	h := s.Handler
	h.MetaClient = httpMeta{n.Meta}
	h.QueryAuthorizer = emeta.NewQueryAuthorizer(n.Meta.Client)
	h.WriteAuthorizer = writeAuthorizer{n.Meta}
	h.QueryExecutor = n.executor
	h.Monitor = mon
	h.PointsWriter = n.writer
	h.Store = n.http
	h.Version, h.BuildType = n.version, "Concord"
	h.AddRoutes(entropy.Routes(view)...)
	h.AddRoutes(httpd.Route{
		Name: "shard-status", Method: http.MethodGet, Pattern: "/shard-status", LoggingEnabled: true, HandlerFunc: n.serveShardStatus,
	})
	return start("the HTTP API", s)
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

// monitorWriter lets the monitor write _internal through the cluster.
type monitorWriter struct{ w *replication.Writer }

func (m monitorWriter) WritePoints(db, rp string, points models.Points) error {
	return m.w.WritePointsPrivileged(tsdb.WriteContext{UserId: tsdb.MonitorUser}, db, rp, models.ConsistencyLevelAny, points)
}
