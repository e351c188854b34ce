package replication

import (
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// floors are the versions below which nothing reaches a node any more.
type floors struct {
	mu   sync.Mutex
	said map[uint64]order.Version // to each node, of this node's writes; it never falls
	told map[uint64]order.Version // by each node, of its writes to this one

	lacks map[uint64]bool // nodes with copies that lack something
	since time.Time       // there is one; zero while there is none

	failing bool // the journal cannot be kept; it was said
}

// Floor returns this node's clock, and a version such that no write of this node with a smaller one will reach a node
// any more. While hinted handoff keeps something for the node it stays what it was: one of them may be as old.
func (w *Writer) Floor(node uint64) (clock, floor uint64) {
	return w.clock(), uint64(w.floor(node))
}

func (w *Writer) floor(node uint64) order.Version {
	oldest := w.lanes.oldest() // first: a write that ends since is in hinted handoff by then
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	if w.keepsFor(node) {
		return w.floors.said[node]
	}
	if w.floors.said == nil {
		w.floors.said = make(map[uint64]order.Version)
	}
	w.floors.said[node] = max(w.floors.said[node], oldest)
	return w.floors.said[node]
}

// keepsFor reports whether hinted handoff has writes or deletes for a node. What the node has that is newer than a
// delete must be known when the delete arrives.
func (w *Writer) keepsFor(node uint64) bool {
	if w.Handoff == nil {
		return false
	}
	return w.holdsDeletes(node) ||
		slices.ContainsFunc(w.Handoff.Waiting(), func(q handoff.Waiting) bool { return q.Node == node })
}

// Told takes the clock and the floor of another node, and whether some of its copies lack something. What is below the
// floors of all data nodes is forgotten.
func (w *Writer) Told(node, clock, floor uint64, lacks bool) {
	w.heard(clock)
	w.floors.mu.Lock()
	if w.floors.told == nil {
		w.floors.told = make(map[uint64]order.Version)
	}
	w.floors.told[node] = order.Version(floor)
	if w.floors.lacks == nil {
		w.floors.lacks = make(map[uint64]bool)
	}
	w.floors.lacks[node] = lacks
	w.floors.mu.Unlock()
	w.forget()
}

// tooLate reports whether a message is below the floor of its sender: the sender has given it up, and queued it anew
// unless it failed. It may come out of the buffers of a node that hung, and be older than what the journal knows.
func (w *Writer) tooLate(r *rpc.WriteShardRequest) bool {
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	floor := uint64(w.floors.told[r.SenderNode])
	late := func(v uint64) bool { return v != 0 && v < floor }
	return late(r.Version) || slices.ContainsFunc(r.Spans, func(s *rpc.VersionSpan) bool { return late(s.Version) })
}

// behindFor is how far the floor may stay behind the clock before what the journal has must outlive a power cut.
const behindFor = 5 * time.Second

// holdFor is how long the journal forgets nothing while copies lack something: repairs ask it which value is newer.
// Longer than that, a copy cannot be repaired, and the journal would only grow.
const holdFor = time.Hour

// held reports whether nothing is to be forgotten, as a copy lacks something. mu must be held.
func (f *floors) held(lacks bool, now time.Time) bool {
	if !lacks {
		f.since = time.Time{}
		return false
	}
	if f.since.IsZero() {
		f.since = now
	}
	return now.Sub(f.since) < holdFor
}

// forget lets the journal forget what no node can send something older than.
func (w *Writer) forget() {
	self := w.Meta.NodeID()
	floor := w.floor(self)
	lacks := w.Copies.Lacking()
	w.floors.mu.Lock()
	for _, n := range w.Meta.DataNodes() {
		if n.ID != self {
			floor = min(floor, w.floors.told[n.ID])
			lacks = lacks || w.floors.lacks[n.ID]
		}
	}
	kept := floor
	if w.floors.held(lacks, time.Now()) {
		kept = 0
	}
	w.floors.mu.Unlock()
	w.Deletes.Forget(kept)
	err := w.Order.Journal.SetFloor(kept)
	if err == nil {
		err = w.Order.Journal.SetDurable(w.Order.Clock.Now().Time().Sub(floor.Time()) > behindFor)
	}
	w.floors.mu.Lock()
	news := (err != nil) != w.floors.failing
	w.floors.failing = err != nil
	w.floors.mu.Unlock()
	switch {
	case news && err != nil:
		w.Log.Warn("Cannot keep the journal of writes, and goes on trying", zap.Error(err))
	case news:
		w.Log.Info("The journal of writes is kept again")
	}
}
