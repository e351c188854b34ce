package replication

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// floors are versions below which no write reaches a node any more. Each node tells each other one such a floor, once a
// second. Below the floors of all nodes, the journal forgets.
type floors struct {
	*outgoing

	mu   sync.Mutex
	said map[uint64]order.Version // by this node, to each node; they never fall
	told map[uint64]toldFloor     // by each other node, to this one
	gone map[uint64]goneFloor     // by nodes of which a process is gone
	last map[uint64]order.Version // of each process that told what it keeps for this node; maxSenders of them

	lacks       map[uint64]uint64 // by node some of whose copies lack something: what it said of them last
	lackedSince time.Time         // a copy that was whole missed something last

	follows atomic.Bool // the floor is no further behind the clock than lateFor
	failing bool        // it was logged that the journal cannot be kept; only forget uses it

	forgetting sync.Mutex            // held while the journal forgets, and while a relayed write begins
	forgot     order.Version         // what is older may be forgotten
	relayed    map[order.Version]int // relayed writes under way
}

// toldFloor is what another node told of itself.
type toldFloor struct {
	floor order.Version
	lacks uint64 // as Copies.Lacking
}

// goneFloor is the last floor of a process that is gone. Until a time, the owners send each other what it wrote to
// them.
type goneFloor struct {
	floor order.Version
	until time.Time
}

// floor is a version below which nothing of this node reaches another one any more, as Writer.Floor says.
func (f *floors) floor(node uint64) order.Version {
	// Both before the look into hinted handoff: a write or a delete that ends meanwhile is there by then. A node on
	// which a delete fails runs it again when its version is long past, and must know then which points are newer.
	oldest := min(f.lanes.oldest(), f.Deletes.Keeps())
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.keepsFor(node) {
		f.said[node] = max(f.said[node], oldest)
	}
	return f.said[node]
}

// keepsFor reports whether hinted handoff has writes or deletes for a node. Deletes count, because the node must know
// which of its points are newer than a delete when it gets it.
func (c *ownCopies) keepsFor(node uint64) bool {
	if c.Handoff == nil {
		return false
	}
	return c.holdsDeletes(node) ||
		slices.ContainsFunc(c.Handoff.Waiting(), func(q handoff.Waiting) bool { return q.Node == node })
}

// hear takes the floor of another node.
func (f *floors) hear(node uint64, told toldFloor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told[node] = told
}

// hearEnded takes the floor of a process that has told what it keeps for this node, and what it lost.
func (f *floors) hearEnded(process uint64, floor order.Version) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.last) >= maxSenders {
		clear(f.last)
	}
	f.last[process] = floor
}

// senderGone keeps the last floor of a process that is gone. The owners that got some of its writes send these to the
// other owners (relay.go), and their journals must still have what is newer. The floor of a new process of the node
// does not say so: the new process does not know of these writes.
func (f *floors) senderGone(node uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keepFloor(node, time.Now())
}

// keepFloor keeps the floor of a node for a while. mu must be held.
func (f *floors) keepFloor(node uint64, now time.Time) {
	floor := f.told[node].floor
	if last, ok := f.gone[node]; ok && now.Before(last.until) {
		floor = min(floor, last.floor)
	}
	f.gone[node] = goneFloor{floor, now.Add(f.WriteTimeout)}
}

// ended reports whether a relayed write is below the floor that its sender told this node. Then the write needs no
// relay: the sender brought it here, keeps it in hinted handoff, or has told this node that its copy lacks the write.
func (f *floors) ended(r *rpc.WriteShardRequest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return order.Version(r.Version) < f.last[r.Sender]
}

// tooLate reports whether a message is below the floor of its sender. Then its sender has given it up: the write is in
// hinted handoff, or it failed. The message may come out of the buffers of a node that hung, and be older than what the
// journal knows.
func (f *floors) tooLate(r *rpc.WriteShardRequest) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	floor := uint64(f.told[r.SenderNode].floor)
	late := func(v uint64) bool { return v != 0 && v < floor }
	return late(r.Version) || slices.ContainsFunc(r.Spans, func(s *rpc.VersionSpan) bool { return late(s.Version) })
}

