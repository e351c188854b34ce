// Package view has the anti-entropy of the whole cluster, as data nodes and meta nodes show it. Each data node knows
// only the shards that it checked and the repairs that it drives. A View asks all data nodes, merges their answers
// into one status (merge.go), and says which nodes did not answer. It also forwards what operators ask for, such as a
// repair, to the node that does it.
package view

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/retype"
	"concord/internal/rpc"
)

// viewTimeout bounds the answer of each node to a status question.
const viewTimeout = 2 * time.Second

// controlTimeout bounds a forwarded repair or its cancellation.
const controlTimeout = 10 * time.Second

// View is the anti-entropy of the whole cluster as data nodes and meta nodes
// show it: it merges what the data nodes know and forwards what operators ask for.
type View struct {
	State     func() *cluster.State
	Transport entropy.Transport
	NodeID    func() uint64    // of this data node; nil on meta nodes
	Self      entropy.Control  // this data node's service; nil on meta nodes and when it is off
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
	Status  entropy.Status
	Message string
}

// Live are the shards that have not expired, by ID.
func (v *View) Live() map[uint64]cluster.Shard {
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	return v.State().Live(now())
}

func (v *View) nodes() []cluster.Node {
	if st := v.State(); st != nil {
		return st.DataNodes
	}
	return nil
}

// Enabled fails with entropy.ErrDisabled when this data node does not take part. Meta nodes always do.
func (v *View) Enabled(ctx context.Context) error {
	if v.NodeID == nil {
		return nil
	}
	if v.Self == nil {
		return entropy.ErrDisabled
	}
	st, err := v.Self.Status(ctx)
	if err == nil && !st.Enabled {
		err = entropy.ErrDisabled
	}
	return err
}

func (v *View) control(n cluster.Node) entropy.Control {
	if v.Self != nil && v.NodeID != nil && v.NodeID() == n.ID {
		return v.Self
	}
	return v.Transport.Control(n)
}

// Status merges what all data nodes know, or with local only shards that this
// data node owns. It fails with entropy.ErrDisabled when no node that answers has the service on.
func (v *View) Status(ctx context.Context, local bool) (ClusterStatus, error) {
	if err := v.Enabled(ctx); err != nil {
		return ClusterStatus{}, err
	}
	ask := func(ctx context.Context, n cluster.Node) (entropy.NodeStatus, error) { return v.control(n).Status(ctx) }
	answers := rpc.AskAll(ctx, v.nodes(), viewTimeout, ask)
	live := v.Live()
	if local {
		maps.DeleteFunc(live, func(_ uint64, sh cluster.Shard) bool { return !sh.Owned(v.NodeID()) })
	}
	m := merge{live: live, shards: make(map[uint64]found)}
	enabled, off := false, false
	for _, a := range answers {
		switch {
		case a.Err != nil:
			m.out.Unreachable = append(m.out.Unreachable, a.Node.TCPAddr)
		case !a.Value.Enabled:
			off = true
		default:
			enabled = true
			m.add(a.Node.ID, a.Value)
		}
	}
	if off && !enabled && len(m.out.Unreachable) == 0 {
		return ClusterStatus{}, entropy.ErrDisabled
	}
	return m.status(), nil
}

// Repair queues a shard on its first owner. It returns the ID of the repair, which is empty when it is not known.
func (v *View) Repair(ctx context.Context, id uint64) (repair string, err error) {
	if err := v.Enabled(ctx); err != nil {
		return "", err
	}
	node, err := v.firstOwner(id)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	control := v.control(node)
	if err := control.Repair(ctx, id); err != nil {
		return "", v.remote(node, id, err)
	}
	all, err := control.Repairs(ctx)
	if err != nil {
		return "", nil // it is queued all the same
	}
	for _, r := range all.Repairs { // what waits or runs comes first, and then the newest
		if r.ShardID == id {
			return r.ID(), nil
		}
	}
	return "", nil
}

// CancelRepair takes a shard from the queues of all nodes, or with local of
// this data node alone. Every owner has to answer: the repair may wait there.
func (v *View) CancelRepair(ctx context.Context, id uint64, local bool) error {
	if err := v.Enabled(ctx); err != nil {
		return err
	}
	sh, ok := v.Live()[id]
	if !ok {
		return fmt.Errorf("shard %d: %w", id, entropy.ErrUnknownShard)
	}
	if local {
		return v.Self.CancelRepair(ctx, id)
	}
	cancel := func(ctx context.Context, n cluster.Node) error { return v.control(n).CancelRepair(ctx, id) }
	answers := rpc.TellAll(ctx, v.nodes(), controlTimeout, cancel)
	var failed []error
	disabled := 0
	for _, a := range answers {
		if errors.Is(a.Err, entropy.ErrDisabled) {
			disabled++ // nothing runs there
		} else if slices.Contains(sh.Owners, a.Node.ID) {
			failed = append(failed, v.remote(a.Node, id, a.Err))
		}
	}
	if v.NodeID == nil && disabled > 0 && disabled == len(answers) {
		return entropy.ErrDisabled
	}
	return errors.Join(failed...)
}

// remote says of which node an error is. That another node's service is off
// does not make this data node's routes go away.
func (v *View) remote(n cluster.Node, id uint64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, entropy.ErrDisabled) && v.NodeID != nil && v.NodeID() != n.ID:
		return fmt.Errorf("shard %d on node %s: %v", id, n.TCPAddr, err)
	case strings.HasPrefix(err.Error(), "node "+n.TCPAddr+": "): // the transport says so
		return fmt.Errorf("shard %d on %w", id, err)
	}
	return fmt.Errorf("shard %d on node %s: %w", id, n.TCPAddr, err)
}

