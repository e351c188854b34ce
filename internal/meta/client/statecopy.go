package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/durable"
)

const stateFile = "cluster.state"

// stateCopy is the cluster's state as this node has it. A state is never changed, only replaced by a newer one. It is
// written to disk first.
type stateCopy struct {
	dir    string
	member *member
	engine engine         // shows the copy to the engine
	loaded *cluster.State // as it was on disk

	state  atomic.Pointer[cluster.State] // never nil
	live   atomic.Pointer[liveShards]    // of state; made when they are asked for
	taking sync.Mutex                    // held while member or state change

	mu      sync.Mutex
	changed chan struct{} // closed when state is replaced
}

// loadCopy reads the copy from disk. A missing or damaged one, or one of another cluster, is an empty state.
func loadCopy(dir string, m *member, e engine, log *zap.Logger) (*stateCopy, error) {
	c := &stateCopy{dir: dir, member: m, engine: e, loaded: cluster.NewState(), changed: make(chan struct{})}
	c.state.Store(c.loaded)
	if m.NodeID() == 0 {
		return c, nil
	}
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	} else if err != nil {
		return nil, err
	}
	st := new(cluster.State)
	if err := st.UnmarshalBinary(b); err != nil {
		log.Warn("The copy of the metadata is damaged: fetching it anew", zap.Error(err))
		return c, nil
	}
	if st.Data.ClusterID == m.ClusterID() {
		c.loaded = st
		return c, c.publish(st)
	}
	return c, nil
}

// Loaded is the state as it was on disk at Open: what this node knew when it stopped.
func (c *stateCopy) Loaded() *cluster.State { return c.loaded }

// State is the copy of the cluster's state: never nil, shared, read-only.
func (c *stateCopy) State() *cluster.State { return c.state.Load() }

// Index is that of this node's copy of the metadata: it grows with every change. It is 0 without a cluster.
func (c *stateCopy) Index() uint64 {
	if c.member.NodeID() == 0 {
		return 0
	}
	return c.State().Index
}

// DataNode returns a data node by its ID.
func (c *stateCopy) DataNode(id uint64) (cluster.Node, bool) { return c.State().DataNode(id) }

// DataNodes lists the data nodes by ascending ID: shared, read-only.
func (c *stateCopy) DataNodes() []cluster.Node { return c.State().DataNodes }

// Shard returns a shard by its ID.
func (c *stateCopy) Shard(id uint64) (cluster.Shard, bool) { return c.State().Shard(id) }

// Changed returns a channel that is closed at the next change of the state.
func (c *stateCopy) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// liveShards are the owners of the shards of one state that are not deleted, by shard.
type liveShards struct {
	of     *cluster.State
	owners map[uint64][]uint64
}

// Deleted reports whether a shard that was in the metadata at index was deleted since, as far as this node knows.
func (c *stateCopy) Deleted(shard, index uint64) bool {
	st := c.State()
	if index == 0 || st.Index < index {
		return false
	}
	_, ok := c.liveOwners(st)[shard]
	return !ok
}

// OwnersOf lists the owners of a shard: shared, read-only. There are none for a shard that is not known.
func (c *stateCopy) OwnersOf(shard uint64) []uint64 { return c.liveOwners(c.State())[shard] }

// liveOwners are the owners of the shards of a state that are not deleted, by shard. They are worked out once for each
// state.
func (c *stateCopy) liveOwners(st *cluster.State) map[uint64][]uint64 {
	live := c.live.Load()
	if live == nil || live.of != st {
		all := st.Shards()
		live = &liveShards{of: st, owners: make(map[uint64][]uint64, len(all))}
		for _, sh := range all {
			live.owners[sh.ID] = sh.Owners
		}
		c.live.Store(live)
	}
	return live.owners
}

// wait returns when the state fulfils ok.
func (c *stateCopy) wait(ctx context.Context, ok func(*cluster.State) bool) error {
	for {
		changed := c.Changed()
		if ok(c.State()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// publish makes st what reads see.
func (c *stateCopy) publish(st *cluster.State) error {
	if err := c.engine.Client.SetData(st.Data); err != nil {
		return fmt.Errorf("store metadata: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state.Store(st)
	close(c.changed)
	c.changed = make(chan struct{})
	return nil
}

// take makes an encoded state the copy, unless that is as new already.
func (c *stateCopy) take(b []byte, clusterID uint64) error {
	st := new(cluster.State)
	if err := st.UnmarshalBinary(b); err != nil {
		return err
	}
	if st.Data.ClusterID != clusterID {
		return fmt.Errorf("the answer is of a meta node of another cluster (%x)", st.Data.ClusterID)
	}
	c.taking.Lock()
	defer c.taking.Unlock()
	if st.Index <= c.State().Index || c.member.ClusterID() != clusterID {
		return nil
	}
	if err := durable.WriteFile(filepath.Join(c.dir, stateFile), b, 0o600); err != nil {
		return fmt.Errorf("store metadata: %w", err)
	}
	if err := c.takeMetaNodes(st); err != nil {
		return fmt.Errorf("store the meta nodes to follow: %w", err)
	}
	return c.publish(st)
}

// takeMetaNodes takes over which meta nodes there are. taking must be held.
func (c *stateCopy) takeMetaNodes(st *cluster.State) error {
	who := *c.member.who.Load()
	servers := make([]string, len(st.MetaNodes))
	for i, n := range st.MetaNodes {
		servers[i] = n.HTTPAddr
	}
	if len(servers) == 0 || slices.Equal(servers, who.MetaServers) {
		return nil
	}
	who.MetaServers = servers
	return c.member.store(&who)
}

// name gives a member without an identity one.
func (c *stateCopy) name() error {
	c.taking.Lock()
	defer c.taking.Unlock()
	who := *c.member.who.Load()
	if who.NodeID == 0 || who.Identity != "" {
		return nil
	}
	who.Identity = *c.member.fresh.Load()
	return c.member.store(&who)
}

// join makes this node a member.
func (c *stateCopy) join(who *identity) error {
	c.taking.Lock()
	defer c.taking.Unlock()
	return c.member.store(who)
}

// remove removes the copy and who this node is from disk.
func (c *stateCopy) remove() error {
	var errs []error
	for _, f := range []string{identityFile, stateFile} {
		if err := os.Remove(filepath.Join(c.dir, f)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, durable.SyncDir(c.dir))...)
}

// leave makes this node one without a cluster, in memory.
func (c *stateCopy) leave() error {
	c.member.renew()
	c.taking.Lock()
	defer c.taking.Unlock()
	c.member.who.Store(&identity{})
	return c.publish(cluster.NewState())
}
