package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
	"concord/internal/version"
)

const (
	identityTimeout = 5 * time.Second  // for a meta node to say who it is, or to accept a connection of Raft
	logTimeout      = 30 * time.Second // for a new meta node to get the log
	resetTimeout    = 30 * time.Second // for a meta node that was removed to forget the cluster
)

// MetaMembers adds and removes meta nodes, which are the members of Raft.
type MetaMembers struct {
	server *Server
	mu     sync.Mutex // held during one change of the meta nodes
	// the term in which this node led and could not hand that over; guarded by mu
	kept uint64
}

// NewMetaMembers returns the meta nodes of a server's cluster.
func NewMetaMembers(s *Server) *MetaMembers { return &MetaMembers{server: s} }

// FindCluster waits for a leader of the cluster that this node is in, but not for long: without one the node answers
// reads. A node without a cluster begins one of itself when the configuration says so.
func (m *MetaMembers) FindCluster(ctx context.Context) error {
	s := m.server
	if s.st().initialised() {
		wait, cancel := context.WithTimeout(ctx, leaderTimeout/3)
		defer cancel()
		if err := s.st().waitReady(wait); err != nil {
			s.log.Warn("There is no leader: answering reads until a majority of the meta nodes is up", zap.Error(err))
		}
		return nil
	}
	if !s.deps.Config.SingleServer {
		return nil
	}
	_, err := m.AddMeta(ctx, s.httpAddr)
	return err
}

// identityOf asks the meta node at addr (host:8091) who it is.
func (m *MetaMembers) identityOf(ctx context.Context, addr string) (who wire.Identity, err error) {
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	b, err := m.server.peers.Ask(ctx, http.MethodGet, addr, "/identity", nil)
	if err != nil {
		return who, err
	}
	if err := json.Unmarshal(b, &who); err != nil || who.RaftID == "" {
		return who, fmt.Errorf("%s is not a meta node", addr)
	}
	return who, nil
}

// AddMeta makes the meta node at addr (host:8091) a member. A node without a cluster can add itself alone, which begins
// a cluster. Repeating it is harmless.
func (m *MetaMembers) AddMeta(ctx context.Context, addr string) (cluster.Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil { // nobody waits for it any more
		return cluster.Node{}, err
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return cluster.Node{}, fmt.Errorf("%q is not the address of a meta node: give host:8091", addr)
	}
	if !m.server.st().initialised() || len(m.server.State().MetaNodes) == 0 {
		if !m.isSelf(addr) {
			return cluster.Node{}, fmt.Errorf("the meta node at %s is in no cluster yet: "+
				"add it first, with influxd-ctl add-meta %s", m.server.httpAddr, m.server.httpAddr)
		}
		return m.begin(ctx, addr)
	}
	for _, n := range m.server.State().MetaNodes {
		if m.isSelf(addr) && n.TCPAddr == m.server.raftAddr {
			return n, nil
		} else if n.HTTPAddr == addr {
			return m.addAgain(ctx, n)
		}
	}
	return m.addPeer(ctx, addr)
}

// addAgain makes a node a member again that lost its folder, and changes nothing for any other. It has no vote until
// it has the log.
func (m *MetaMembers) addAgain(ctx context.Context, n cluster.Node) (cluster.Node, error) {
	who, err := m.identityOf(ctx, n.HTTPAddr)
	if err != nil {
		return n, nil // a member that is away
	}
	f := m.server.st().raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return n, err
	}
	for _, srv := range f.Configuration().Servers {
		// An earlier call whose leader was replaced may have left one without a vote.
		if string(srv.ID) == who.RaftID && srv.Suffrage == raft.Voter {
			return n, nil
		}
	}
	if who.RaftAddr != n.TCPAddr {
		return n, fmt.Errorf("the cluster knows meta node %s with Raft at %s, and it says %s: "+
			"remove it first, with influxd-ctl remove-meta -force %s", n.HTTPAddr, n.TCPAddr, who.RaftAddr, n.HTTPAddr)
	}
	if err := m.removeVoter(n.TCPAddr); err != nil {
		return n, fmt.Errorf("remove what meta node %s was before it lost its folder: %w", n.HTTPAddr, err)
	}
	return m.addPeer(ctx, n.HTTPAddr)
}

