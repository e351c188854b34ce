package server

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// spreadTimeout bounds how long a change waits for a data node that hangs.
const spreadTimeout = 2 * time.Second

// spread is what the leader knows of the data nodes that it tells of changes. A change that was confirmed to one
// client is to be true for the next one, whichever data node that asks. So the leader confirms a change when every
// data node has it. A node where nobody listens serves no clients, and is skipped. One that hangs is waited for once,
// and not again until it has answered. A node that was not reached knows of the change by its own poll, or by the
// first request of another node that does.
type spread struct {
	pool   *rpc.Pool // to data nodes
	state  func() *cluster.State
	leader func() string // the HTTP address of this node, which has the change
	log    *zap.Logger

	mu     sync.Mutex
	nodes  map[string]*told // by TCP address
	closed bool
	wg     sync.WaitGroup
}

// told is a data node that was told of changes.
type told struct {
	hangs  bool // it did not answer the last time
	asking bool // while it hangs: it is being told of a change
}

// begin returns the node at addr, and whether to wait for it; nil when it is not to be told now.
func (s *spread) begin(addr string) (n *told, wait bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n = s.nodes[addr]; n == nil {
		n = &told{}
		s.nodes[addr] = n
	}
	if s.closed || n.hangs && n.asking {
		return nil, false
	}
	n.asking = n.hangs
	s.wg.Add(1)
	return n, !n.hangs
}

// end reports whether the node hangs as it did not before, or answers again.
func (s *spread) end(n *told, hangs bool) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = n.hangs != hangs
	n.hangs, n.asking = hangs, false
	s.wg.Done()
	return changed
}

// retain forgets the nodes that are not in the cluster any more.
func (s *spread) retain(nodes []cluster.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.nodes) <= len(nodes) {
		return
	}
	live := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		live[n.TCPAddr] = true
	}
	for addr := range s.nodes {
		if !live[addr] {
			delete(s.nodes, addr)
		}
	}
}

// close returns when nobody is told of anything any more.
func (s *spread) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
}

// tellDataNodes returns when all data nodes that can be reached have the change with index.
func (s *spread) tellDataNodes(index uint64) {
	st := s.state()
	s.retain(st.DataNodes)
	var wg sync.WaitGroup
	for _, node := range st.DataNodes {
		n, wait := s.begin(node.TCPAddr)
		if n == nil {
			continue
		}
		if wait {
			wg.Add(1)
		}
		go func() {
			hangs := s.tell(node, st.Data.ClusterID, index)
			switch changed := s.end(n, hangs); {
			case changed && hangs:
				s.log.Warn("A data node does not take changes of the metadata: they are confirmed without it until it does",
					zap.String("node", node.TCPAddr))
			case changed:
				s.log.Info("A data node takes changes of the metadata again", zap.String("node", node.TCPAddr))
			}
			if wait {
				wg.Done()
			}
		}()
	}
	wg.Wait()
}

// tell makes a data node catch up, and reports whether it hangs.
func (s *spread) tell(node cluster.Node, clusterID, index uint64) (hangs bool) {
	ctx, cancel := context.WithTimeout(context.Background(), spreadTimeout)
	defer cancel()
	conn, err := s.pool.Conn(node.TCPAddr)
	if err == nil {
		req := &rpc.CatchUpRequest{ClusterId: clusterID, Index: index, Leader: s.leader()}
		_, err = rpc.NewMembershipClient(conn).CatchUp(ctx, req)
	}
	return status.Code(err) == codes.DeadlineExceeded || ctx.Err() != nil
}
