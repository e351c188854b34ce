package copystate

import (
	"context"
	"fmt"
	"maps"
	"slices"
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
	rankLost               // it lacks most of what was written
)

// facts are what Unfit looks up; a facts is never changed.
type facts struct {
	shards map[uint64]Unfit
	all    *Unfit // deletes wait for all copies

	waiting shardSet  // for which writes or deletes wait
	deletes time.Time // since when other nodes keep deletes for this one; zero when they do not
}

// Unfit returns for each of the shards whose copy on this node is not whole why that is so; a copy that this node
// does not have is whole when nothing was ever written to it. It asks the other nodes when they were silent, for a
// second at most.
func (s *Service) Unfit(ctx context.Context, ids ...uint64) map[uint64]Unfit {
	if len(ids) == 0 || s.deps.Meta.NodeID() == 0 {
		return nil
	}
	if int64(time.Since(s.base)) > s.freshUntil.Load() {
		s.ask(ctx)
	}
	f, unsure := s.facts.Load(), s.unsure.Load()
	var out map[uint64]Unfit
	for _, id := range ids {
		u, bad := f.shards[id]
		if f.all != nil && (!bad || u.Rank < f.all.Rank) {
			u, bad = *f.all, true
		}
		if reason, readable := s.deps.Damaged(id); reason != "" && (!bad || !readable || u.Rank < rankDamaged) {
			u, bad = Unfit{Reason: reason, Readable: readable, Rank: rankDamaged}, true
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
	sh, ok := s.deps.Meta.State().Shard(id)
	return !ok || len(sh.Owners) > 1
}

// refresh makes the facts anew. mu must be held.
func (s *Service) refresh() {
	f := &facts{shards: make(map[uint64]Unfit), waiting: make(shardSet)}
	self := s.deps.Meta.NodeID()
	for id := range s.lacking {
		rank := rankLost
		if s.records[id].Lacks == Missed {
			rank = rankMissed
		}
		f.shards[id] = Unfit{Reason: s.records[id].Why, Readable: true, Rank: rank}
	}
	for holder, t := range s.tables {
		if holder == self || s.voided[holder] == t.version {
			continue
		}
		s.addFacts(f, holder, t.owed[self])
	}
	if f.all != nil {
		if f.deletes = time.Now(); s.facts.Load() != nil && !s.facts.Load().deletes.IsZero() {
			f.deletes = s.facts.Load().deletes
		}
	}
	s.addFacts(f, self, s.own.owed[self])
	expecting := make(shardSet)
	for id := range s.lacking {
		if f.waiting.has(id) {
			expecting[id] = struct{}{}
		} else if s.expecting.has(id) {
			s.arrived[id] = struct{}{}
		}
	}
	s.expecting = expecting
	s.facts.Store(f)
}

func (s *Service) addFacts(f *facts, holder uint64, shards shardSet) {
	if len(shards) == 0 {
		return
	}
	where := "this node itself"
	if holder != s.deps.Meta.NodeID() {
		where = "data node " + s.addr(holder)
	}
	maps.Copy(f.waiting, shards)
	for id := range shards {
		if id == allShards {
			f.all = &Unfit{Reason: where + " keeps deletes for it", Readable: true, Rank: rankWaiting}
		} else if f.shards[id].Rank < rankWaiting {
			f.shards[id] = Unfit{Reason: where + " keeps writes for it", Readable: true, Rank: rankWaiting}
		}
	}
}

func (s *Service) addr(node uint64) string {
	if n, ok := s.deps.Meta.State().DataNode(node); ok {
		return n.TCPAddr
	}
	return fmt.Sprintf("%d, which left the cluster,", node)
}

// Waiting lists the nodes that keep writes or deletes for this node's copy of a shard, as far as this node knows.
func (s *Service) Waiting(id uint64) []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	self := s.deps.Meta.NodeID()
	var out []uint64
	for holder, t := range s.tables {
		if holder != self && s.voided[holder] != t.version && t.owed[self].has(id) {
			out = append(out, holder)
		}
	}
	slices.Sort(out)
	return out
}
