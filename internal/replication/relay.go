package replication

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// relays tell the other owners of shards what a node that is gone wrote here. Each of them gets the writes themselves,
// as far as this node still has their points, with the versions that they had. Then it is told which writes they were:
// if it lacks one even then, its copy is not whole.
type relays struct {
	*ownCopies
	received *received
	running  *running
}

// relay is for one owner of shards, and of one process that is gone.
type relay struct {
	tells  *rpc.ReceivedRequest // without the writes of which this node has a part only: the owner may lack the same
	writes []arrived
	parts  []uint64 // shards of writes of which this node has a part only, and which it cannot send on
}

// senderGone begins to tell the other owners, as Writer.SenderGone says.
func (r *relays) senderGone(node, current uint64) {
	if !r.running.begin(1) {
		return
	}
	go func() {
		defer r.running.wg.Done()
		var told sync.WaitGroup
		defer told.Wait()
		// Again for what was still in the buffers of its connections when it went down.
		for _, pause := range []time.Duration{0, receivedWait, r.WriteTimeout} {
			select {
			case <-time.After(pause):
			case <-r.running.ctx.Done():
				return
			}
			for owner, processes := range r.byOwner(node, r.received.take(node, current)) {
				for _, one := range processes {
					told.Go(func() { r.tell(owner, one) })
				}
			}
		}
	}()
}

// keepForgetting forgets, again and again until ctx ends, what the other owners were told of.
func (r *relays) keepForgetting(ctx context.Context) {
	tick := time.NewTicker(receivedKeeps / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.received.forgetGone()
		case <-ctx.Done():
			return
		}
	}
}

// byOwner returns what the other owners are to get of processes of a node that are gone: by owner, by process.
func (r *relays) byOwner(node uint64, gone map[receivedKey]map[uint64]arrived) map[uint64]map[uint64]*relay {
	out := make(map[uint64]map[uint64]*relay)
	for key, writes := range gone {
		sh, ok := r.Meta.Shard(key.shard)
		if !ok {
			continue
		}
		for _, o := range sh.Owners {
			if o == r.Meta.NodeID() || o == node {
				continue
			}
			if out[o] == nil {
				out[o] = make(map[uint64]*relay)
			}
			one := out[o][key.sender]
			if one == nil {
				one = &relay{tells: &rpc.ReceivedRequest{Sender: key.sender, SenderNode: node}}
				out[o][key.sender] = one
			}
			shard := &rpc.ReceivedRequest_Shard{ShardId: key.shard}
			one.tells.Shards = append(one.tells.Shards, shard)
			for _, w := range slices.Sorted(maps.Keys(writes)) {
				a := writes[w]
				if !a.part {
					shard.Writes = append(shard.Writes, w)
				}
				if a.request != nil {
					one.writes = append(one.writes, a)
				} else if a.part {
					one.parts = append(one.parts, key.shard)
				}
			}
		}
	}
	return out
}

const (
	receivedKeeps = 4 * time.Minute        // for how long writes of a process that is gone are remembered
	tellFor       = receivedKeeps / 2      // for how long an owner that cannot be told is tried again
	receivedWait  = 300 * time.Millisecond // what the sender sent before it went down may still be read here
	tellPause     = time.Second            // between two attempts to tell an owner
	relayedAtOnce = 4                      // writes under way to one owner
)

// tell tells one owner, again and again until it has it. What it cannot be told of may be missing there.
func (r *relays) tell(owner uint64, one *relay) {
	ctx, cancel := context.WithTimeout(r.running.ctx, tellFor)
	defer cancel()
	for ctx.Err() == nil {
		n, ok := r.Meta.DataNode(owner)
		if !ok {
			return
		}
		err := r.try(ctx, n, one)
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
	for _, sh := range one.tells.Shards {
		r.Copies.Missed(owner, sh.ShardId, false)
	}
}

// try makes an attempt to tell an owner. One that refuses a write is told which one it was.
func (r *relays) try(ctx context.Context, n cluster.Node, one *relay) error {
	conn, err := r.Pool.Conn(n.TCPAddr)
	if err != nil {
		return err
	}
	client := rpc.NewReplicationClient(conn)
	var (
		writes  errgroup.Group
		mu      sync.Mutex
		parts   = slices.Clone(one.parts) // with those that the owner does not take
		refused uint64                    // the shard of the first write that it does not take; 0 for none
		reason  error                     // why not
	)
	writes.SetLimit(relayedAtOnce)
	for _, a := range one.writes {
		writes.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, r.WriteTimeout)
			defer cancel()
			err := a.relay(ctx, client)
			if err == nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if refused == 0 {
				refused, reason = a.request.ShardId, err
			}
			if a.part {
				parts = append(parts, a.request.ShardId)
			}
			return nil
		})
	}
	writes.Wait()
	if refused != 0 {
		r.Log.Info("An owner does not take a write of a data node that went down, which only this node may have",
			zap.String("node", n.TCPAddr), zap.String("sender", r.nameOf(one.tells.SenderNode)),
			zap.Uint64("db_shard_id", refused), zap.String("error", rpc.Message(reason)))
	}
	ctx, cancel := context.WithTimeout(ctx, r.WriteTimeout)
	defer cancel()
	if _, err = client.Received(ctx, one.tells); err != nil {
		return err
	}
	slices.Sort(parts)
	for _, shard := range slices.Compact(parts) {
		r.Copies.Missed(n.ID, shard, false)
	}
	return nil
}

// relay sends a write on as it came. It is a late one: where the owner has something newer, that stays.
func (a arrived) relay(ctx context.Context, to rpc.ReplicationClient) error {
	m := a.request
	w := &rpc.WriteShardRequest{
		ShardId: m.ShardId, Database: m.Database, RetentionPolicy: m.RetentionPolicy, UserId: m.UserId,
		Points: m.Points,
		Sender: m.Sender, SenderNode: m.SenderNode, Write: m.Write, NoneUnderWayBelow: m.NoneUnderWayBelow,
		Version: m.Version, Relayed: true, Yields: true,
	}
	var (
		resp *rpc.WriteShardResponse
		err  error
	)
	if a.batch == nil {
		resp, err = to.WriteShard(ctx, w)
	} else {
		resp, err = to.WriteBatch(ctx, &rpc.WriteBatchRequest{Write: w, Batch: a.batch.Batch, Points: a.batch.Points})
	}
	if err == nil && resp.Error != "" && !resp.Partial {
		err = errors.New(resp.Error)
	}
	return err
}

// compare notes which copies of this node lack writes that another owner received.
func (r *relays) compare(ctx context.Context, m *rpc.ReceivedRequest) error {
	select {
	case <-time.After(receivedWait):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, sh := range m.Shards {
		if !r.received.lacks(m.Sender, sh.ShardId, sh.Writes) {
			continue
		}
		from := r.nameOf(m.SenderNode)
		r.Copies.Lacks(sh.ShardId, "writes of data node "+from+", which went down, reached other owners only")
	}
	return nil
}

// nameOf is the address of a data node, and the ID of one that left the cluster.
func (r *relays) nameOf(node uint64) string {
	if n, ok := r.Meta.DataNode(node); ok {
		return n.TCPAddr
	}
	return strconv.FormatUint(node, 10)
}
