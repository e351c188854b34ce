package deletes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// announce tells all nodes of a delete before any of them runs it. Each answers with its clock: the version of the
// delete is to be greater than those of the writes before it, which may still be under way to a slow owner.
//
// A delete that more than half of the nodes do not know of is refused: they take writes meanwhile, which it would
// remove when it reaches them. Of two nodes one is enough, or there were no deletes while the other is away.
func (d *Service) announce(
	nodes []cluster.Node, r *rpc.Delete,
) (heard []cluster.Node, missed missedNodes, err error) {
	first := &rpc.AnnounceDeleteRequest{
		Delete:     proto.Clone(r).(*rpc.Delete), // r gets its version when all have heard of it
		SenderNode: d.deps.Meta.NodeID(), Started: d.started, Clock: d.now(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), d.deps.Timeout)
	defer cancel()
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	for _, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			var clock uint64
			p, err := d.peer(n)
			if err == nil {
				clock, err = p.announce(ctx, first)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				missed = append(missed, missedNode{n, errors.New(rpc.Message(err))})
				return
			}
			heard = append(heard, n)
			d.heard(clock)
		}()
	}
	wg.Wait()
	if all, know := len(nodes)+1, len(heard)+1; know <= all/2 && all > 2 {
		return heard, nil, fmt.Errorf(
			"the delete reaches %d of %d data nodes, and needs more than half: run it again when they are back (%s)",
			know, all, missed)
	}
	return heard, missed, nil
}

// ended tells the nodes that nothing of a delete is under way any more: until then, and for no longer than a delete
// may take, they take no points from others in its database, by repairs or copies. A node that does not answer is
// told later.
func (d *Service) ended(nodes []cluster.Node, r *rpc.Delete) {
	end := &rpc.EndDeleteRequest{Database: r.Database, Id: r.Id, Version: r.Version}
	last := func(ctx context.Context, p peer) error { return p.end(ctx, end) }
	ctx, cancel := context.WithTimeout(context.Background(), d.deps.Timeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := d.tell(ctx, n, last); err != nil {
				d.deps.Log.Debug("A data node does not hear yet that a delete has ended",
					zap.String("node", n.TCPAddr), zap.String("error", rpc.Message(err)))
				d.tellLater(n, last)
			}
		}()
	}
	wg.Wait()
	d.deps.Memory.ended(r.Database, r.Id)
}

// tellPause is between two attempts to tell a node that deletes have ended.
const tellPause = time.Second

// message is one to another node.
type message func(context.Context, peer) error

// tell sends a message to a node.
func (d *Service) tell(ctx context.Context, n cluster.Node, m message) error {
	p, err := d.peer(n)
	if err != nil {
		return err
	}
	return m(ctx, p)
}

// tellLater sends a message to a node until it has it, or need not know any more.
func (d *Service) tellLater(n cluster.Node, m message) {
	ended, err := d.starting()
	if err != nil {
		return
	}
	go func() {
		defer ended()
		d.tellAll(func() ([]cluster.Node, message) { return []cluster.Node{n}, m })
	}()
}

// tellRestart tells the other nodes that what this node announced before it started has ended.
func (d *Service) tellRestart() {
	defer d.wg.Done()
	d.tellAll(func() ([]cluster.Node, message) {
		nodes, err := d.others()
		if err != nil {
			return nil, nil // it may be in a cluster the next time
		}
		r := &rpc.EndDeletesBeforeRequest{SenderNode: d.deps.Meta.NodeID(), Started: d.started}
		return nodes, func(ctx context.Context, p peer) error { return p.endBefore(ctx, r) }
	})
}

// tellAll sends the nodes that what returns at each attempt a message, until all have it; no message says to ask
// again.
func (d *Service) tellAll(what func() ([]cluster.Node, message)) {
	ctx, cancel := context.WithTimeout(d.open, longestDelete)
	defer cancel()
	told := make(map[uint64]bool)
	for {
		nodes, m := what()
		waiting := m == nil
		for _, n := range nodes {
			if told[n.ID] {
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, d.deps.Timeout)
			told[n.ID] = d.tell(attempt, n, m) == nil
			cancel()
			waiting = waiting || !told[n.ID]
		}
		if !waiting {
			return
		}
		select {
		case <-time.After(tellPause):
		case <-ctx.Done():
			return
		}
	}
}
