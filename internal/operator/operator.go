// Package operator is what an operator asks a meta node to do with data nodes, through influxd-ctl: copy and remove
// shards, rebalance, back up and restore, and find out what a removal of a node would lose.
//
//	dataNodes  finds the data nodes and the shard that a request names
//	copies     what each owner says about its copy of a shard: is it whole?
//	losses     what only one data node has
//	shards     copy-shard, kill-copy-shard, remove-shard, copy-shard-status
//	rebalances rebalance: a plan of package balance (rebalance_plan.go), and a run (rebalance_run.go) that does one
//	           task after the other (rebalance_task.go)
//	plans      which copy of each shard a backup reads
//	backups    the metadata, and the files of shards in both directions
//	restores   databases, policies and shard groups for what is restored
//
// Each is made of those above it. What an operator asks about anti-entropy is in packages entropy/view and
// entropy/routes, because data nodes serve that too. Package meta/server adds and removes nodes.
package operator

import (
	"context"
	"slices"

	"concord/internal/cluster"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/rpc"
)

// Deps is what Operations are made of.
type Deps struct {
	State   func() *cluster.State
	Execute func(cluster.Op) (any, error)                 // changes the state of the cluster
	Pool    *rpc.Pool                                     // of connections to data nodes
	Leads   func() bool                                   // this meta node leads
	Repair  func(ctx context.Context, shard uint64) error // asks anti-entropy to make the copies of a shard equal now
}

// Operations does what operators ask.
type Operations struct {
	copies     *copies
	losses     *losses
	shards     *shards
	rebalances *rebalances
	plans      *plans
	backups    *backups
	restores   *restores
}

// New returns the Operations of a meta node.
func New(d Deps) *Operations {
	nodes := &dataNodes{state: d.State, pool: d.Pool}
	copies := &copies{nodes: nodes}
	losses := &losses{nodes: nodes, copies: copies}
	shards := &shards{nodes: nodes, copies: copies, losses: losses, execute: d.Execute}
	return &Operations{
		copies:     copies,
		losses:     losses,
		shards:     shards,
		rebalances: newRebalances(d, shards),
		plans:      &plans{nodes: nodes, copies: copies},
		backups:    &backups{nodes: nodes},
		restores:   &restores{state: d.State, execute: d.Execute},
	}
}

// Close stops a rebalance and the copy that it makes.
func (o *Operations) Close() error {
	o.rebalances.end()
	return nil
}

// Routes are what Operations adds to the HTTP API of the meta node.
func (o *Operations) Routes() []server.Route {
	return slices.Concat(
		o.copies.routes(), o.shards.routes(), o.rebalances.routes(),
		o.plans.routes(), o.backups.routes(), o.restores.routes(),
	)
}

// CopyStates are what all owners say of their copies, by shard and owner.
func (o *Operations) CopyStates(ctx context.Context) map[uint64]map[uint64]wire.CopyState {
	out := make(map[uint64]map[uint64]wire.CopyState)
	for shard, copies := range o.copies.describeCopies(ctx, o.copies.nodes.state().Shards(), false) {
		out[shard] = make(map[uint64]wire.CopyState, len(copies))
		for _, c := range copies {
			out[shard][c.Node] = c.state()
		}
	}
	return out
}

// Losses lists what would be lost with a data node, each in a phrase that names the shard.
func (o *Operations) Losses(ctx context.Context, n cluster.Node) ([]string, error) {
	return o.losses.list(ctx, n)
}
