// Package meta is the meta node: the cluster's state under Raft with an HTTP
// API, and the data node's cached client of it.
package meta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	emeta "github.com/influxdata/influxdb/services/meta"
	"go.uber.org/zap"

	"concord/internal/clocks"
	"concord/internal/cluster"
	"concord/internal/meta/metaconfig"
	"concord/internal/rpc"
	"concord/internal/trust"
	"concord/internal/trust/tlsmanager"
)

// Server is a meta node.
type Server struct {
	// ShardRepair, when set before Open, answers below /shard-repair/.
	ShardRepair http.Handler
	// Now, when set before Open, is this node's clock: with it tests move it.
	Now func() time.Time
	// LeaseTime is for how long a lease is granted; tests set it before Open.
	LeaseTime time.Duration
	// Losses, when set before Open, lists what the cluster would lose with a data node, a phrase for each shard.
	Losses func(ctx context.Context, n cluster.Node) ([]string, error)

	routes []route // of Handle
	cfg    *metaconfig.Config
	log    *zap.Logger
	store  atomic.Pointer[store]
	pool   *rpc.Pool // to data nodes
	peers  metaHTTP  // to other meta nodes
	auth   *authCache
	clocks *clocks.Watch
	spread spread

	encoded atomic.Pointer[encodedState] // the last one that was asked for

	leases *emeta.Leases // granted while this node leads
	leader struct {
		sync.Mutex
		term  uint64
		since time.Time
	}

	certs     *tlsconfig.TLSCertMonitor
	tls       *tlsconfig.TLSConfigManager // of 8091
	raftTLS   *tlsconfig.TLSConfigManager
	dataTLS   *tlsconfig.TLSConfigManager // to data nodes
	http      *http.Server
	ln        net.Listener
	stop      chan struct{} // closed first of all, ends the long polls
	done      chan struct{} // closed when the HTTP server has ended
	membering sync.Mutex    // one change of the meta nodes at a time

	httpAddr, raftAddr string
	raftBind           string // what Raft listens on
	tune               func(*raft.Config)
}

// NewServer returns a meta node that Open starts.
func NewServer(cfg *metaconfig.Config, log *zap.Logger) *Server {
	if log == nil {
		log = zap.NewNop()
	}
	own := *cfg
	return &Server{
		cfg: &own, log: log.With(zap.String("service", "meta")), pool: &rpc.Pool{}, auth: newAuthCache(),
		LeaseTime: emeta.DefaultLeaseDuration,
		clocks:    clocks.NewWatch(log.With(zap.String("service", "meta"))),
	}
}

// route is what another package adds to the HTTP API.
type route struct {
	pattern string
	leads   bool
	handler http.Handler
}

// HandleAdmin adds a route that only administrators may use, answered by the
// leader where it changes the metadata; call it before Open.
func (s *Server) HandleAdmin(pattern string, onLeader bool, h http.HandlerFunc) {
	s.routes = append(s.routes, route{pattern, onLeader, h})
}

// Reply answers with v as JSON, or with the one-line error.
func Reply(w http.ResponseWriter, v any, err error) { reply(w, v, err) }

// Pool is the server's connections to data nodes, for what serves beside it; Close closes it.
func (s *Server) Pool() *rpc.Pool { return s.pool }

// st is the store; another one after this node was removed from its cluster.
func (s *Server) st() *store { return s.store.Load() }

// Open starts Raft, then HTTP. A node that is in a cluster waits for a leader,
// but not for long: without one it answers reads. ctx bounds the start alone.
func (s *Server) Open(ctx context.Context) (err error) {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	s.stop, s.done = make(chan struct{}), make(chan struct{})
	if err := s.openTLS(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.closeTLS()
		}
	}()
	raftLn, err := s.raftTLS.Listen("tcp", s.cfg.Meta.BindAddress)
	if err != nil {
		return fmt.Errorf("[meta] bind-address: %w", err)
	}
	s.raftBind = raftLn.Addr().String()
	s.raftAddr = s.cfg.Advertised(s.cfg.Meta.BindAddress, raftLn.Addr())
	if s.ln, err = s.tls.Listen("tcp", s.cfg.Meta.HTTPBindAddress); err != nil {
		raftLn.Close()
		return fmt.Errorf("[meta] http-bind-address: %w", err)
	}
	s.httpAddr = s.cfg.Advertised(s.cfg.Meta.HTTPBindAddress, s.ln.Addr())
	defer func() {
		if err != nil {
			s.ln.Close()
		}
	}()
	if err := s.openStore(raftLn); err != nil {
		return err
	}
	if s.st().initialised() {
		wait, cancel := context.WithTimeout(ctx, leaderTimeout/3)
		if err := s.st().waitReady(wait); err != nil {
			s.log.Warn("There is no leader: answering reads until a majority of the meta nodes is up", zap.Error(err))
		}
		cancel()
	} else if s.cfg.SingleServer {
		if _, err = s.AddMeta(ctx, s.httpAddr); err != nil {
			return errors.Join(err, s.st().close())
		}
	}
	s.http = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: zap.NewStdLog(s.log)}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("HTTP server ended", zap.Error(err))
		}
	}()
	return nil
}

func (s *Server) openTLS() (err error) {
	s.certs = tlsconfig.NewTLSCertMonitor()
	if err := s.certs.Open(); err != nil {
		return fmt.Errorf("start the certificate monitor: %w", err)
	}
	m := s.cfg.Meta
	if s.tls, err = tlsmanager.New(m.TLS, s.certs, "meta", tlsmanager.Anyone); err != nil {
		return fmt.Errorf("[meta] https: %w", err)
	}
	if s.raftTLS, err = tlsmanager.New(m.TLS, s.certs, "raft", tlsmanager.Nodes); err != nil {
		return fmt.Errorf("[meta] https: %w", err)
	}
	if s.dataTLS, err = tlsmanager.New(m.DataTLS(), s.certs, "meta to data", tlsmanager.Nodes); err != nil {
		return fmt.Errorf("[meta] data-use-tls: %w", err)
	}
	s.pool.TLS, s.pool.Secret = s.dataTLS, m.InternalSharedSecret
	s.peers.use(s.tls, m.InternalSharedSecret)
	return nil
}

