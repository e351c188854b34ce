package datanode

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/influxdata/influxdb/monitor"
	"github.com/influxdata/influxdb/services/httpd"
	"github.com/influxdata/influxdb/services/precreator"
	"github.com/influxdata/influxdb/services/retention"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"concord/internal/cluster"
	"concord/internal/continuous"
	"concord/internal/copystate"
	"concord/internal/distquery"
	"concord/internal/entropy"
	"concord/internal/entropy/local"
	"concord/internal/entropy/routes"
	"concord/internal/entropy/transport"
	"concord/internal/httpapi"
	"concord/internal/listeners"
	"concord/internal/page"
	"concord/internal/replication"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

// registerServices adds what this node does for other nodes. control is nil while anti-entropy is off.
func (n *Node) registerServices(s grpc.ServiceRegistrar, copies *local.Local, control entropy.Control,
	shards *shardcopy.Server) {
	rpc.RegisterMembershipServer(s, &membership{node: n})
	writes := replication.NewServer(n.Store, n.writer, n.log)
	rpc.RegisterReplicationServer(s, replicationServer{writes, n.deletes.OldServer()})
	rpc.RegisterDeletesServer(s, n.deletes.Server())
	queries := distquery.NewServer(n.queries.deps)
	rpc.RegisterQueryServer(s, queries)
	s.RegisterService(&rpc.RestrictedQuery_ServiceDesc, queries)
	rpc.RegisterCopyStateServer(s, copystate.Server{Service: n.copies})
	transport.NewServer(copies, control).Register(s)
	rpc.RegisterShardsServer(s, shards)
	rpc.RegisterLdapServer(s, ldapServer{users: n.Meta.LDAP})
	rpc.RegisterOverviewServer(s, n.overview)
}

// serveNodes answers other nodes.
func (n *Node) serveNodes(copies *local.Local, control entropy.Control, shards *shardcopy.Server) {
	guard := rpc.NewGuard(n.cfg.Meta.InternalSharedSecret)
	stopping := rpc.NewStopping()
	options := slices.Concat(n.refuseTooOld(), n.refuseUnjoined(), rpc.CatchingUp(n.catchUp), stopping.Options())
	s := rpc.NewServer(append(options, guard.Option(), n.served.Option())...)
	n.registerServices(s, copies, control, shards)
	ln, done := n.listener.forOneServer(), make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(guard.Listener(ln)); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.log.Error("Serving other nodes ended", zap.Error(err))
		}
	}()
	n.onClose(func() error {
		if stopping.Stop(s) {
			<-done
		}
		return nil
	})
}

// engineService is a service of the engine.
type engineService interface {
	WithLogger(*zap.Logger)
	Open() error
	Close() error
}

// start starts a service.
func (n *Node) start(name string, s engineService) error {
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

// openServices starts the engine's services and, last of all, the HTTP API.
func (n *Node) openServices() error {
	n.closeIdleServer()
	// Clients are served from now on: what was confirmed to others while this node was down is to be true here.
	if err := n.Meta.Refresh(); err != nil && n.Meta.NodeID() != 0 {
		n.log.Warn("No meta node says what changed while this node was down: serving the copy", zap.Error(err))
	}
	if err := n.start("the monitor", n.mon); err != nil {
		return err
	}
	n.observe()
	if n.cfg.Precreator.Enabled {
		s := precreator.NewService(n.cfg.Precreator)
		s.MetaClient = n.Meta
		if err := n.start("shard precreation", s); err != nil {
			return err
		}
	}
	if n.cfg.ContinuousQuery.Enabled {
		s := continuous.New(n.cfg.ContinuousQuery, n.Meta, n.queries.executor, n.mon)
		n.mon.RegisterDiagnosticsClient("cq", s)
		if err := n.start("continuous queries", s); err != nil {
			return err
		}
	}
	if n.cfg.Retention.Enabled {
		s := retention.NewService(n.cfg.Retention)
		s.SetMetaClient(n.Meta)
		s.TSDBStore = n.drops
		// Each node drops its own ownership: the others still have to delete their copy.
		s.DropShardMetaRef = func(id uint64, owners []uint64) error {
			return n.Meta.RemoveShardOwner(id, n.Meta.NodeID())
		}
		if err := n.start("retention enforcement", s); err != nil {
			return err
		}
	}
	if err := n.openListeners(); err != nil {
		return err
	}
	if !n.cfg.HTTPD.Enabled {
		return nil
	}
	return n.openHTTP()
}

// openListeners starts the listeners for other protocols than HTTP.
func (n *Node) openListeners() (err error) {
	n.listeners, err = listeners.Open(n.cfg.listeners(), listeners.Deps{
		Writer: n.writer, Meta: n.Meta, Certificates: n.certs.monitor, TLS: n.cfg.http().TLS, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.onClose(n.listeners.Close)
	n.reporters.add(n.listeners)
	return nil
}

// openHTTP starts the HTTP API.
func (n *Node) openHTTP() error {
	logins := page.NewLogins(page.LoginDeps{
		On: n.cfg.HTTPD.AuthEnabled, State: n.Meta.State, LDAP: n.Meta.LDAP,
	})
	meta := httpMeta{n.Meta, logins}
	pages := page.Deps{
		Address: n.httpAddr, Kind: "data", Version: n.version, State: n.Meta.State, View: n.view, Pool: n.pool,
		Own: n.overview, AskRaft: n.Meta.AskRaft, Logins: logins, Log: n.log,
	}
	n.api = httpapi.New(httpapi.Deps{
		Config: n.cfg.http(), Certs: n.certs.monitor, Handler: n.newHandler(meta),
		Deletes:    n.newEngineHandler(meta, cluster.DropData),
		OneRequest: n.oneRequest(meta),
		Page: func(queries http.Handler) httpapi.Page {
			pages.Query = queries
			return page.New(pages)
		},
		Queries: n.queries.budget, Requests: &n.queries.requests, Load: n.load, Values: n.writer.ClientValues,
	})
	return n.start("the HTTP API", n.api)
}

// newHandler returns what answers all that clients ask but deletes of /api/v2.
func (n *Node) newHandler(meta httpMeta) *httpd.Handler {
	h := n.newEngineHandler(meta, cluster.WriteData)
	h.QueryExecutor = n.queries.executor
	h.Monitor = n.mon
	h.PointsWriter = restrictedWriter{n.writer, n.Meta.State}
	h.AddRoutes(routes.Routes(n.view)...)
	h.AddRoutes(httpd.Route{
		Name: "shard-status", Method: http.MethodGet, Pattern: "/shard-status", LoggingEnabled: true,
		HandlerFunc: n.serveShardStatus,
	})
	return h
}

// newEngineHandler returns a handler of the engine. What it writes, or deletes in its place, needs a permission.
func (n *Node) newEngineHandler(meta httpMeta, permission cluster.Permissions) *httpd.Handler {
	h := httpd.NewHandler(n.cfg.http())
	h.MetaClient = meta
	h.QueryAuthorizer = fineAuthorizer{authorizer{n.Meta, n.queries.database}, n.Meta.State}
	h.WriteAuthorizer = writeAuthorizer{n.Meta, permission}
	h.Store = n.queries.store
	h.Version, h.BuildType = n.version, n.cfg.HTTPD.BuildType
	return h
}
