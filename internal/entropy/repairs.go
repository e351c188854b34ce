package entropy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"concord/internal/entropy/patch"
)

// keptRepairs is how many ended repairs a node remembers.
const keptRepairs = 200

// NodeRepairs are the repairs of one node.
type NodeRepairs struct {
	Paused  bool
	Repairs []RepairRecord
}

// RepairState is where a repair is.
type RepairState string

// The states of repairs.
const (
	Waiting RepairState = "queued"
	Running RepairState = "running"
	Done    RepairState = "done"
	Failed  RepairState = "failed"   // and waits to be tried again
	Stopped RepairState = "stopped"  // canceled, paused, or the node went down
	Refused RepairState = "conflict" // all is repaired but for what owners refuse: a field has different types
)

// RepairRecord is one repair of a shard. Times are zero for not yet.
type RepairRecord struct {
	ShardID   uint64
	State     RepairState
	Owners    []string // TCP addresses of those that took part
	Added     time.Time
	Started   time.Time
	Ended     time.Time
	Attempts  int              // that failed before
	Rounds    int              // comparisons
	Total     int              // differing series-fields that the last comparison found
	Fixed     int              // of Total
	Copied    int64            // bytes of the files that a missing copy is made of, while they come
	Copying   int64            // of so many
	Points    int              // applied
	Conflicts int              // points with different values, decided
	Decided   []patch.Decision // the first of them
	Refused   int              // series-fields of which an owner refuses points that others have
	Refusals  []Refusal        // the first of them
	BytesRx   int64
	BytesTx   int64
	Rate      float64 // bytes per second, both ways
	ETA       time.Duration
	Error     string
}

// Progress is 0 to 1, of the files that come, and then of the last comparison.
func (r RepairRecord) Progress() float64 {
	if r.State == Done {
		return 1
	}
	if r.Copying > 0 {
		return float64(r.Copied) / float64(r.Copying)
	}
	if r.Total == 0 {
		return 0
	}
	return float64(r.Fixed) / float64(r.Total)
}

// errPaused is why a running repair stops.
var errPaused = errors.New("repairs are paused")

// history is the repairs that ended, the newest last.
type history struct {
	mu   sync.Mutex
	list []RepairRecord
}

func (h *history) add(r RepairRecord) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.list = append(h.list, r); len(h.list) > keptRepairs {
		h.list = slices.Delete(h.list, 0, len(h.list)-keptRepairs)
	}
}

// record is the outcome so far.
func (o *outcome) record(id uint64, started, now time.Time) RepairRecord {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := RepairRecord{
		ShardID: id, State: Running, Owners: slices.Clone(o.owners), Started: started, Rounds: o.rounds, Total: o.total, Fixed: o.fixed, Copied: o.copied, Copying: o.copying,
		Points: o.points, Conflicts: o.conflicts, Decided: slices.Clone(o.decided), Refused: o.refused, Refusals: slices.Clone(o.listed), BytesRx: o.rx, BytesTx: o.tx,
	}
	if took := now.Sub(started); took > 0 {
		r.Rate = float64(o.rx+o.tx) / took.Seconds()
		if p := r.Progress(); p > 0 {
			r.ETA = time.Duration(float64(took) * (1 - p) / p)
		}
	}
	return r
}

// Repairs lists what waits and runs, then what ended, the newest first.
func (s *Service) Repairs(context.Context) (NodeRepairs, error) {
	if !s.config().Enabled {
		return NodeRepairs{}, ErrDisabled
	}
	now := s.deps.Now()
	s.mu.Lock()
	out := NodeRepairs{Paused: s.paused}
	running := make(map[uint64]RepairRecord, len(s.running))
	for id, j := range s.running {
		running[id] = j.out.record(id, j.started, now)
	}
	s.mu.Unlock()
	for _, it := range s.queue.list() {
		r, ok := running[it.ID]
		if !ok {
			r = RepairRecord{ShardID: it.ID, State: Waiting, Error: it.Error}
			if it.Error != "" {
				r.State = Failed
			}
		}
		r.Added, r.Attempts = it.Added, it.Attempts
		out.Repairs = append(out.Repairs, r)
	}
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	for _, r := range slices.Backward(s.history.list) {
		out.Repairs = append(out.Repairs, r)
	}
	return out, nil
}

// Pause stops the taking of repairs, also over a restart, and running ones; or resumes.
func (s *Service) Pause(_ context.Context, paused bool) error {
	if !s.config().Enabled {
		return ErrDisabled
	}
	if err := s.queue.setPaused(paused); err != nil {
		return err
	}
	s.mu.Lock()
	s.paused = paused
	if paused {
		for _, j := range s.running {
			j.cancel(errPaused)
		}
	}
	s.mu.Unlock()
	notify(s.wake)
	return nil
}

// Check makes the next check, which is due at once, compare a shard again, or all for 0. Damaged copies are verified again.
func (s *Service) Check(_ context.Context, id uint64) error {
	if !s.config().Enabled {
		return ErrDisabled
	}
	s.Suspect(id)
	return s.verifyAgain(id)
}
