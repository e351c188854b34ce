package deletes

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// announce tells all nodes of a delete before any of them runs it. Each answers with its clock. The version of the
// delete will be greater than all of these, and so greater than those of the writes before it, which may still be under
// way to a slow owner.
func (d *Service) announce(nodes []cluster.Node, r *rpc.Delete) (reached []cluster.Node, missed missedNodes) {
	announcement := &rpc.AnnounceDeleteRequest{
		Delete:     proto.Clone(r).(*rpc.Delete), // r gets its version when all have heard of it
		SenderNode: d.deps.Meta.NodeID(), Started: d.started.Load(), Process: d.process, Clock: d.now(),
	}
	ask := func(ctx context.Context, n cluster.Node) (clock uint64, err error) {
		p, err := d.peer(n)
		if err != nil {
			return 0, err
		}
		return p.announce(ctx, announcement)
	}
	for _, a := range rpc.AskAll(context.Background(), nodes, d.deps.Timeout, ask) {
		if a.Err != nil {
			missed = append(missed, missedNode{a.Node, errors.New(rpc.Message(a.Err))})
			continue
		}
		reached = append(reached, a.Node)
		d.heard(a.Value)
	}
	return reached, missed
}

// enough returns an error unless more than half of the nodes know of a delete, this one included. Nodes that do not
// hear of it go on taking writes. Such a write may get a smaller version than the delete, which then removes it. Of
// two nodes one is enough. Otherwise no delete could run while one is away.
func enough(reached []cluster.Node, missed missedNodes) error {
	know := len(reached) + 1
	if all := know + len(missed); know <= all/2 && all > 2 {
		return fmt.Errorf(
			"the delete reaches %d of %d data nodes, and needs more than half: run it again when they are back (%s)",
			know, all, missed)
	}
	return nil
}

// announceEnd tells the nodes that nothing of a delete is under way any more. Until then they take no points in its
// database from repairs or copies, though for no longer than longestDelete. A node that does not answer gets the
// message later.
func (d *Service) announceEnd(nodes []cluster.Node, r *rpc.Delete) {
	end := &rpc.EndDeleteRequest{Database: r.Database, Id: r.Id, Version: r.Version, Mark: d.deps.Mark()}
	send := func(ctx context.Context, p peer) error { return p.end(ctx, end) }
	for _, a := range d.tellAll(nodes, send) {
		if a.Err != nil {
			d.deps.Log.Debug("A data node cannot be told yet that a delete has ended",
				zap.String("node", a.Node.TCPAddr), zap.String("error", rpc.Message(a.Err)))
			d.sendUntilAnswered(a.Node, send)
		}
	}
	d.deps.Memory.end(r.Database, r.Id)
}

// resendPause is between two attempts to send a message to a node.
const resendPause = time.Second

// message sends something to another node.
type message func(context.Context, peer) error

// send sends a message to a node.
func (d *Service) send(ctx context.Context, n cluster.Node, m message) error {
	p, err := d.peer(n)
	if err != nil {
		return err
	}
	return m(ctx, p)
}

// tellAll sends a message to nodes at the same time, once.
func (d *Service) tellAll(nodes []cluster.Node, m message) []rpc.Answer[cluster.Node, struct{}] {
	return rpc.TellAll(context.Background(), nodes, d.deps.Timeout, func(ctx context.Context, n cluster.Node) error {
		return d.send(ctx, n, m)
	})
}

// sendUntilAnswered sends a message to a node in the background, until the node answers or longestDelete has passed.
func (d *Service) sendUntilAnswered(n cluster.Node, m message) {
	leave, err := d.enter()
	if err != nil {
		return
	}
	go func() {
		defer leave()
		d.sendToAll(func() ([]cluster.Node, message) { return []cluster.Node{n}, m })
	}()
}

// announceRestart tells the other nodes that what this node announced before it started has ended.
func (d *Service) announceRestart() {
	defer d.wg.Done()
	d.sendToAll(func() ([]cluster.Node, message) {
		nodes, err := d.others()
		if err != nil {
			return nil, nil // it may be in a cluster the next time
		}
		return nodes, d.endFormer
	})
}

// endFormer tells a node that former processes of this one are gone. By the clock of the machine, which was set back,
// one of these may have been started later: this process then counts as started after it.
func (d *Service) endFormer(ctx context.Context, p peer) error {
	for {
		r := &rpc.EndDeletesBeforeRequest{
			SenderNode: d.deps.Meta.NodeID(), Started: d.started.Load(), Process: d.process,
		}
		after, err := p.endBefore(ctx, r)
		if err != nil || after < r.Started || after == math.MaxUint64 {
			return err
		}
		d.started.CompareAndSwap(r.Started, after+1)
	}
}

// sendToAll sends a message to nodes until all have answered, or longestDelete has passed. Next returns both before
// each attempt; the message is nil while they are not known.
func (d *Service) sendToAll(next func() ([]cluster.Node, message)) {
	ctx, cancel := context.WithTimeout(d.open, longestDelete)
	defer cancel()
	answered := make(map[uint64]bool)
	for {
		nodes, m := next()
		waiting := m == nil
		for _, n := range nodes {
			if answered[n.ID] {
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, d.deps.Timeout)
			answered[n.ID] = d.send(attempt, n, m) == nil
			cancel()
			waiting = waiting || !answered[n.ID]
		}
		if !waiting {
			return
		}
		select {
		case <-time.After(resendPause):
		case <-ctx.Done():
			return
		}
	}
}
