package copystate

import (
	"context"
	"maps"
	"time"
)

// Unfit is why a copy must not be read as if it were whole.
type Unfit struct {
	Reason   string // for people: "data node 127.0.0.1:8088 keeps writes for it"
	Readable bool   // the copy can be read where an incomplete answer is welcome
	Rank     int    // of several copies that are not whole, the one with the lowest rank is the best to read
}

// The ranks of copies that are not whole.
const (
	rankUnsure  = iota + 1 // it may be whole
	rankWaiting            // writes are on their way to it
	rankMissed             // it lacks some writes
	rankDamaged            // it lacks what was in damaged files
	rankLost               // it lacks most of what was written, or may hold deleted points or old values
)

// facts are what Unfit looks up; a facts is never changed.
type facts struct {
	shards map[uint64]Unfit
	all    *Unfit // deletes wait for all copies

	waiting shardSet  // for which writes or deletes wait
	deletes time.Time // since when other nodes keep deletes for this one; zero when they do not
}

// wait notes that someone keeps writes or deletes for shards of this node.
func (f *facts) wait(who string, shards shardSet) {
	maps.Copy(f.waiting, shards)
	for id := range shards {
		if id == allShards {
			f.all = &Unfit{Reason: who + " keeps deletes for it", Readable: true, Rank: rankWaiting}
		} else if f.shards[id].Rank < rankWaiting {
			f.shards[id] = Unfit{Reason: who + " keeps writes for it", Readable: true, Rank: rankWaiting}
		}
	}
}

// Unfit returns why copies on this node are not whole, by shard. Shards whose copies are whole are not in the result. A
// copy that this node does not have is whole when nothing was ever written to it. When the other nodes were silent,
// Unfit asks them first, for a second at most.
func (s *Service) Unfit(ctx context.Context, ids ...uint64) map[uint64]Unfit {
	if len(ids) == 0 || s.meta.NodeID() == 0 {
		return nil
	}
	if !s.fresh() {
		s.ask(ctx)
	}
	f, unsure, st := s.facts.Load(), s.unsure.Load(), s.meta.State()
	var out map[uint64]Unfit
	for _, id := range ids {
		u, bad := f.shards[id]
		if f.all != nil && (!bad || u.Rank < f.all.Rank) {
			u, bad = *f.all, true
		}
		if reason, readable := s.engine.Damaged(id); reason != "" && (!bad || !readable || u.Rank < rankDamaged) {
			u, bad = Unfit{Reason: reason, Readable: readable, Rank: rankDamaged}, true
		}
		if !bad && st.Merging(id) {
			why := "an adopted data node has other points of it"
			u, bad = Unfit{Reason: why, Readable: true, Rank: rankMissed}, true
		}
		if !bad && unsure != nil && s.othersOwn(id) {
			u, bad = Unfit{Reason: *unsure, Readable: true, Rank: rankUnsure}, true
		}
		if bad {
			if out == nil {
				out = make(map[uint64]Unfit)
			}
			out[id] = u
		}
	}
	return out
}

func (s *Service) othersOwn(id uint64) bool {
	sh, ok := s.meta.State().Shard(id)
	return !ok || len(sh.Owners) > 1
}