// beginRelayed lets a relayed write of version v begin, which may be below the floor of its sender: a new process of
// the sender does not know of it. Until ended is called, nothing is forgotten that is newer. It is false when some of
// that may be forgotten already.
func (f *floors) beginRelayed(v order.Version) (ended func(), ok bool) {
	f.forgetting.Lock()
	defer f.forgetting.Unlock()
	if v < f.forgot || !f.Order.Journal.Keep(v, f.WriteTimeout) {
		return nil, false
	}
	f.relayed[v]++
	return func() {
		f.forgetting.Lock()
		defer f.forgetting.Unlock()
		if f.relayed[v]--; f.relayed[v] == 0 {
			delete(f.relayed, v)
		}
	}, true
}

const (
	// When the floor is further behind the clock, the journal must outlive a power cut.
	behindFor = 5 * time.Second
	// When it is further behind, late writes may arrive. In a healthy cluster it is about two seconds behind. Repairs go
	// past a node that is away for five seconds, and must know by then.
	lateFor = 3 * time.Second
	// While copies lack something, the journal forgets nothing: repairs ask it which value is newer. When no other
	// copy missed anything for so long, those that still lack something cannot be repaired, and the journal would only
	// grow.
	holdFor = time.Hour
)

// keepForgetting tells the journal of the floor, again and again until ctx ends.
func (f *floors) keepForgetting(ctx context.Context) {
	tick := time.NewTicker(f.ForgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.forget()
		case <-ctx.Done():
			return
		}
	}
}

// forget lets the journal forget the versions below which no node can send anything any more.
func (f *floors) forget() {
	if f.Meta.NodeID() == 0 {
		return
	}
	floor, kept := f.lowestFloor(time.Now())
	kept = min(kept, f.Deletes.Floor())
	f.forgetting.Lock()
	defer f.forgetting.Unlock()
	for v := range f.relayed {
		kept = min(kept, v)
	}
	f.forgot = max(f.forgot, kept)
	f.Deletes.Forget(kept)
	lag := f.Order.Clock.Now().Time().Sub(floor.Time())
	behind := lag > behindFor
	f.follows.Store(lag <= lateFor)
	err := errors.Join(f.Order.Journal.SetFloor(kept), f.Order.Journal.SetDurable(behind))
	news := (err != nil) != f.failing
	f.failing = err != nil
	switch {
	case news && err != nil:
		f.Log.Warn("Cannot keep the journal of writes, and goes on trying", zap.Error(err))
	case news:
		f.Log.Info("The journal of writes is kept again")
	}
}

// lowestFloor returns the lowest floor of all nodes, and the version below which the journal may forget. That is 0
// while copies lack something, or hinted handoff has something for this node. It is no more than the last floor of a
// process for some time after it is gone.
func (f *floors) lowestFloor(now time.Time) (floor, kept order.Version) {
	self := f.Meta.NodeID()
	floor = f.floor(self)
	lacks := make(map[uint64]uint64)
	if missed := f.Copies.Lacking(); missed != 0 {
		lacks[self] = missed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	members := make(map[uint64]bool)
	for _, n := range f.Meta.DataNodes() {
		members[n.ID] = true
		if n.ID != self {
			told := f.told[n.ID]
			floor = min(floor, told.floor)
			if told.lacks != 0 {
				lacks[n.ID] = told.lacks
			}
		}
	}
	for id := range f.told {
		if !members[id] { // it left the cluster: its process is gone
			f.keepFloor(id, now)
			delete(f.told, id)
		}
	}
	// What this node has queued for itself may be older than its floor: points that a delete left out because they are
	// newer keep the versions that they had.
	if f.holds(lacks, now) || f.keepsFor(self) {
		return floor, 0
	}
	kept = floor
	for node, g := range f.gone {
		if now.Before(g.until) {
			kept = min(kept, g.floor)
		} else {
			delete(f.gone, node)
		}
	}
	return floor, kept
}

// holds reports whether nothing is to be forgotten because copies lack something. lacks is what each node says of its
// copies. mu must be held.
func (f *floors) holds(lacks map[uint64]uint64, now time.Time) bool {
	for node, missed := range lacks {
		if f.lacks[node] != missed {
			f.lackedSince = now
		}
	}
	f.lacks = lacks
	return len(lacks) > 0 && now.Sub(f.lackedSince) < holdFor
}
