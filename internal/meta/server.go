// Package meta is the meta node: the cluster's state under Raft with an HTTP
// API, and the data node's cached client of it.
package meta

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
	"concord/internal/version"
)

// dataNodeTimeout bounds each call to a data node. Join waits there for the
// first state, which takes up to joinWait.
const dataNodeTimeout = joinWait + 5*time.Second

// Server is a meta node.
type Server struct {
	// ShardRepair, when set before Open, answers below /shard-repair/.
	ShardRepair http.Handler

	cfg   *Config
	log   *zap.Logger
	store *store
	pool  rpc.Pool
	http  *http.Server
	ln    net.Listener
	stop  chan struct{} // closed first of all, ends the long polls
	done  chan struct{} // closed when the HTTP server has ended

	httpAddr, raftAddr string
}

// NewServer returns a meta node that Open starts.
func NewServer(cfg *Config, log *zap.Logger) *Server {
	if log == nil {
		log = zap.NewNop()
	}
	return &Server{cfg: cfg, log: log.With(zap.String("service", "meta"))}
}

// Open starts Raft, then HTTP. A node that is in a cluster has its whole state
// when Open returns. ctx bounds the start alone.
func (s *Server) Open(ctx context.Context) (err error) {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	s.stop, s.done = make(chan struct{}), make(chan struct{})
	raftLn, err := net.Listen("tcp", s.cfg.Meta.BindAddress)
	if err != nil {
		return fmt.Errorf("[meta] bind-address: %w", err)
	}
	s.raftAddr = s.cfg.advertised(s.cfg.Meta.BindAddress, raftLn.Addr())
	if s.ln, err = net.Listen("tcp", s.cfg.Meta.HTTPBindAddress); err != nil {
		raftLn.Close()
		return fmt.Errorf("[meta] http-bind-address: %w", err)
	}
	s.httpAddr = s.cfg.advertised(s.cfg.Meta.HTTPBindAddress, s.ln.Addr())
	defer func() {
		if err != nil {
			s.ln.Close()
		}
	}()
	if s.store, err = openStore(s.cfg.Meta.Dir, raftLn, s.raftAddr, s.log); err != nil {
		return err
	}
	if s.store.initialised() {
		err = s.store.waitReady(ctx)
	}
	if err == nil && s.cfg.SingleServer {
		_, err = s.AddMeta(ctx, s.httpAddr)
	}
	if err != nil {
		return errors.Join(err, s.store.close())
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
	return errors.Join(s.pool.Close(), s.store.close())
}

// HTTPAddr is the host:port of the HTTP API that others use.
func (s *Server) HTTPAddr() string { return s.httpAddr }

// RaftAddr is the host:port of Raft that others use.
func (s *Server) RaftAddr() string { return s.raftAddr }

// State is the cluster's state as this node knows it: shared, read-only.
func (s *Server) State() *cluster.State {
	st, _ := s.store.current()
	return st
}

// AddMeta starts a cluster of this meta node, the only one that there can be
// for now; repeating it is harmless. addr is what others call this node's HTTP
// API.
func (s *Server) AddMeta(ctx context.Context, addr string) (cluster.Node, error) {
	if !s.isSelf(addr) {
		return cluster.Node{}, fmt.Errorf("%s is not this meta node (%s): more than one meta node is not supported yet", addr, s.httpAddr)
	}
	if nodes := s.State().MetaNodes; len(nodes) > 0 {
		return nodes[0], nil
	}
	if err := s.store.bootstrap(); err != nil {
		return cluster.Node{}, fmt.Errorf("start cluster: %w", err)
	}
	if err := s.store.waitReady(ctx); err != nil {
		return cluster.Node{}, err
	}
	// A loopback name is good for this machine only.
	if host, _, _ := net.SplitHostPort(addr); host == "localhost" || net.ParseIP(host).IsLoopback() {
		addr = s.httpAddr
	}
	return s.node(cluster.CreateMetaNode{
		RaftAddr: s.raftAddr, HTTPAddr: addr, Version: version.String(),
		ClusterID: rand.Uint64()>>1 | 1, // never 0; 63 bits, as the engine's own
	})
}

// isSelf tells whether addr leads to this node's HTTP API.
func (s *Server) isSelf(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	own, ownPort, _ := net.SplitHostPort(s.httpAddr)
	if err != nil || port != ownPort {
		return false
	} else if host == own {
		return true
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return false
	}
	local, _ := net.InterfaceAddrs()
	for _, ip := range ips {
		if ip.IsLoopback() {
			return true
		}
		for _, a := range local {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return true
			}
		}
	}
	return false
}

