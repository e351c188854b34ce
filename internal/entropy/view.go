package entropy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"concord/internal/cluster"
)

// viewTimeout bounds the answer of each node to a status question.
const viewTimeout = 2 * time.Second

// controlTimeout bounds a forwarded repair or its cancellation.
const controlTimeout = 10 * time.Second

// View is the anti-entropy of the whole cluster as data nodes and meta nodes
// show it: it merges what the data nodes know and forwards what operators ask for.
type View struct {
	State     func() *cluster.State
	Transport Transport
	NodeID    func() uint64    // of this data node; nil on meta nodes
	Self      Control          // this data node's service; nil on meta nodes and when it is off
	Now       func() time.Time // time.Now when nil
}

// ClusterStatus is the merged status, each list ascending by ID.
type ClusterStatus struct {
	Shards      []ShardEntry
	Queued      []uint64
	Processing  []uint64
	Unreachable []string // TCP addresses of data nodes that did not answer
}

// ShardEntry is a shard with entropy and its place in the metadata.
type ShardEntry struct {
	cluster.Shard
	Status  Status
	Message string
}

func (v *View) live() map[uint64]cluster.Shard {
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	return liveShards(v.State(), now())
}

func (v *View) nodes() []cluster.Node {
	if st := v.State(); st != nil {
		return st.DataNodes
	}
	return nil
}

// enabled tells whether this data node takes part. Meta nodes always do.
func (v *View) enabled(ctx context.Context) error {
	if v.NodeID == nil {
		return nil
	}
	if v.Self == nil {
		return ErrDisabled
	}
	st, err := v.Self.Status(ctx)
	if err == nil && !st.Enabled {
		err = ErrDisabled
	}
	return err
}

func (v *View) control(n cluster.Node) Control {
	if v.Self != nil && v.NodeID != nil && v.NodeID() == n.ID {
		return v.Self
	}
	return v.Transport.Control(n)
}

// each calls fn for all nodes at the same time and returns their errors by position.
func each(ctx context.Context, nodes []cluster.Node, timeout time.Duration, fn func(context.Context, int, cluster.Node) error) []error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			errs[i] = fn(ctx, i, n)
		}()
	}
	wg.Wait()
	return errs
}

// Status merges what all data nodes know, or with local only shards that this
// data node owns. It fails with ErrDisabled when no node that answers has the service on.
func (v *View) Status(ctx context.Context, local bool) (ClusterStatus, error) {
	if err := v.enabled(ctx); err != nil {
		return ClusterStatus{}, err
	}
	nodes := v.nodes()
	answers := make([]NodeStatus, len(nodes))
	errs := each(ctx, nodes, viewTimeout, func(ctx context.Context, i int, n cluster.Node) (err error) {
		answers[i], err = v.control(n).Status(ctx)
		return err
	})
	var out ClusterStatus
	live := v.live()
	wanted := func(id uint64) bool {
		sh, ok := live[id]
		return ok && (!local || slices.Contains(sh.Owners, v.NodeID()))
	}
	type found struct {
		ShardStatus
		first bool // by the first owner, whose word counts
	}
	shards := make(map[uint64]found)
	enabled, off := false, false
	for i, n := range nodes {
		if errs[i] != nil {
			out.Unreachable = append(out.Unreachable, n.TCPAddr)
			continue
		}
		if !answers[i].Enabled {
			off = true
			continue
		}
		enabled = true
		for _, r := range answers[i].Shards {
			if !wanted(r.ID) {
				continue
			}
			first := len(live[r.ID].Owners) > 0 && live[r.ID].Owners[0] == n.ID
			old, ok := shards[r.ID]
			switch {
			case ok && old.Status == Corrupt && r.Status == Corrupt:
				old.Message += "; " + r.Message
				shards[r.ID] = old
			case ok && old.Status == Corrupt: // the owner knows
			case !ok || r.Status == Corrupt || first && !old.first:
				shards[r.ID] = found{r, first}
			}
		}
		for _, id := range answers[i].Queued {
			if wanted(id) {
				out.Queued = append(out.Queued, id)
			}
		}
		for _, id := range answers[i].Processing {
			if wanted(id) {
				out.Processing = append(out.Processing, id)
			}
		}
	}
	if off && !enabled && len(out.Unreachable) == 0 {
		return ClusterStatus{}, ErrDisabled
	}
	for id, f := range shards {
		out.Shards = append(out.Shards, ShardEntry{Shard: live[id], Status: f.Status, Message: f.Message})
	}
	sort.Slice(out.Shards, func(i, j int) bool { return out.Shards[i].ID < out.Shards[j].ID })
	slices.Sort(out.Queued)
	slices.Sort(out.Processing)
	out.Queued, out.Processing = slices.Compact(out.Queued), slices.Compact(out.Processing)
	sort.Strings(out.Unreachable)
	return out, nil
}

