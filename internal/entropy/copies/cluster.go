// Package copies has the copies of a shard at its owners as one value: who was reached, what they say of their copies,
// and whether these are equal.
package copies

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/rpc"
)

// Cluster is where copies are: those of this node, and those of other nodes.
type Cluster struct {
	Meta      entropy.Metadata
	Local     entropy.Replica
	Transport entropy.Transport
	Now       func() time.Time
	Leader    func() time.Time // the time of the meta nodes' leader, by which shards expire; Now when nil
}

// Self is this node's ID.
func (c Cluster) Self() uint64 { return c.Meta.NodeID() }

// Live are the shards of the metadata that have not expired, by ID.
func (c Cluster) Live() map[uint64]cluster.Shard {
	now := c.Now
	if c.Leader != nil {
		now = c.Leader
	}
	return c.Meta.State().Live(now())
}

// Known reports whether the metadata is there: without it nothing is known to be gone.
func (c Cluster) Known() bool {
	st := c.Meta.State()
	return st != nil && st.Data != nil && st.Index != 0
}

// Node returns a data node.
func (c Cluster) Node(id uint64) (cluster.Node, error) {
	if st := c.Meta.State(); st != nil {
		if n, ok := st.DataNode(id); ok {
			return n, nil
		}
	}
	return cluster.Node{}, fmt.Errorf("owner %d is not a data node of the cluster", id)
}

// Addr names a node in messages: its TCP address.
func (c Cluster) Addr(id uint64) string {
	n, err := c.Node(id)
	if err != nil {
		return fmt.Sprintf("node %d", id)
	}
	return n.TCPAddr
}

// copyAt is a node's copies, of which the state is not known yet.
func (c Cluster) copyAt(id uint64) (Copy, error) {
	n, err := c.Node(id)
	switch {
	case id == c.Self():
		n.ID = id
		return Copy{Node: n, Replica: c.Local, Own: true}, nil
	case err != nil:
		return Copy{}, err
	}
	return Copy{Node: n, Replica: c.Transport.Replica(n)}, nil
}

// States are what owners said of shards.
type States struct {
	cluster Cluster
	asked   time.Time
	answers map[uint64]map[uint64]entropy.ShardState // by node, by shard

	Failed map[uint64]error // by node: why it did not answer
}

// States asks each owner once about all its shards among those given. When ctx ends, the error is its cause.
func (c Cluster) States(ctx context.Context, shards ...cluster.Shard) (States, error) {
	ids := make(map[uint64][]uint64)
	for _, sh := range shards {
		for _, o := range sh.Owners {
			ids[o] = append(ids[o], sh.ID)
		}
	}
	out := States{
		cluster: c, asked: c.Now(), answers: make(map[uint64]map[uint64]entropy.ShardState),
		Failed: make(map[uint64]error),
	}
	ask := func(ctx context.Context, owner uint64) (map[uint64]entropy.ShardState, error) {
		at, err := c.copyAt(owner)
		if err != nil {
			return nil, err
		}
		return at.Replica.States(ctx, ids[owner])
	}
	for _, a := range rpc.AskAll(ctx, slices.Collect(maps.Keys(ids)), 0, ask) {
		if a.Err != nil {
			out.Failed[a.Node] = a.Err
		} else {
			out.answers[a.Node] = a.Value
		}
	}
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	return out, nil
}

// Set returns the usable copies of sh, and says in Away why the other owners take no part. States must have been asked
// about sh.
func (s States) Set(sh cluster.Shard) Set {
	out := Set{Shard: sh, Asked: s.asked}
	for _, owner := range sh.Owners {
		c, err := s.copyAt(owner, sh.ID)
		if err != nil {
			out.Away = append(out.Away,
				fmt.Errorf("owner %s of shard %d cannot take part: %w", s.cluster.Addr(owner), sh.ID, err))
			continue
		}
		out.Copies = append(out.Copies, c)
	}
	return out
}

func (s States) copyAt(owner, shard uint64) (Copy, error) {
	if err := s.Failed[owner]; err != nil {
		return Copy{}, err
	}
	c, err := s.cluster.copyAt(owner)
	if err != nil {
		return Copy{}, err
	}
	if c.State = s.answers[owner][shard]; !c.State.Usable() {
		return Copy{}, fmt.Errorf("%s", c.State.Corrupt)
	}
	return c, nil
}

// Reach returns the copies of a shard that can be used. It fails with
// entropy.ErrOnItsWay while writes or deletes are on their way to them.
func (c Cluster) Reach(ctx context.Context, sh cluster.Shard) (Set, error) {
	states, err := c.States(ctx, sh)
	if err != nil {
		return Set{}, err
	}
	set := states.Set(sh)
	if from, to, any := set.OnItsWay(); any {
		return Set{}, fmt.Errorf("%w: %s still has some of shard %d for %s", entropy.ErrOnItsWay, c.Addr(from), sh.ID,
			c.Addr(to))
	}
	return set, nil
}
