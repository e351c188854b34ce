package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/meta/httpclient"
	"concord/internal/meta/metaconfig"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
	"concord/internal/trust"
	"concord/internal/version"
)

// Deps is what a server is made of.
type Deps struct {
	Config *metaconfig.Config
	Log    *zap.Logger // nil for none

	Now  func() time.Time   // this node's clock, with which tests move it; nil for time.Now
	Tune func(*raft.Config) // changes the settings of Raft, for tests; nil for not at all
}

// Server is this node's part in the state of the cluster: Raft, the state that it leads to, and changes of it. It
// has many methods because the parts of the HTTP API ask it for different things.
type Server struct {
	deps   Deps
	log    *zap.Logger
	tls    *certificates
	ln     net.Listener // of the HTTP API, which is served when all parts are there
	store  atomic.Pointer[store]
	pool   *rpc.Pool          // to data nodes
	peers  *httpclient.Client // to other meta nodes
	spread *spread            // tells data nodes of changes

	process *process

	httpAddr, raftAddr string // that others use
	raftBind           string // what Raft listens on
}

// Open listens, and starts Raft. When it fails, nothing is left open.
func Open(d Deps) (_ *Server, err error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	if d.Log == nil {
		d.Log = zap.NewNop()
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	own := *d.Config
	d.Config = &own
	m := own.Meta
	s := &Server{deps: d, process: newProcess()}
	s.log = s.process.events.Of(d.Log).With(zap.String("service", "meta"))
	if s.tls, err = openCertificates(d.Config); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.tls.close()
		}
	}()
	raftLn, err := s.tls.raft.Listen("tcp", m.BindAddress)
	if err != nil {
		return nil, fmt.Errorf("[meta] bind-address: %w", err)
	}
	s.raftBind = raftLn.Addr().String()
	s.raftAddr = d.Config.Advertised(m.BindAddress, raftLn.Addr())
	if s.ln, err = s.tls.http.Listen("tcp", m.HTTPBindAddress); err != nil {
		raftLn.Close()
		return nil, fmt.Errorf("[meta] http-bind-address: %w", err)
	}
	s.httpAddr = d.Config.Advertised(m.HTTPBindAddress, s.ln.Addr())
	if err := s.openStore(raftLn); err != nil {
		s.ln.Close()
		return nil, err
	}
	s.pool = &rpc.Pool{TLS: s.tls.data, Secret: m.InternalSharedSecret}
	s.peers = httpclient.New(s.tls.http, m.InternalSharedSecret)
	s.spread = &spread{pool: s.pool, state: s.State, leader: s.ownHTTP, log: s.log, nodes: make(map[string]*told)}
	return s, nil
}

func (s *Server) openStore(ln net.Listener) error {
	signer := &trust.Signer{Secret: s.deps.Config.Meta.InternalSharedSecret}
	layer := &stream{Listener: ln, advertised: s.raftAddr, tls: s.tls.raft, signer: signer}
	m, tune := s.deps.Config.Meta, s.deps.Tune
	st, err := openStore(m.Dir, layer, s.raftAddr, s.log, func(c *raft.Config) {
		c.HeartbeatTimeout, c.ElectionTimeout = time.Duration(m.HeartbeatTimeout), time.Duration(m.ElectionTimeout)
		c.LeaderLeaseTimeout, c.CommitTimeout = time.Duration(m.LeaderLeaseTimeout), time.Duration(m.CommitTimeout)
		if tune != nil {
			tune(c)
		}
	})
	if err != nil {
		return err
	}
	s.store.Store(st)
	return nil
}

// Close stops Raft. Nothing may use the server any more.
func (s *Server) Close() error {
	s.ln.Close() // the API has closed it, if there was one
	s.spread.close()
	s.peers.Close()
	err := errors.Join(s.pool.Close(), s.st().close())
	s.tls.close()
	return err
}

// Log is the log of this node, of which the page shows the events.
func (s *Server) Log() *zap.Logger { return s.log }

