package meta

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
	"concord/internal/version"
)

// dataNodeTimeout bounds each call to a data node. Join waits there for the
// first state, which takes up to joinWait.
const dataNodeTimeout = joinWait + 5*time.Second

// catchUpTimeout bounds how long a new meta node may take to get the log.
const catchUpTimeout = 30 * time.Second

// identityBody is what a meta node says of itself to others.
type identityBody struct {
	RaftID    string `json:"raftID"`
	RaftAddr  string `json:"raftAddr"`
	HTTPAddr  string `json:"httpAddr"`
	Version   string `json:"version"`
	ClusterID uint64 `json:"clusterID,string"` // 0 without a cluster
	Applied   uint64 `json:"applied"`          // index in the log
	Clock     int64  `json:"clock,string"`     // its time as it answers, nanoseconds since the epoch
}

func (s *Server) identity() identityBody {
	st := s.st()
	return identityBody{
		RaftID: string(st.id), RaftAddr: s.raftAddr, HTTPAddr: s.httpAddr, Version: version.String(),
		ClusterID: s.State().Data.ClusterID, Applied: st.raft.AppliedIndex(),
		Clock: s.now().UnixNano(),
	}
}

// identityOf asks the meta node at addr (host:8091).
func (s *Server) identityOf(ctx context.Context, addr string) (who identityBody, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b, err := s.peers.ask(ctx, http.MethodGet, addr, "/identity", nil)
	if err != nil {
		return who, err
	}
	if err := json.Unmarshal(b, &who); err != nil || who.RaftID == "" {
		return who, fmt.Errorf("%s is no meta node", addr)
	}
	return who, nil
}

// AddMeta makes the meta node at addr (host:8091) a member; of a node without a
// cluster, itself alone, which begins one. Repeating it is harmless.
func (s *Server) AddMeta(ctx context.Context, addr string) (cluster.Node, error) {
	s.membering.Lock()
	defer s.membering.Unlock()
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return cluster.Node{}, fmt.Errorf("%q is no address of a meta node: give host:8091", addr)
	}
	if !s.st().initialised() || len(s.State().MetaNodes) == 0 {
		if !s.isSelf(addr) {
			return cluster.Node{}, fmt.Errorf("the meta node at %s is in no cluster yet: add it first, with influxd-ctl add-meta %s", s.httpAddr, s.httpAddr)
		}
		return s.begin(ctx, addr)
	}
	for _, n := range s.State().MetaNodes {
		if s.isSelf(addr) && n.TCPAddr == s.raftAddr {
			return n, nil
		} else if n.HTTPAddr == addr {
			return s.addAgain(ctx, n)
		}
	}
	return s.addPeer(ctx, addr)
}

// addAgain makes a node a member again that lost its folder, and changes nothing for any other. It has no vote until
// it has the log.
func (s *Server) addAgain(ctx context.Context, n cluster.Node) (cluster.Node, error) {
	who, err := s.identityOf(ctx, n.HTTPAddr)
	if err != nil {
		return n, nil // a member that is away
	}
	f := s.st().raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return n, err
	}
	for _, srv := range f.Configuration().Servers {
		if string(srv.ID) == who.RaftID {
			return n, nil
		}
	}
	if who.RaftAddr != n.TCPAddr {
		return n, fmt.Errorf("the cluster knows meta node %s with Raft at %s, and it says %s: "+
			"remove it first, with influxd-ctl remove-meta -force %s", n.HTTPAddr, n.TCPAddr, who.RaftAddr, n.HTTPAddr)
	}
	for _, srv := range f.Configuration().Servers {
		if string(srv.Address) == n.TCPAddr {
			if err := s.st().raft.RemoveServer(srv.ID, 0, applyTimeout).Error(); err != nil {
				return n, fmt.Errorf("remove what meta node %s was before it lost its folder: %w", n.HTTPAddr, err)
			}
		}
	}
	return s.addPeer(ctx, n.HTTPAddr)
}