// Check makes all nodes check a shard, or all shards for 0, at once.
func (v *View) Check(ctx context.Context, id uint64) error {
	if err := v.Enabled(ctx); err != nil {
		return err
	}
	if _, ok := v.Live()[id]; !ok && id != 0 {
		return fmt.Errorf("shard %d: %w", id, entropy.ErrUnknownShard)
	}
	return v.all(ctx, func(ctx context.Context, c entropy.Control) error { return c.Check(ctx, id) })
}

// Pause stops or resumes the repairs of all nodes.
func (v *View) Pause(ctx context.Context, paused bool) error {
	if err := v.Enabled(ctx); err != nil {
		return err
	}
	return v.all(ctx, func(ctx context.Context, c entropy.Control) error { return c.Pause(ctx, paused) })
}

// SetMaxRate changes how many bytes a second each node reads and sends for repairs, 0 for no limit, until it loads its
// configuration.
func (v *View) SetMaxRate(ctx context.Context, bytes uint64) error {
	if err := v.Enabled(ctx); err != nil {
		return err
	}
	return v.all(ctx, func(ctx context.Context, c entropy.Control) error { return c.SetMaxRate(ctx, bytes) })
}

// all asks every node; those where the service is off have nothing to do.
func (v *View) all(ctx context.Context, fn func(context.Context, entropy.Control) error) error {
	tell := func(ctx context.Context, n cluster.Node) error { return fn(ctx, v.control(n)) }
	answers := rpc.TellAll(ctx, v.nodes(), controlTimeout, tell)
	off := 0
	var failed []error
	for _, a := range answers {
		if errors.Is(a.Err, entropy.ErrDisabled) {
			off++
		} else if a.Err != nil {
			failed = append(failed, fmt.Errorf("node %s: %w", a.Node.TCPAddr, a.Err))
		}
	}
	if off > 0 && off == len(answers) {
		return entropy.ErrDisabled
	}
	return errors.Join(failed...)
}

// ClusterRepairs are the repairs of all nodes, running ones first, then the newest.
type ClusterRepairs struct {
	Paused      []string          // TCP addresses of nodes that take no repairs
	MaxRates    map[string]uint64 // bytes a second, 0 for no limit, by TCP address
	Repairs     []NodeRepair
	Unreachable []string
}

// NodeRepair is a repair and the node that drives it.
type NodeRepair struct {
	entropy.RepairRecord
	cluster.Shard        // as the metadata has it; zero when it is gone
	Node          string // TCP address
}

// Repairs lists the repairs of all nodes.
func (v *View) Repairs(ctx context.Context) (ClusterRepairs, error) {
	if err := v.Enabled(ctx); err != nil {
		return ClusterRepairs{}, err
	}
	ask := func(ctx context.Context, n cluster.Node) (entropy.NodeRepairs, error) {
		return v.control(n).Repairs(ctx)
	}
	answers := rpc.AskAll(ctx, v.nodes(), viewTimeout, ask)
	out := ClusterRepairs{MaxRates: make(map[string]uint64)}
	live, off := v.Live(), 0
	for _, a := range answers {
		addr := a.Node.TCPAddr
		if errors.Is(a.Err, entropy.ErrDisabled) {
			off++
			continue
		} else if a.Err != nil {
			out.Unreachable = append(out.Unreachable, addr)
			continue
		}
		if a.Value.Paused {
			out.Paused = append(out.Paused, addr)
		}
		out.MaxRates[addr] = a.Value.MaxRate
		for _, r := range a.Value.Repairs {
			out.Repairs = append(out.Repairs, NodeRepair{r, live[r.ShardID], addr})
		}
	}
	if off > 0 && off == len(answers) {
		return ClusterRepairs{}, entropy.ErrDisabled
	}
	order := func(r NodeRepair) int {
		switch r.State {
		case entropy.Running:
			return 0
		case entropy.Waiting, entropy.Failed:
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

// diffTimeout bounds a dry run, and the end of a conflict of types.
const diffTimeout = 30 * time.Minute

// Diff is a dry run of a shard's repair, by its first owner.
func (v *View) Diff(ctx context.Context, id uint64) (entropy.DryRun, error) {
	if err := v.Enabled(ctx); err != nil {
		return entropy.DryRun{}, err
	}
	node, err := v.firstOwner(id)
	if err != nil {
		return entropy.DryRun{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, diffTimeout)
	defer cancel()
	d, err := v.control(node).Diff(ctx, id)
	return d, v.remote(node, id, err)
}

func (v *View) firstOwner(id uint64) (cluster.Node, error) {
	sh, ok := v.Live()[id]
	if !ok {
		return cluster.Node{}, fmt.Errorf("shard %d: %w", id, entropy.ErrUnknownShard)
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

// Resolve ends a conflict of types in a shard, by its first owner.
func (v *View) Resolve(ctx context.Context, id uint64, f retype.Field) ([]entropy.Resolved, error) {
	if err := v.Enabled(ctx); err != nil {
		return nil, err
	}
	node, err := v.firstOwner(id)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, diffTimeout)
	defer cancel()
	out, err := v.control(node).Resolve(ctx, id, f)
	if errors.As(err, &entropy.UnresolvableError{}) {
		return nil, err
	}
	return out, v.remote(node, id, err)
}