func (s *Server) node(op cluster.Op) (cluster.Node, error) {
	r, err := s.store.execute(op)
	if err != nil {
		return cluster.Node{}, err
	}
	return r.(cluster.Node), nil
}

// AddData makes the data node at addr (host:8088) a member. Repeating it is
// harmless, and finishes what an earlier attempt left undone.
func (s *Server) AddData(ctx context.Context, addr string) (cluster.Node, error) {
	var none cluster.Node
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return none, fmt.Errorf("%q is no address of a data node: give host:8088", addr)
	}
	if s.State().Data.ClusterID == 0 {
		return none, ErrNotInitialised
	}
	member, err := s.membership(addr)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	who, err := member.Identify(ctx, &rpc.IdentifyRequest{})
	if err != nil {
		return none, unreachable(addr, err)
	}
	st := s.State()
	if who.ClusterId != 0 && who.ClusterId != st.Data.ClusterID {
		return none, fmt.Errorf("data node %s belongs to another cluster", addr)
	}
	if n, ok := st.DataNode(who.NodeId); ok && n.TCPAddr != addr {
		return none, fmt.Errorf("data node %s is already a member as %s", addr, n.TCPAddr)
	}
	if n, ok := st.DataNodeByAddr(addr); ok && who.NodeId != 0 && n.ID != who.NodeId {
		return none, fmt.Errorf("data node %s says its ID is %d, but the cluster knows this address as data node %d", addr, who.NodeId, n.ID)
	}
	n, err := s.node(cluster.CreateDataNode{TCPAddr: addr, HTTPAddr: who.HttpAddr, Version: who.Version})
	if err != nil {
		return none, err
	}
	join := &rpc.JoinRequest{NodeId: n.ID, ClusterId: st.Data.ClusterID}
	for _, m := range st.MetaNodes {
		join.MetaServers = append(join.MetaServers, m.HTTPAddr)
	}
	if _, err := member.Join(ctx, join); err != nil {
		return none, fmt.Errorf("data node %s is recorded as %d but did not join, run add-data again: %s", addr, n.ID, status.Convert(err).Message())
	}
	return n, nil
}

// RemoveData removes the data node at addr and its ownerships, and tells it.
// Without force a node that cannot be told stays.
func (s *Server) RemoveData(ctx context.Context, addr string, force bool) (cluster.Node, error) {
	var none cluster.Node
	if s.State().Data.ClusterID == 0 {
		return none, ErrNotInitialised
	}
	st := s.State()
	n, ok := st.DataNodeByAddr(addr)
	if !ok {
		return none, fmt.Errorf("data node %q does not exist", addr)
	}
	member, err := s.membership(addr)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	who, err := member.Identify(ctx, &rpc.IdentifyRequest{})
	if err != nil && !force {
		return none, fmt.Errorf("%w; -force removes it all the same", unreachable(addr, err))
	}
	if _, err := s.store.execute(cluster.DeleteDataNode{ID: n.ID, Time: time.Now()}); err != nil {
		return none, err
	}
	// Another node may answer at a dead node's address: it must not leave.
	if err == nil && who.ClusterId == st.Data.ClusterID && who.NodeId == n.ID {
		if _, err := member.Leave(ctx, &rpc.LeaveRequest{}); err != nil && !force {
			return none, fmt.Errorf("data node %d at %s is removed, but did not forget the cluster: %s", n.ID, addr, status.Convert(err).Message())
		}
	}
	return n, nil
}

func (s *Server) membership(addr string) (rpc.MembershipClient, error) {
	conn, err := s.pool.Conn(addr)
	if err != nil {
		return nil, err
	}
	return rpc.NewMembershipClient(conn), nil
}

func unreachable(addr string, err error) error {
	return fmt.Errorf("data node %s is unreachable: %s", addr, status.Convert(err).Message())
}