// Reload loads the certificates anew, and takes over the level of the log.
func (s *Server) Reload(cfg *metaconfig.Config) error {
	if err := s.tls.reload(cfg); err != nil {
		return err
	}
	s.deps.Config.Logging.Level.SetLevel(cfg.Logging.Level.Level())
	return nil
}

// st is the store; another one after this node was removed from its cluster.
func (s *Server) st() *store { return s.store.Load() }

// reset makes this node one without a cluster: it was removed from its own.
func (s *Server) reset() error {
	old := s.st()
	if err := old.close(); err != nil {
		return fmt.Errorf("stop raft: %w", err)
	}
	// The cached state first: without raft.db it would say that this node lost its log.
	for _, name := range []string{savedFile, "raft.db", "snapshots"} {
		if err := os.RemoveAll(filepath.Join(s.deps.Config.Meta.Dir, name)); err != nil {
			return err
		}
	}
	ln, err := s.tls.raft.Listen("tcp", s.raftBind)
	if err != nil {
		return err
	}
	if err := s.openStore(ln); err != nil {
		return err
	}
	old.fsm.set(cluster.NewState()) // who waits for a change of the old state is told
	return nil
}

// HTTPAddr is the host:port of the HTTP API that others use.
func (s *Server) HTTPAddr() string { return s.httpAddr }

// RaftAddr is the host:port of Raft that others use.
func (s *Server) RaftAddr() string { return s.raftAddr }

// Pool is the server's connections to data nodes, for what serves beside it; Close closes it.
func (s *Server) Pool() *rpc.Pool { return s.pool }

// Leads reports whether this node leads the meta nodes.
func (s *Server) Leads() bool { return s.st().leads() }

// State is the cluster's state as this node knows it: shared, read-only.
func (s *Server) State() *cluster.State {
	st, _ := s.st().fsm.current()
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

// executeNode is Execute of a change whose result is the node that it changed.
func (s *Server) executeNode(op cluster.Op) (cluster.Node, error) {
	r, err := s.Execute(op)
	if err != nil {
		return cluster.Node{}, err
	}
	return r.(cluster.Node), nil
}

// apply is Execute of an encoded change. index is that of the state that shows the effect, or why there is none. Where
// the change means now, it is the leader's: the clock of the data node that sent it may be any.
func (s *Server) apply(c cluster.Command) (result any, index uint64, err error) {
	st := s.State()
	if s.Leads() {
		if c, err = st.At(c, s.deps.Now()); err == nil && !s.deps.Config.Meta.RetentionAutocreate {
			c, err = cluster.WithoutAutogen(c)
		}
		if err != nil {
			return nil, st.Index, err
		}
	}
	if st.Done(c) && s.st().confirmLead() == nil && s.State().Done(c) {
		index = s.State().Index
	} else {
		result, index, err = s.st().apply(c)
	}
	if err == nil {
		s.logChange(c)
		s.spread.tellDataNodes(index)
	}
	return result, index, err
}

// leaderHTTP is the HTTP address of the leader.
func (s *Server) leaderHTTP() (string, error) {
	leader, _ := s.st().raft.LeaderWithID()
	for _, n := range s.State().MetaNodes {
		if leader != "" && n.TCPAddr == string(leader) {
			return n.HTTPAddr, nil
		}
	}
	return "", errNoLeader
}

// ownHTTP is this node's HTTP address as the cluster knows it.
func (s *Server) ownHTTP() string {
	for _, n := range s.State().MetaNodes {
		if n.TCPAddr == s.raftAddr {
			return n.HTTPAddr
		}
	}
	return s.httpAddr
}

// identity is what this node says of itself to others.
func (s *Server) identity() wire.Identity {
	st := s.st()
	return wire.Identity{
		RaftID: string(st.id), RaftAddr: s.raftAddr, HTTPAddr: s.httpAddr, Version: version.String(),
		ClusterID: s.State().Data.ClusterID, Applied: st.raft.AppliedIndex(),
		Clock: s.deps.Now().UnixNano(),
	}
}
