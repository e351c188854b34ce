package copystate

import (
	"slices"
	"time"

	"concord/internal/cluster"
)

// look says what is known of the folders when the metadata is looked through.
type look struct {
	starting bool   // it is the first one since the start: the store has what is on disk, and no more
	newDisk  bool   // the data folder is not the one of the last start
	oldDisk  bool   // and has a name that it had at an earlier time
	adopt    bool   // the data is from a version that did not keep copies.db
	crashed  bool   // the node did not stop by itself
	now      uint64 // the version of now; review sets it
}

// hasAny reports whether there is a copy of any shard of the cluster: what is on disk is believed then.
func (e Engine) hasAny(st *cluster.State) bool {
	return slices.ContainsFunc(st.Shards(), func(sh cluster.Shard) bool { return e.Has(sh.ID) })
}

// crashWindow is how long before a crash a shard must have been written to for writes to have been on their way from
// its node.
const crashWindow = 30 * time.Second

// underWay reports whether writes to a shard may have been on their way when the node crashed: other owners may lack
// some that are here, and this copy some that are there.
func (e Engine) underWay(id uint64) bool {
	var newest time.Time
	for _, at := range e.Written {
		if at.After(newest) {
			newest = at
		}
	}
	at, ok := e.Written[id]
	return ok && newest.Sub(at) < crashWindow
}

// review looks through the metadata for shards that this node owns since its last look. A shard that is newer than
// the last look is whole, and empty: this node hears of every write to it. One that is older was given to it later,
// or its disk is new.
func (l *ledger) review(at look) error {
	st := l.meta.State()
	me := l.meta.NodeID()
	if st.Data.ClusterID == 0 || me == 0 {
		l.mu.Lock()
		l.refresh()
		l.mu.Unlock()
		return nil
	}
	at.now = l.version()
	advanced := false // there is a shard that is newer than those of the look before
	var gone []uint64
	err := l.update(func(set func(uint64, record)) {
		live, had := make(shardSet), make(shardSet)
		for _, sh := range st.Shards() {
			owner := slices.Contains(sh.Owners, me)
			// A node that does not own a shard owned it before, or is about to become an owner: see Copied. Who has
			// older metadata may read what the former owner still has.
			former := !owner && (at.starting || l.had.has(sh.ID))
			if owner || former && l.engine.Has(sh.ID) {
				had[sh.ID] = struct{}{}
			}
			if owner || !former || had.has(sh.ID) {
				live[sh.ID] = struct{}{}
			}
			if !owner {
				continue
			}
			if r, changed := l.reviewShard(sh, at); changed {
				set(sh.ID, r)
			}
		}
		l.had = had
		gone = l.records.removeAllBut(live, st.Data.MaxShardID)
		advanced = l.folders.self.lookedUntil(st.Data.MaxShardID)
	})
	if err != nil || !advanced && len(gone) == 0 {
		return err
	}
	return l.saveReview(gone)
}

// reviewShard is what is to be remembered of a shard that this node owns. mu must be held.
func (l *ledger) reviewShard(sh cluster.Shard, at look) (r record, changed bool) {
	r, known := l.records.byShard[sh.ID]
	before := r
	has := l.engine.Has(sh.ID)
	first := !l.folders.self.Reviewed
	older := known || first || sh.ID <= l.folders.self.Newest // than this look
	switch {
	case len(sh.Owners) < 2 || !older || at.adopt:
	case at.oldDisk && has:
		l.records.lack(&r, Outdated, "its data folder is older than it was")
	case at.newDisk:
		l.records.lack(&r, Lost, "the disk of its node is new")
	case first:
		l.records.lack(&r, Lost, "its node is new")
	case at.starting && r.Had && !has:
		l.records.lack(&r, Lost, "its node lost it")
	case at.crashed && l.engine.underWay(sh.ID) && r.Lacks == "":
		l.records.lack(&r, Missed,
			"its node went down while writes were on their way: it waits until a repair has compared it "+
				"with the other copies, for seconds, or about as long as [anti-entropy] settle where they have different values")
	case !known:
		l.records.lack(&r, Lost, "its node became an owner later, and does not have all of it yet")
	}
	if has && r.beside() == Lost && before.beside() != Lost { // a write began it before this look
		r.Anew = max(r.Anew, at.now)
	}
	r.Had = r.Had || has
	return r, !known || r != before
}

// saveReview stores until where the metadata was looked through, and which shards are not there any more.
func (l *ledger) saveReview(gone []uint64) error {
	c := change{shards: make(map[uint64]*record)}
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	for _, id := range gone {
		if _, again := l.records.byShard[id]; !again {
			c.shards[id] = nil
		}
	}
	next := l.folders.self // here: a mark that was stored meanwhile must not be stored over
	l.mu.Unlock()
	c.self = &next
	return l.store.save(c)
}

// lookedUntil notes that the metadata was looked through until a shard. It reports whether that is news.
func (s *self) lookedUntil(shard uint64) bool {
	if s.Reviewed && shard <= s.Newest {
		return false
	}
	s.Newest, s.Reviewed = max(s.Newest, shard), true
	return true
}