// removeVoter removes what Raft has at an address, if anything.
func (m *MetaMembers) removeVoter(raftAddr string) error {
	r := m.server.st().raft
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	for _, srv := range f.Configuration().Servers {
		if string(srv.Address) == raftAddr {
			if err := m.server.st().await(r.RemoveServer(srv.ID, 0, wire.CommitTimeout)); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin starts a cluster of this meta node alone.
func (m *MetaMembers) begin(ctx context.Context, addr string) (cluster.Node, error) {
	if err := m.server.st().bootstrap(); err != nil {
		return cluster.Node{}, fmt.Errorf("start cluster: %w", err)
	}
	if err := m.server.st().waitReady(ctx); err != nil {
		return cluster.Node{}, err
	}
	// A loopback name is good for this machine only.
	if host, _, _ := net.SplitHostPort(addr); host == "localhost" || net.ParseIP(host).IsLoopback() {
		addr = m.server.httpAddr
	}
	return m.server.executeNode(cluster.CreateMetaNode{
		RaftAddr: m.server.raftAddr, HTTPAddr: addr, Version: version.String(),
		ClusterID: rand.Uint64()>>1 | 1, // never 0; 63 bits, as the engine's own
	})
}

// addPeer gives another meta node the log first, and a vote when it has it: a
// node that cannot be reached must not count for the majority.
func (m *MetaMembers) addPeer(ctx context.Context, addr string) (cluster.Node, error) {
	var none cluster.Node
	who, err := m.identityOf(ctx, addr)
	if err != nil {
		return none, err
	}
	own := m.server.State().Data.ClusterID
	if who.ClusterID != 0 && who.ClusterID != own {
		return none, fmt.Errorf("meta node %s belongs to another cluster", addr)
	}
	r := m.server.st().raft
	conn, err := net.DialTimeout("tcp", who.RaftAddr, identityTimeout)
	if err != nil {
		return none, fmt.Errorf("meta node %s says that Raft reaches it at %s, which does not answer: %w",
			addr, who.RaftAddr, err)
	}
	conn.Close()
	id, raftAddr := raft.ServerID(who.RaftID), raft.ServerAddress(who.RaftAddr)
	last := r.LastIndex()
	if err := m.server.st().await(r.AddNonvoter(id, raftAddr, 0, wire.CommitTimeout)); err != nil {
		return none, fmt.Errorf("add meta node %s: %w", addr, err)
	}
	wait, cancel := context.WithTimeout(ctx, logTimeout)
	defer cancel()
	err = until(wait, func() bool {
		who, err := m.identityOf(wait, addr)
		return err == nil && who.Applied >= last && who.ClusterID == own
	})
	if err == nil {
		err = m.server.st().await(r.AddVoter(id, raftAddr, 0, wire.CommitTimeout))
	}
	if errors.Is(err, errUncertain) {
		return none, fmt.Errorf("add meta node %s: %w", addr, err)
	} else if err != nil {
		r.RemoveServer(id, 0, wire.CommitTimeout)
		return none, fmt.Errorf("meta node %s did not take over the log within %s", addr, logTimeout)
	}
	return m.server.executeNode(cluster.CreateMetaNode{RaftAddr: who.RaftAddr, HTTPAddr: addr, Version: who.Version})
}

// RemoveMeta removes the meta node at addr, its HTTP or Raft address, and tells it. Without force a node that cannot be
// told stays. A leader that is to be removed itself first hands the leadership over, and returns errNoLeader: the next
// leader can remove it. Repeating it is harmless, and ends what an earlier call began.
func (m *MetaMembers) RemoveMeta(ctx context.Context, addr string, force bool) (cluster.Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var none cluster.Node
	if err := ctx.Err(); err != nil { // nobody waits for it any more
		return none, err
	}
	n, err := m.removableMeta(addr)
	if errors.Is(err, errUnlisted) && m.removedBefore(ctx, addr) {
		return cluster.Node{HTTPAddr: addr}, m.tellRemoved(ctx, addr)
	}
	if err != nil {
		return none, err
	}
	if n.TCPAddr == m.server.raftAddr {
		if err := m.handOver(); err != nil {
			return none, fmt.Errorf("hand the leadership over: %w", err)
		}
		return none, errNoLeader
	}
	_, away := m.identityOf(ctx, n.HTTPAddr)
	if away != nil && !force {
		return none, fmt.Errorf("%w; -force removes it all the same", away)
	}
	if err := m.removeVoter(n.TCPAddr); err != nil {
		return none, fmt.Errorf("remove meta node %s: %w", addr, err)
	}
	if _, err := m.server.Execute(cluster.DeleteMetaNode{ID: n.ID}); err != nil {
		return none, err
	}
	if away == nil {
		if err := m.tellRemoved(ctx, n.HTTPAddr); err != nil && !force {
			return none, err
		}
	}
	return n, nil
}

// tellRemoved makes a meta node that was removed forget the cluster.
func (m *MetaMembers) tellRemoved(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, resetTimeout)
	defer cancel()
	form := url.Values{"cluster": {fmt.Sprint(m.server.State().Data.ClusterID)}}
	if _, err := m.server.peers.Ask(ctx, http.MethodPost, addr, "/reset", form); err != nil {
		return fmt.Errorf("the meta node at %s is removed, but did not forget the cluster: %w", addr, err)
	}
	return nil
}

// removedBefore reports whether the meta node at addr was removed and does not know it: the leader that removed it was
// replaced before it could tell it. Neither the cluster nor Raft has it any more.
func (m *MetaMembers) removedBefore(ctx context.Context, addr string) bool {
	who, err := m.identityOf(ctx, addr)
	if err != nil || who.ClusterID == 0 || !m.server.Leads() || m.server.st().caughtUp() != nil {
		return false
	}
	f := m.server.st().raft.GetConfiguration()
	if f.Error() != nil {
		return false
	}
	st := m.server.State()
	return who.ClusterID == st.Data.ClusterID &&
		!slices.ContainsFunc(st.MetaNodes, func(n cluster.Node) bool {
			return n.TCPAddr == who.RaftAddr || n.HTTPAddr == who.HTTPAddr
		}) &&
		!slices.ContainsFunc(f.Configuration().Servers, func(srv raft.Server) bool {
			return string(srv.ID) == who.RaftID || string(srv.Address) == who.RaftAddr
		})
}

// handOver makes another meta node the leader. It tries once in each term: when a second attempt meets a leader that
// steps down, the library never ends it, and the node could not lead any more
// (https://github.com/hashicorp/raft/issues/696). mu must be held.
func (m *MetaMembers) handOver() error {
	st := m.server.st()
	term := st.raft.CurrentTerm()
	if term == m.kept {
		return errors.New("no other meta node took it: try again when another one leads, or stop this one first")
	}
	err := st.await(st.raft.LeadershipTransfer())
	if err != nil {
		m.kept = term
	}
	return err
}

// errUnlisted says that the cluster has no meta node with an address.
var errUnlisted = errors.New("does not exist")

// removableMeta finds the meta node at addr, and refuses it when the cluster would end with it.
func (m *MetaMembers) removableMeta(addr string) (n cluster.Node, err error) {
	st := m.server.State()
	if st.Data.ClusterID == 0 {
		return n, ErrNotInitialised
	}
	for _, known := range st.MetaNodes {
		if known.HTTPAddr == addr || known.TCPAddr == addr {
			n = known
		}
	}
	if n.ID == 0 {
		return n, fmt.Errorf("meta node %q %w", addr, errUnlisted)
	}
	if len(st.MetaNodes) == 1 {
		return n, fmt.Errorf("%s is the last meta node: without it there is no cluster", addr)
	}
	return n, nil
}

// isSelf reports whether addr leads to this node's HTTP API.
func (m *MetaMembers) isSelf(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	own, ownPort, _ := net.SplitHostPort(m.server.httpAddr)
	if err != nil || port != ownPort {
		return false
	} else if host == own {
		return true
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return false
	}
	bound, _, _ := net.SplitHostPort(m.server.ln.Addr().String())
	if ip := net.ParseIP(bound); ip != nil && !ip.IsUnspecified() {
		// Another address of this machine may be that of another node.
		return slices.ContainsFunc(ips, ip.Equal)
	}
	return slices.ContainsFunc(ips, isLocal)
}

// isLocal reports whether an address is one of this machine.
func isLocal(ip net.IP) bool {
	local, _ := net.InterfaceAddrs()
	return ip.IsLoopback() || slices.ContainsFunc(local, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// checkRemoveMeta refuses what RemoveMeta refuses, and changes nothing.
func (m *MetaMembers) checkRemoveMeta(ctx context.Context, addr string, force bool) (cluster.Node, error) {
	n, err := m.removableMeta(addr)
	if errors.Is(err, errUnlisted) && m.removedBefore(ctx, addr) {
		return cluster.Node{HTTPAddr: addr}, nil
	}
	if err != nil || force {
		return n, err
	}
	if _, err := m.identityOf(ctx, n.HTTPAddr); err != nil {
		return n, fmt.Errorf("%w; -force removes it all the same", err)
	}
	return n, nil
}

// errOtherCluster is the answer of a node in one cluster, 0 for none, to a request that names another one.
func errOtherCluster(own uint64, named string) error {
	if own == 0 {
		return fmt.Errorf("this meta node is in no cluster, and the request is for cluster %q", named)
	}
	return fmt.Errorf("this meta node is in cluster %d, and the request is for cluster %q", own, named)
}

// checkIn returns an error unless this node is in the cluster with that ID.
func (m *MetaMembers) checkIn(clusterID string) error {
	if own := m.server.State().Data.ClusterID; clusterID != fmt.Sprint(own) {
		return errOtherCluster(own, clusterID)
	}
	return nil
}

// forget makes this node one without a cluster, once the cluster with that ID has removed it.
func (m *MetaMembers) forget(ctx context.Context, clusterID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil { // nobody waits for it any more
		return err
	}
	if err := m.checkIn(clusterID); err != nil {
		return err
	}
	if err := m.server.reset(); err != nil {
		return err
	}
	m.kept = 0
	m.server.log.Info("This meta node was removed from its cluster")
	return nil
}
