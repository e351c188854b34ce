package replication

import (
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// floors are versions below which no write reaches a node any more. Each node tells each other one such a floor, once a
// second. Below the floors of all nodes, the journal forgets.
type floors struct {
	mu   sync.Mutex
	said map[uint64]order.Version // by this node, to each node; they never fall
	told map[uint64]toldFloor     // by each other node, to this one

	lackedSince time.Time // since then some copy lacks something; zero while none does

	failing bool // it was logged that the journal cannot be kept; only forget uses it
}

// toldFloor is what another node told of itself.
type toldFloor struct {
	floor order.Version
	lacks bool // some of its copies lack something
}

// Floor returns the clock of this node, and a version. No write of this node with a smaller version will reach the
// other node any more. While hinted handoff keeps something for that node, the version stays what it was: what is kept may be
// as old.
func (w *Writer) Floor(node uint64) (clock, floor uint64) {
	return w.clock(), uint64(w.floor(node))
}

func (w *Writer) floor(node uint64) order.Version {
	oldest := w.lanes.oldest() // before the look into hinted handoff: a write that ends meanwhile is there by then
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	if !w.keepsFor(node) {
		w.floors.said[node] = max(w.floors.said[node], oldest)
	}
	return w.floors.said[node]
}

// keepsFor reports whether hinted handoff has writes or deletes for a node. Deletes count, because the node must know
// which of its points are newer than a delete when it gets it.
func (w *Writer) keepsFor(node uint64) bool {
	if w.Handoff == nil {
		return false
	}
	return w.holdsDeletes(node) ||
		slices.ContainsFunc(w.Handoff.Waiting(), func(q handoff.Waiting) bool { return q.Node == node })
}

// Told takes what another node tells this one: its clock, its floor, and whether some of its copies lack something.
func (w *Writer) Told(node, clock, floor uint64, lacks bool) {
	w.heard(clock)
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	w.floors.told[node] = toldFloor{order.Version(floor), lacks}
}

// tooLate reports whether a message is below the floor of its sender. Then its sender has given it up: the write is in
// hinted handoff, or it failed. The message may come out of the buffers of a node that hung, and be older than what the
// journal knows.
func (w *Writer) tooLate(r *rpc.WriteShardRequest) bool {
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	floor := uint64(w.floors.told[r.SenderNode].floor)
	late := func(v uint64) bool { return v != 0 && v < floor }
	return late(r.Version) || slices.ContainsFunc(r.Spans, func(s *rpc.VersionSpan) bool { return late(s.Version) })
}

const (
	// When the floor is further behind the clock, the journal must outlive a power cut.
	behindFor = 5 * time.Second
	// While copies lack something, the journal forgets nothing: repairs ask it which value is newer. A copy that lacks
	// something for longer cannot be repaired, and the journal would only grow.
	holdFor = time.Hour
)

// keepForgetting tells the journal of the floor, again and again until the writer closes.
func (w *Writer) keepForgetting() {
	defer w.wg.Done()
	tick := time.NewTicker(w.ForgetEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.forget()
		case <-w.ctx.Done():
			return
		}
	}
}

// forget lets the journal forget the versions below which no node can send anything any more.
func (w *Writer) forget() {
	if w.Meta.NodeID() == 0 {
		return
	}
	floor, kept := w.lowestFloor(time.Now())
	w.Deletes.Forget(kept)
	behind := w.Order.Clock.Now().Time().Sub(floor.Time())
	err := errors.Join(w.Order.Journal.SetFloor(kept), w.Order.Journal.SetDurable(behind > behindFor))
	news := (err != nil) != w.floors.failing
	w.floors.failing = err != nil
	switch {
	case news && err != nil:
		w.Log.Warn("Cannot keep the journal of writes, and goes on trying", zap.Error(err))
	case news:
		w.Log.Info("The journal of writes is kept again")
	}
}

// lowestFloor returns the lowest floor of all nodes, and the version below which the journal may forget: 0 while copies
// lack something.
func (w *Writer) lowestFloor(now time.Time) (floor, kept order.Version) {
	self := w.Meta.NodeID()
	floor = w.floor(self)
	lacks := w.Copies.Lacking()
	w.floors.mu.Lock()
	defer w.floors.mu.Unlock()
	for _, n := range w.Meta.DataNodes() {
		if n.ID != self {
			told := w.floors.told[n.ID]
			floor = min(floor, told.floor)
			lacks = lacks || told.lacks
		}
	}
	if w.floors.holds(lacks, now) {
		return floor, 0
	}
	return floor, floor
}

// holds reports whether nothing is to be forgotten because a copy lacks something. mu must be held.
func (f *floors) holds(lacks bool, now time.Time) bool {
	if !lacks {
		f.lackedSince = time.Time{}
		return false
	}
	if f.lackedSince.IsZero() {
		f.lackedSince = now
	}
	return now.Sub(f.lackedSince) < holdFor
}