// Repair queues a shard on its first owner.
func (v *View) Repair(ctx context.Context, id uint64) error {
	if err := v.enabled(ctx); err != nil {
		return err
	}
	node, err := v.firstOwner(id)
	if err != nil {
		return err
	}
	err = each(ctx, []cluster.Node{node}, controlTimeout, func(ctx context.Context, _ int, n cluster.Node) error {
		return v.control(n).Repair(ctx, id)
	})[0]
	return v.remote(node, id, err)
}

// CancelRepair takes a shard from the queues of all nodes, or with local of
// this data node alone. Every owner has to answer: the repair may wait there.
func (v *View) CancelRepair(ctx context.Context, id uint64, local bool) error {
	if err := v.enabled(ctx); err != nil {
		return err
	}
	sh, ok := v.live()[id]
	if !ok {
		return fmt.Errorf("shard %d: %w", id, ErrUnknownShard)
	}
	if local {
		return v.Self.CancelRepair(ctx, id)
	}
	nodes := v.nodes()
	errs := each(ctx, nodes, controlTimeout, func(ctx context.Context, _ int, n cluster.Node) error {
		return v.control(n).CancelRepair(ctx, id)
	})
	var failed []error
	disabled := 0
	for i, err := range errs {
		if errors.Is(err, ErrDisabled) {
			disabled++ // nothing runs there
		} else if slices.Contains(sh.Owners, nodes[i].ID) {
			failed = append(failed, v.remote(nodes[i], id, err))
		}
	}
	if v.NodeID == nil && disabled > 0 && disabled == len(nodes) {
		return ErrDisabled
	}
	return errors.Join(failed...)
}

// remote says of which node an error is. That another node's service is off
// does not make this data node's routes go away.
func (v *View) remote(n cluster.Node, id uint64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrDisabled) && v.NodeID != nil && v.NodeID() != n.ID:
		return fmt.Errorf("shard %d on node %s: %v", id, n.TCPAddr, err)
	case strings.HasPrefix(err.Error(), "node "+n.TCPAddr+": "): // the transport says so
		return fmt.Errorf("shard %d on %w", id, err)
	}
	return fmt.Errorf("shard %d on node %s: %w", id, n.TCPAddr, err)
}

// Check makes all nodes check a shard, or all shards for 0, at once.
func (v *View) Check(ctx context.Context, id uint64) error {
	if err := v.enabled(ctx); err != nil {
		return err
	}
	if _, ok := v.live()[id]; !ok && id != 0 {
		return fmt.Errorf("shard %d: %w", id, ErrUnknownShard)
	}
	return v.all(ctx, func(ctx context.Context, c Control) error { return c.Check(ctx, id) })
}

// Pause stops or resumes the repairs of all nodes.
func (v *View) Pause(ctx context.Context, paused bool) error {
	if err := v.enabled(ctx); err != nil {
		return err
	}
	return v.all(ctx, func(ctx context.Context, c Control) error { return c.Pause(ctx, paused) })
}

