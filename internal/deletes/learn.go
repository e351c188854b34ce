package deletes

import (
	"context"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// A node whose disk is older than it was asks all others which deletes they remember. The nodes that remember a delete
// are replaced over time, though. So a new node takes over what the others remember: it does not run these deletes,
// and tells about them. What arrives late and is older than one of them is left out here, too: writes may wait in
// hinted handoff for the node that it replaces.

// keepLearning asks all nodes for the deletes that they remember, once for each cluster that this node is in.
func (d *Service) keepLearning() {
	defer d.wg.Done()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	l := learning{told: make(map[uint64]bool)}
	for {
		select {
		case <-d.open.Done():
			return
		case <-tick.C:
			d.goOnLearning(d.open, &l, time.Now())
		}
	}
}

// learning is how far this node is with asking all others.
type learning struct {
	told  map[uint64]bool // nodes that were asked: whether they have answered
	asked time.Time       // when the first of them was
}

// goOnLearning asks those that have not answered yet.
func (d *Service) goOnLearning(ctx context.Context, l *learning, now time.Time) {
	if d.deps.Ran.Learned() {
		clear(l.told)
		d.deps.Memory.lacks(0)
		return
	}
	switch {
	case len(l.told) == 0: // nobody was asked yet: this node is in no cluster, or without metadata
		l.asked = now
		d.lacksDeletes()
	case now.Sub(l.asked) > learnWait:
		d.deps.Memory.lacks(0)
	}
	if err := d.learn(ctx, l.told); err != nil {
		d.deps.Log.Debug("Not all data nodes have said yet which deletes they remember", zap.Error(err))
	}
}

// learnWait is how long late writes wait when too few nodes answer: writes that come after them in the queues of hinted
// handoff wait, too.
const learnWait = 30 * time.Second

// lacksDeletes notes that this node may not know deletes from before now.
func (d *Service) lacksDeletes() { d.deps.Memory.lacks(max(d.deps.Ran.Began(), d.deps.Clock.Now())) }

// learn asks the nodes that have not answered yet. The error names those that do not answer.
func (d *Service) learn(ctx context.Context, told map[uint64]bool) error {
	nodes, err := d.others()
	if err != nil {
		return err
	}
	var ask []cluster.Node
	for _, n := range nodes {
		if !told[n.ID] {
			ask = append(ask, n)
		}
	}
	var errs []error
	for _, a := range rpc.TellAll(ctx, ask, askTimeout, d.learnFrom) {
		if told[a.Node.ID] = a.Err == nil || isOld(a.Err); !told[a.Node.ID] {
			errs = append(errs, a.Err)
		}
	}
	// More than half of all nodes heard of each delete that was acknowledged. So one that has answered did.
	if asked := len(nodes) - len(errs); 2*asked >= len(nodes)+1 {
		d.deps.Memory.lacks(0)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return d.deps.Ran.HasLearned()
}

// learnFrom takes over what one node remembers.
func (d *Service) learnFrom(ctx context.Context, n cluster.Node) error {
	p, err := d.peer(n)
	if err != nil {
		return err
	}
	stream, err := p.deletes.RememberedDeletes(ctx, &rpc.RememberedDeletesRequest{})
	if err != nil {
		return err
	}
	var some []*rpc.Delete
	for {
		r, err := stream.Recv()
		if err == nil && valid(r) == nil && r.Version != 0 {
			some = append(some, r)
		}
		if len(some) >= pageLength || errors.Is(err, io.EOF) {
			if err := d.deps.Ran.Learn(some); err != nil {
				return err
			}
			for _, r := range some {
				d.deps.Memory.Add(r)
			}
			some = nil
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
