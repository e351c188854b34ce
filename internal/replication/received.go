package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/rpc"
)

// maxReceived bounds the writes of one sender to one shard that are remembered.
const maxReceived = 1 << 16

// maxSenders is how many processes and shards are kept without looking for old ones.
const maxSenders = 4096

// receivedKey is a process and a shard that it wrote to.
type receivedKey struct{ sender, shard uint64 }

// received is which writes of other nodes have reached this one and may not have reached all other owners. A node
// that goes down takes what was on its way with it: some owners have it, others do not, and nobody keeps it. The
// owners then tell each other what they received; one that lacks a write knows that its copy is not whole.
type received struct {
	*ownCopies
	running *running

	mu sync.Mutex
	m  map[receivedKey]*receivedFrom // by the sender's process and shard
}

type receivedFrom struct {
	node      uint64              // of the sender
	at        time.Time           // when the last one came
	noneBelow uint64              // no write below it is under way: all have reached their owners, or wait for them
	writes    map[uint64]struct{} // those from noneBelow on
}

func (r *received) add(m *rpc.WriteShardRequest) {
	if m.Write == 0 || m.Sender == 0 || m.SenderNode == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := receivedKey{m.Sender, m.ShardId}
	from := r.m[key]
	if from == nil {
		if len(r.m) >= maxSenders {
			maps.DeleteFunc(r.m, func(_ receivedKey, old *receivedFrom) bool { return old.old() })
		}
		from = &receivedFrom{node: m.SenderNode, writes: make(map[uint64]struct{})}
		if r.m == nil {
			r.m = make(map[receivedKey]*receivedFrom)
		}
		r.m[key] = from
	}
	from.at = time.Now()
	if m.NoneUnderWayBelow > from.noneBelow {
		from.noneBelow = m.NoneUnderWayBelow
		for w := range from.writes {
			if w < from.noneBelow {
				delete(from.writes, w)
			}
		}
	}
	if m.Write >= from.noneBelow && len(from.writes) < maxReceived {
		from.writes[m.Write] = struct{}{}
	}
}

// old reports whether the last write came so long ago that it has reached all owners, or waits for them.
func (f *receivedFrom) old() bool { return time.Since(f.at) > receivedRecent }

// lacks reports whether one of the writes has not come here.
func (r *received) lacks(sender, shard uint64, writes []uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := r.m[receivedKey{sender, shard}]
	return slices.ContainsFunc(writes, func(w uint64) bool {
		if from == nil {
			return true
		}
		_, has := from.writes[w]
		return !has && w >= from.noneBelow
	})
}

// take removes and returns what came from processes of a node other than current, 0 for all.
func (r *received) take(node, current uint64) map[receivedKey][]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[receivedKey][]uint64)
	for key, from := range r.m {
		if from.node == node && key.sender != current && !from.old() {
			for w := range from.writes {
				out[key] = append(out[key], w)
			}
		}
	}
	return out
}

// drop forgets what came from a process.
func (r *received) drop(keys map[receivedKey][]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range keys {
		delete(r.m, key)
	}
}

// senderGone tells the other owners which writes of processes of a node came here that are gone, as Writer.SenderGone
// says.
func (r *received) senderGone(node, current uint64) {
	r.running.mu.RLock()
	defer r.running.mu.RUnlock()
	gone := r.take(node, current)
	if !r.running.opened || len(gone) == 0 {
		return
	}
	var told sync.WaitGroup
	for owner, requests := range r.byOwner(node, gone) {
		for _, m := range requests {
			r.running.wg.Add(1)
			told.Go(func() { defer r.running.wg.Done(); r.tell(owner, m) })
		}
	}
	r.running.wg.Add(1)
	go func() {
		defer r.running.wg.Done()
		told.Wait()
		// Later than any owner asks: it compares with what is here.
		select {
		case <-time.After(receivedKeeps):
		case <-r.running.ctx.Done():
		}
		r.drop(gone)
	}()
}

// byOwner makes the messages that tell the other owners what came from processes of a node that are gone: by owner, by
// process.
func (r *received) byOwner(node uint64, gone map[receivedKey][]uint64) map[uint64]map[uint64]*rpc.ReceivedRequest {
	out := make(map[uint64]map[uint64]*rpc.ReceivedRequest)
	for key, writes := range gone {
		sh, ok := r.Meta.Shard(key.shard)
		if !ok || len(writes) == 0 {
			continue
		}
		for _, o := range sh.Owners {
			if o == r.Meta.NodeID() || o == node {
				continue
			}
			if out[o] == nil {
				out[o] = make(map[uint64]*rpc.ReceivedRequest)
			}
			if out[o][key.sender] == nil {
				out[o][key.sender] = &rpc.ReceivedRequest{Sender: key.sender, SenderNode: node}
			}
			m := out[o][key.sender]
			m.Shards = append(m.Shards, &rpc.ReceivedRequest_Shard{ShardId: key.shard, Writes: writes})
		}
	}
	return out
}

const (
	receivedRecent = time.Minute            // what came earlier is on its way to nobody
	receivedKeeps  = 2 * time.Minute        // for how long writes of a process that is gone are remembered
	receivedWait   = 300 * time.Millisecond // what the sender sent before it went down may still be read here
)

// tellPause is between two attempts to tell an owner.
const tellPause = time.Second

// tell tells one owner, again and again until it has it.
func (r *received) tell(owner uint64, m *rpc.ReceivedRequest) {
	ctx, cancel := context.WithTimeout(r.running.ctx, receivedKeeps)
	defer cancel()
	for ctx.Err() == nil {
		n, ok := r.Meta.DataNode(owner)
		if !ok {
			return
		}
		conn, err := r.Pool.Conn(n.TCPAddr)
		if err == nil {
			attempt, cancel := context.WithTimeout(ctx, r.WriteTimeout)
			_, err = rpc.NewReplicationClient(conn).Received(attempt, m)
			cancel()
		}
		if err == nil {
			return
		}
		r.Log.Debug("Cannot tell an owner which writes of a node that went down came here",
			zap.String("node", n.TCPAddr), zap.String("error", rpc.Message(err)))
		select {
		case <-time.After(tellPause):
		case <-ctx.Done():
		}
	}
}

// compare notes which copies of this node lack writes that another owner received.
func (r *received) compare(ctx context.Context, m *rpc.ReceivedRequest) error {
	select {
	case <-time.After(receivedWait):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, sh := range m.Shards {
		if !r.lacks(m.Sender, sh.ShardId, sh.Writes) {
			continue
		}
		from := fmt.Sprintf("data node %d", m.SenderNode)
		if n, ok := r.Meta.DataNode(m.SenderNode); ok {
			from = "data node " + n.TCPAddr
		}
		r.Copies.Lacks(sh.ShardId, "writes of "+from+", which went down, reached other owners only")
	}
	return nil
}