// all asks every node; those where the service is off have nothing to do.
func (v *View) all(ctx context.Context, fn func(context.Context, Control) error) error {
	nodes := v.nodes()
	off := 0
	var failed []error
	for i, err := range each(ctx, nodes, controlTimeout, func(ctx context.Context, _ int, n cluster.Node) error { return fn(ctx, v.control(n)) }) {
		if errors.Is(err, ErrDisabled) {
			off++
		} else if err != nil {
			failed = append(failed, fmt.Errorf("node %s: %w", nodes[i].TCPAddr, err))
		}
	}
	if off > 0 && off == len(nodes) {
		return ErrDisabled
	}
	return errors.Join(failed...)
}

// ClusterRepairs are the repairs of all nodes, running ones first, then the newest.
type ClusterRepairs struct {
	Paused      []string // TCP addresses of nodes that take no repairs
	Repairs     []NodeRepair
	Unreachable []string
}

// NodeRepair is a repair and the node that drives it.
type NodeRepair struct {
	RepairRecord
	cluster.Shard        // as the metadata has it; zero when it is gone
	Node          string // TCP address
}

// Repairs lists the repairs of all nodes.
func (v *View) Repairs(ctx context.Context) (ClusterRepairs, error) {
	if err := v.enabled(ctx); err != nil {
		return ClusterRepairs{}, err
	}
	nodes := v.nodes()
	answers := make([]NodeRepairs, len(nodes))
	errs := each(ctx, nodes, viewTimeout, func(ctx context.Context, i int, n cluster.Node) (err error) {
		answers[i], err = v.control(n).Repairs(ctx)
		return err
	})
	var out ClusterRepairs
	live, off := v.live(), 0
	for i, n := range nodes {
		if errors.Is(errs[i], ErrDisabled) {
			off++
			continue
		} else if errs[i] != nil {
			out.Unreachable = append(out.Unreachable, n.TCPAddr)
			continue
		}
		if answers[i].Paused {
			out.Paused = append(out.Paused, n.TCPAddr)
		}
		for _, r := range answers[i].Repairs {
			out.Repairs = append(out.Repairs, NodeRepair{r, live[r.ShardID], n.TCPAddr})
		}
	}
	if off > 0 && off == len(nodes) {
		return ClusterRepairs{}, ErrDisabled
	}
	order := func(r NodeRepair) int {
		switch r.State {
		case Running:
			return 0
		case Waiting, Failed:
			if r.Ended.IsZero() {
				return 1
			}
		}
		return 2
	}
	slices.SortStableFunc(out.Repairs, func(a, b NodeRepair) int {
		if x, y := order(a), order(b); x != y {
			return x - y
		}
		return b.Ended.Compare(a.Ended)
	})
	return out, nil
}

// diffTimeout bounds a dry run.
const diffTimeout = 30 * time.Minute

// DryRun is of a shard's repair, by its first owner.
func (v *View) Diff(ctx context.Context, id uint64) (DryRun, error) {
	if err := v.enabled(ctx); err != nil {
		return DryRun{}, err
	}
	node, err := v.firstOwner(id)
	if err != nil {
		return DryRun{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, diffTimeout)
	defer cancel()
	d, err := v.control(node).Diff(ctx, id)
	return d, v.remote(node, id, err)
}

func (v *View) firstOwner(id uint64) (cluster.Node, error) {
	sh, ok := v.live()[id]
	if !ok {
		return cluster.Node{}, fmt.Errorf("shard %d: %w", id, ErrUnknownShard)
	}
	if len(sh.Owners) == 0 {
		return cluster.Node{}, fmt.Errorf("shard %d has no owners", id)
	}
	node, ok := v.State().DataNode(sh.Owners[0])
	if !ok {
		return cluster.Node{}, fmt.Errorf("first owner %d of shard %d is not a data node of the cluster", sh.Owners[0], id)
	}
	return node, nil
}