// begin starts a cluster of this meta node alone.
func (s *Server) begin(ctx context.Context, addr string) (cluster.Node, error) {
	if err := s.st().bootstrap(); err != nil {
		return cluster.Node{}, fmt.Errorf("start cluster: %w", err)
	}
	if err := s.st().waitReady(ctx); err != nil {
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

// addPeer gives another meta node the log first, and a vote when it has it: a
// node that cannot be reached must not count for the majority.
func (s *Server) addPeer(ctx context.Context, addr string) (cluster.Node, error) {
	var none cluster.Node
	who, err := s.identityOf(ctx, addr)
	if err != nil {
		return none, err
	}
	own := s.State().Data.ClusterID
	if who.ClusterID != 0 && who.ClusterID != own {
		return none, fmt.Errorf("meta node %s belongs to another cluster", addr)
	}
	r := s.st().raft
	conn, err := net.DialTimeout("tcp", who.RaftAddr, 5*time.Second)
	if err != nil {
		return none, fmt.Errorf("meta node %s says that Raft reaches it at %s, which does not answer: %w", addr, who.RaftAddr, err)
	}
	conn.Close()
	id, raftAddr := raft.ServerID(who.RaftID), raft.ServerAddress(who.RaftAddr)
	last := r.LastIndex()
	if err := r.AddNonvoter(id, raftAddr, 0, applyTimeout).Error(); err != nil {
		return none, fmt.Errorf("add meta node %s: %w", addr, err)
	}
	wait, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	err = until(wait, func() bool {
		who, err := s.identityOf(wait, addr)
		return err == nil && who.Applied >= last && who.ClusterID == own
	})
	if err == nil {
		err = r.AddVoter(id, raftAddr, 0, applyTimeout).Error()
	}
	if err != nil {
		r.RemoveServer(id, 0, applyTimeout)
		return none, fmt.Errorf("meta node %s did not take over the log within %s", addr, catchUpTimeout)
	}
	return s.node(cluster.CreateMetaNode{RaftAddr: who.RaftAddr, HTTPAddr: addr, Version: who.Version})
}

// RemoveMeta removes the meta node at addr, its HTTP or Raft address, and tells
// it. Without force a node that cannot be told stays. A leader that is to be removed
// itself hands over first, and answers errNoLeader.
func (s *Server) RemoveMeta(ctx context.Context, addr string, force bool) (cluster.Node, error) {
	s.membering.Lock()
	defer s.membering.Unlock()
	var none cluster.Node
	st := s.State()
	n, err := s.removableMeta(addr)
	if err != nil {
		return none, err
	}
	r := s.st().raft
	if n.TCPAddr == s.raftAddr {
		if err := r.LeadershipTransfer().Error(); err != nil {
			return none, fmt.Errorf("hand the leadership over: %w", err)
		}
		return none, errNoLeader
	}
	_, err = s.identityOf(ctx, n.HTTPAddr)
	if err != nil && !force {
		return none, fmt.Errorf("%w; -force removes it all the same", err)
	}
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return none, err
	}
	for _, srv := range f.Configuration().Servers {
		if string(srv.Address) == n.TCPAddr {
			if err := r.RemoveServer(srv.ID, 0, applyTimeout).Error(); err != nil {
				return none, fmt.Errorf("remove meta node %s: %w", addr, err)
			}
		}
	}
	if _, err := s.Execute(cluster.DeleteMetaNode{ID: n.ID}); err != nil {
		return none, err
	}
	if err == nil {
		form := url.Values{"cluster": {fmt.Sprint(st.Data.ClusterID)}}
		if _, err := s.peers.ask(ctx, http.MethodPost, n.HTTPAddr, "/reset", form); err != nil && !force {
			return none, fmt.Errorf("meta node %d at %s is removed, but did not forget the cluster: %w", n.ID, addr, err)
		}
	}
	return n, nil
}

// removableMeta finds the meta node at addr, and refuses it when the cluster would end with it.
func (s *Server) removableMeta(addr string) (n cluster.Node, err error) {
	st := s.State()
	if st.Data.ClusterID == 0 {
		return n, ErrNotInitialised
	}
	for _, m := range st.MetaNodes {
		if m.HTTPAddr == addr || m.TCPAddr == addr {
			n = m
		}
	}
	if n.ID == 0 {
		return n, fmt.Errorf("meta node %q does not exist", addr)
	}
	if len(st.MetaNodes) == 1 {
		return n, fmt.Errorf("%s is the last meta node: without it there is no cluster", addr)
	}
	return n, nil
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
	bound, _, _ := net.SplitHostPort(s.ln.Addr().String())
	if ip := net.ParseIP(bound); ip != nil && !ip.IsUnspecified() {
		// Bound to one address: another one of this machine may be another node's.
		for _, other := range ips {
			if ip.Equal(other) {
				return true
			}
		}
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

// AddData makes the data node at addr (host:8088) a member. Repeating it is
// harmless, and finishes what an earlier attempt left undone.
func (s *Server) AddData(ctx context.Context, addr string) (cluster.Node, error) {
	var none cluster.Node
	if err := checkTCPAddr(addr); err != nil {
		return none, err
	}
	st := s.State()
	if st.Data.ClusterID == 0 {
		return none, ErrNotInitialised
	}
	member, who, err := s.candidate(ctx, addr)
	if err != nil {
		return none, err
	}
	if n, ok := st.DataNode(who.NodeId); ok && n.TCPAddr != addr {
		return none, fmt.Errorf("data node %s is already a member as %s", addr, n.TCPAddr)
	}
	if n, ok := st.DataNodeByAddr(addr); ok && who.NodeId != 0 && n.ID != who.NodeId {
		return none, fmt.Errorf("data node %s says its ID is %d, but the cluster knows this address as data node %d", addr, who.NodeId, n.ID)
	}
	if n, ok := st.DataNode(who.NodeId); ok && replaced(n, who) {
		return none, errReplaced(addr, n)
	}
	op := cluster.CreateDataNode{TCPAddr: addr, HTTPAddr: who.HttpAddr, Version: who.Version, Identity: who.Identity}
	n, err := s.node(op)
	if err != nil {
		return none, err
	}
	return n, s.join(ctx, member, n, "add-data")
}

// replaced reports whether other folders than those of the node that answered hold its place.
func replaced(n cluster.Node, who *rpc.IdentifyResponse) bool {
	return n.Identity != "" && who.Identity != "" && n.Identity != who.Identity
}

func errReplaced(addr string, n cluster.Node) error {
	return fmt.Errorf("data node %s was data node %d, whose place another one has now: "+
		"start it with empty folders to use it again", addr, n.ID)
}

func checkTCPAddr(addr string) error {
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return fmt.Errorf("%q is no address of a data node: give host:8088", addr)
	}
	return nil
}

// join tells a data node who it is and which meta nodes to follow.
func (s *Server) join(ctx context.Context, member rpc.MembershipClient, n cluster.Node, again string) error {
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	st := s.State()
	req := &rpc.JoinRequest{NodeId: n.ID, ClusterId: st.Data.ClusterID, Identity: n.Identity}
	for _, m := range st.MetaNodes {
		req.MetaServers = append(req.MetaServers, m.HTTPAddr)
	}
	err := untilHeard(ctx, func() error {
		_, err := member.Join(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("data node %s is recorded as %d but did not join, run %s again: %s", n.TCPAddr, n.ID, again, status.Convert(err).Message())
	}
	return nil
}

// UpdateData gives the ID and the shards of the data node at old to the one at
// addr, which may be the same address with an empty node behind it. What the node lacks
// comes from the other owners, by anti-entropy.
func (s *Server) UpdateData(ctx context.Context, old, addr string) (cluster.Node, error) {
	var none cluster.Node
	if err := checkTCPAddr(addr); err != nil {
		return none, err
	}
	st := s.State()
	if st.Data.ClusterID == 0 {
		return none, ErrNotInitialised
	}
	n, ok := st.DataNodeByAddr(old)
	if !ok {
		return none, fmt.Errorf("data node %q does not exist", old)
	}
	if other, ok := st.DataNodeByAddr(addr); ok && other.ID != n.ID {
		return none, fmt.Errorf("%s is data node %d of this cluster already", addr, other.ID)
	}
	member, who, err := s.candidate(ctx, addr)
	if err != nil {
		return none, err
	}
	switch {
	case who.NodeId != 0 && who.NodeId != n.ID:
		return none, fmt.Errorf("data node %s says its ID is %d: only a node without a cluster can take over data node %d", addr, who.NodeId, n.ID)
	case who.NodeId == n.ID && replaced(n, who):
		return none, errReplaced(addr, n)
	}
	op := cluster.UpdateDataNode{
		ID: n.ID, TCPAddr: addr, HTTPAddr: who.HttpAddr, Version: who.Version, Identity: who.Identity,
	}
	if n, err = s.node(op); err != nil {
		return none, err
	}
	return n, s.join(ctx, member, n, "update-data")
}

// candidate asks the data node at addr who it is, and refuses one that cannot join this cluster.
func (s *Server) candidate(ctx context.Context, addr string) (rpc.MembershipClient, *rpc.IdentifyResponse, error) {
	own := s.State().Data.ClusterID
	member, who, err := s.identifyFor(ctx, addr, own)
	switch {
	case err != nil:
	case who.ClusterId != 0 && who.ClusterId != own:
		err = fmt.Errorf("data node %s belongs to another cluster", addr)
	case who.Unfit != "":
		err = fmt.Errorf("data node %s cannot join: %s", addr, who.Unfit)
	}
	return member, who, err
}

// identify asks the data node at addr who it is.
func (s *Server) identify(ctx context.Context, addr string) (rpc.MembershipClient, *rpc.IdentifyResponse, error) {
	return s.identifyFor(ctx, addr, 0)
}

func (s *Server) identifyFor(
	ctx context.Context, addr string, join uint64,
) (rpc.MembershipClient, *rpc.IdentifyResponse, error) {
	conn, err := s.pool.Conn(addr)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dataNodeTimeout)
	defer cancel()
	member := rpc.NewMembershipClient(conn)
	who, err := member.Identify(ctx, &rpc.IdentifyRequest{JoinCluster: join})
	if err != nil {
		return nil, nil, fmt.Errorf("data node %s is unreachable: %s", addr, status.Convert(err).Message())
	}
	return member, who, nil
}

// labelNode is SetNodeLabels by address: a data node's TCP, a meta node's HTTP
// or Raft address, or an ID.
func (s *Server) labelNode(node string, set map[string]string, remove []string) (cluster.Node, error) {
	st := s.State()
	for _, nodes := range [][]cluster.Node{st.DataNodes, st.MetaNodes} {
		for _, n := range nodes {
			if node == n.TCPAddr || node == n.HTTPAddr || node == fmt.Sprint(n.ID) {
				return s.node(cluster.SetNodeLabels{ID: n.ID, Set: set, Delete: remove})
			}
		}
	}
	return cluster.Node{}, fmt.Errorf("node %q does not exist: give its id or an address as influxd-ctl show prints it", node)
}

// truncate ends the hot shards at now + delay.
func (s *Server) truncate(delay time.Duration) error {
	if delay < 0 {
		return errors.New("delay: must not be negative")
	}
	if s.State().Data.ClusterID == 0 {
		return ErrNotInitialised
	}
	_, err := s.Execute(cluster.TruncateShardGroups{Time: s.now().Add(delay)})
	return err
}