func (s *Server) closeTLS() {
	s.certs.Close()
	for _, m := range []*tlsconfig.TLSConfigManager{s.tls, s.raftTLS, s.dataTLS} {
		if m != nil {
			m.Close()
		}
	}
}

// Reload loads the certificates anew.
func (s *Server) Reload(cfg *metaconfig.Config) error {
	for _, m := range []struct {
		manager *tlsconfig.TLSConfigManager
		tls     trust.TLS
		peers   tlsmanager.Peers
	}{{s.tls, cfg.Meta.TLS, tlsmanager.Anyone}, {s.raftTLS, cfg.Meta.TLS, tlsmanager.Nodes}, {s.dataTLS, cfg.Meta.DataTLS(), tlsmanager.Nodes}} {
		if !m.manager.UseTLS() {
			continue
		}
		apply, err := m.manager.PrepareReconfigure(tlsmanager.Options(m.tls, m.peers)...)
		if err == nil {
			err = apply()
		}
		if err != nil {
			return fmt.Errorf("reload certificates: %w", err)
		}
	}
	return nil
}

func (s *Server) openStore(ln net.Listener) error {
	layer := &stream{Listener: ln, advertised: s.raftAddr, tls: s.raftTLS, signer: &trust.Signer{Secret: s.cfg.Meta.InternalSharedSecret}}
	st, err := openStore(s.cfg.Meta.Dir, layer, s.raftAddr, s.log, s.tune)
	if err != nil {
		return err
	}
	s.store.Store(st)
	return nil
}

// Close stops HTTP, then Raft. Requests in flight get a moment to end.
func (s *Server) Close() error {
	if s.http == nil {
		return nil
	}
	close(s.stop)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	<-s.done
	s.http = nil
	s.spread.close()
	s.peers.close()
	err := errors.Join(s.pool.Close(), s.st().close())
	s.closeTLS()
	return err
}

// reset makes this node one without a cluster: it was removed from its own.
func (s *Server) reset() error {
	old := s.st()
	if err := old.close(); err != nil {
		return fmt.Errorf("stop raft: %w", err)
	}
	// The cached state first: without raft.db it would say that this node lost its log.
	for _, name := range []string{cacheFile, "raft.db", "snapshots"} {
		if err := os.RemoveAll(filepath.Join(s.cfg.Meta.Dir, name)); err != nil {
			return err
		}
	}
	ln, err := s.raftTLS.Listen("tcp", s.raftBind)
	if err != nil {
		return err
	}
	if err := s.openStore(ln); err != nil {
		return err
	}
	old.set(cluster.NewState()) // who waits for a change of the old state is told
	return nil
}

// HTTPAddr is the host:port of the HTTP API that others use.
func (s *Server) HTTPAddr() string { return s.httpAddr }

// RaftAddr is the host:port of Raft that others use.
func (s *Server) RaftAddr() string { return s.raftAddr }

// Leads tells whether this node leads the meta nodes.
func (s *Server) Leads() bool { return s.st().leads() }

// State is the cluster's state as this node knows it: shared, read-only.
func (s *Server) State() *cluster.State {
	st, _ := s.st().current()
	return st
}

// Execute commits a change; this node must lead. It returns when every data node that can be reached has it.
func (s *Server) Execute(op cluster.Op) (any, error) {
	c, err := cluster.NewCommand(op)
	if err != nil {
		return nil, err
	}
	result, _, err := s.apply(c)
	return result, err
}

// now is this node's clock.
func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// apply is Execute of an encoded change. index is that of the state that shows the effect, or why there is none. Where
// the change means now, it is the leader's: the clock of the data node that sent it may be any.
func (s *Server) apply(c cluster.Command) (result any, index uint64, err error) {
	st := s.State()
	if s.Leads() {
		if c, err = st.At(c, s.now()); err != nil {
			return nil, st.Index, err
		}
	}
	if st.Done(c) && s.st().confirmLead() == nil && s.State().Done(c) {
		index = s.State().Index
	} else {
		result, index, err = s.st().apply(c)
	}
	if err == nil {
		s.tellDataNodes(index)
	}
	return result, index, err
}

func (s *Server) node(op cluster.Op) (cluster.Node, error) {
	r, err := s.Execute(op)
	if err != nil {
		return cluster.Node{}, err
	}
	return r.(cluster.Node), nil
}

// lease grants name to a data node for LeaseTime, or says who has it. A new leader does not know
// what its predecessor granted, and grants nothing until that has ended.
func (s *Server) lease(name string, node uint64) (*emeta.Lease, error) {
	if !s.st().leads() {
		return nil, errNoLeader
	}
	term := s.st().raft.CurrentTerm()
	s.leader.Lock()
	defer s.leader.Unlock()
	if s.leader.term != term {
		s.leader.term, s.leader.since = term, time.Now()
		s.leases = emeta.NewLeases(s.LeaseTime)
	}
	// The first term of a cluster has no predecessor.
	if f := s.st().raft.GetConfiguration(); f.Error() == nil && len(f.Configuration().Servers) > 1 {
		if wait := s.LeaseTime - time.Since(s.leader.since); wait > 0 {
			return nil, fmt.Errorf("lease %q may be held: the new leader grants leases in %s", name, wait.Round(time.Second))
		}
	}
	return s.leases.Acquire(name, node)
}
