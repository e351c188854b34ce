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

// Sender names this process in its messages.
func (w *Writer) Sender() uint64 { return w.sender }

// SenderGone is told that processes of a node are gone, all but current when that is not 0. The other owners are told
// which of their writes came here.
func (w *Writer) SenderGone(node, current uint64) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	gone := w.received.take(node, current)
	if !w.opened || len(gone) == 0 {
		return
	}
	byOwner := make(map[uint64]map[uint64]*rpc.ReceivedRequest) // by owner, by process
	for key, writes := range gone {
		sh, ok := w.Meta.Shard(key.shard)
		if !ok || len(writes) == 0 {
			continue
		}
		for _, o := range sh.Owners {
			if o == w.Meta.NodeID() || o == node {
				continue
			}
			if byOwner[o] == nil {
				byOwner[o] = make(map[uint64]*rpc.ReceivedRequest)
			}
			if byOwner[o][key.sender] == nil {
				byOwner[o][key.sender] = &rpc.ReceivedRequest{Sender: key.sender, SenderNode: node}
			}
			r := byOwner[o][key.sender]
			r.Shards = append(r.Shards, &rpc.ReceivedRequest_Shard{ShardId: key.shard, Writes: writes})
		}
	}
	var told sync.WaitGroup
	for owner, requests := range byOwner {
		for _, r := range requests {
			w.wg.Add(1)
			told.Go(func() { defer w.wg.Done(); w.tellReceived(owner, r) })
		}
	}
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		told.Wait()
		// Later than any owner asks: it compares with what is here.
		select {
		case <-time.After(receivedKeeps):
		case <-w.ctx.Done():
		}
		w.received.drop(gone)
	}()
}

const (
	receivedRecent = time.Minute            // what came earlier is on its way to nobody
	receivedKeeps  = 2 * time.Minute        // for how long writes of a process that is gone are remembered
	receivedWait   = 300 * time.Millisecond // what the sender sent before it went down may still be read here
)

// tellPause is between two attempts to tell an owner.
const tellPause = time.Second

// tellReceived tells one owner, again and again until it has it.
func (w *Writer) tellReceived(owner uint64, r *rpc.ReceivedRequest) {
	ctx, cancel := context.WithTimeout(w.ctx, receivedKeeps)
	defer cancel()
	for ctx.Err() == nil {
		n, ok := w.Meta.DataNode(owner)
		if !ok {
			return
		}
		conn, err := w.Pool.Conn(n.TCPAddr)
		if err == nil {
			attempt, cancel := context.WithTimeout(ctx, w.WriteTimeout)
			_, err = rpc.NewReplicationClient(conn).Received(attempt, r)
			cancel()
		}
		if err == nil {
			return
		}
		w.Log.Debug("Cannot tell an owner which writes of a node that went down came here", zap.String("node", n.TCPAddr), zap.String("error", rpc.Message(err)))
		select {
		case <-time.After(tellPause):
		case <-ctx.Done():
		}
	}
}

// compareReceived notes which copies of this node lack writes that another owner received.
func (w *Writer) compareReceived(ctx context.Context, r *rpc.ReceivedRequest) error {
	select {
	case <-time.After(receivedWait):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, sh := range r.Shards {
		if !w.received.lacks(r.Sender, sh.ShardId, sh.Writes) {
			continue
		}
		from := fmt.Sprintf("data node %d", r.SenderNode)
		if n, ok := w.Meta.DataNode(r.SenderNode); ok {
			from = "data node " + n.TCPAddr
		}
		w.Copies.Lacks(sh.ShardId, "writes of "+from+", which went down, reached other owners only")
	}
	return nil
}
