package copystate

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Lack is what a copy lacks for good, until a repair brings it.
type Lack struct {
	Kind Kind   // empty when nothing is known to be missing
	Why  string // for people
	Gen  uint64 // another for each time that something was missed, or that the copy was removed or made of another's
	// After is what a Stale copy lacks when the deletes have run on it. A node of an earlier version leaves it empty,
	// which means Outdated.
	After Kind
}

// OnlyDeletes reports whether the copy has no old values, but deletes may not have run on it.
func (l Lack) OnlyDeletes() bool { return l.Kind == Stale && l.After != "" && Outdated.Worse(l.After) }

// records is what a node remembers of the shards that it owns, and which of its copies lack something.
type records struct {
	byShard   map[uint64]record
	lacking   shardSet // those that lack something
	expecting shardSet // those of lacking for which writes wait as well: these come first
	toTell    shardSet // those of lacking for Events.Found: no writes wait for them any more, or they missed more
	gen       uint64   // the greatest Lack.Gen
	missed    uint64   // the Lack.Gen that a whole copy got when it missed something; of the last such copy
}

func newRecords(byShard map[uint64]record) records {
	r := records{byShard: byShard, lacking: make(shardSet), toTell: make(shardSet), gen: uint64(time.Now().UnixNano())}
	for _, one := range byShard {
		r.gen = max(r.gen, one.Gen)
		if one.Lacks != "" {
			r.missed = max(r.missed, one.Gen)
		}
	}
	r.gen += rand.Uint64() >> 24 // the time may have been set back, and the last ones may not be on disk
	for id, one := range byShard {
		if one.Lacks != "" {
			r.renewGen(&one) // it may have got another one that is not on disk
		}
		r.set(id, one) // which sees nothing newly missed
	}
	return r
}

// missedLast is 0 when no copy lacks anything. Otherwise it is another number each time that a copy which was whole
// misses something. A copy that cannot be repaired and misses more and more does not change it.
func (r *records) missedLast() uint64 {
	if len(r.lacking) == 0 {
		return 0
	}
	return max(1, r.missed)
}

// set changes a record.
func (r *records) set(id uint64, one record) {
	if one.Lacks != "" && r.byShard[id].Lacks == "" {
		r.missed = one.Gen
	}
	r.byShard[id] = one
	if delete(r.lacking, id); one.Lacks != "" {
		r.lacking[id] = struct{}{}
	}
}

// renewGen gives a copy another Lack.Gen: comparisons that began before say nothing of it any more.
func (r *records) renewGen(one *record) {
	r.gen++
	one.Gen = r.gen
}

// lack adds to what a copy lacks. The kind is not Stale.
func (r *records) lack(one *record, kind Kind, why string) {
	r.renewGen(one)
	switch {
	case !kind.Worse(one.beside()):
	case one.Lacks == Stale:
		one.After = kind
	default:
		one.Lacks, one.Why = kind, why
	}
}

// lackDeletes notes that deletes which other nodes may know may not have run on a copy. Once these have run, the copy
// lacks the worse of what it lacked before and of after.
func (r *records) lackDeletes(one *record, after Kind, why string) {
	if before := one.beside(); before.Worse(after) {
		after = before
	}
	r.lack(one, after, why)
	if one.Lacks != Stale {
		one.Lacks, one.Why = Stale, why
	}
	one.After = after
}

// expect takes over for which shards writes wait.
func (r *records) expect(waiting shardSet) {
	expecting := make(shardSet)
	for id := range r.lacking {
		if waiting.has(id) {
			expecting[id] = struct{}{}
		} else if r.expecting.has(id) {
			r.toTell[id] = struct{}{}
		}
	}
	r.expecting = expecting
}

// takeToTell returns the copies that Events.Found is to be told of again, once.
func (r *records) takeToTell() []uint64 {
	ids := r.toTell.sorted()
	clear(r.toTell)
	return ids
}

// removeAllBut forgets shards that are not live. It returns them. Those that are newer than the newest known shard
// stay.
func (r *records) removeAllBut(live shardSet, newest uint64) (gone []uint64) {
	for id := range r.byShard {
		if !live.has(id) && id <= newest {
			delete(r.byShard, id)
			delete(r.lacking, id)
			gone = append(gone, id)
		}
	}
	return gone
}

// forget forgets all, and adds to a change what has to be removed from disk.
func (r *records) forget(c *change) {
	for id := range r.byShard {
		c.shards[id] = nil
	}
	clear(r.byShard)
	clear(r.lacking)
}

// Begin is called before a write makes this node's copy of a shard. A copy that the node had before, or that others
// may have had before this node's disk was new, lacks what was written earlier. It is on disk when Begin returns.
func (l *ledger) Begin(id uint64) error {
	now := l.version()
	return l.update(func(set func(uint64, record)) {
		r, known := l.records.byShard[id]
		// Once: a repair that runs brings what was lost, and begins the copy, too.
		if lost := r.Had || !known && id <= l.folders.self.Newest; lost && Lost.Worse(r.beside()) {
			l.records.lack(&r, Lost, "its node lost it, and has only what was written since")
		}
		if r.beside() == Lost { // noted here or before
			r.Anew = max(r.Anew, now)
		}
		r.Had = true
		set(id, r)
	})
}

// Copied is called before this node's copy of a shard is made of another's, which may get writes meanwhile.
func (l *ledger) Copied(id uint64) error {
	now := l.version()
	return l.update(func(set func(uint64, record)) {
		r := l.records.byShard[id]
		r.Had, r.Anew = true, max(r.Anew, now)
		if r.Lacks == "" {
			l.records.lack(&r, Missed, "it was copied, and is not compared with the other copies yet")
		} else {
			l.records.renewGen(&r) // what was found equal to the others before is another copy
		}
		set(id, r)
		delete(l.had, id) // this node may be about to own it again
	})
}

// GotUnversioned is called before a repair makes this node's copy of a shard out of points, or writes points whose
// versions are not known to it while older writes may still arrive. It does not note that the copy is there, as it may
// not be made. A shard that this node has not looked at has no record yet: review makes it, and notes what was lost.
func (l *ledger) GotUnversioned(id uint64) error {
	now := l.version()
	return l.update(func(set func(uint64, record)) {
		if r, known := l.records.byShard[id]; known {
			r.Anew = max(r.Anew, now)
			set(id, r)
		}
	})
}

// Whole is called when a comparison found that a copy lacks nothing. gen is its Lack.Gen from before the comparison. If
// that has changed, the copy has missed something since, and Whole changes nothing.
func (l *ledger) Whole(id, gen uint64) error {
	return l.update(func(set func(uint64, record)) {
		r := l.records.byShard[id]
		if r.Lacks == "" || r.Gen != gen {
			return
		}
		l.log.Info("A copy is whole again", zap.Uint64("db_shard_id", id), zap.String("before", r.Why))
		set(id, record{Had: l.engine.Has(id), Anew: r.Anew})
	})
}

// Stale returns the Lack.Gen of this node's stale copies, by shard. rolledBack are those that are Outdated once they
// have caught up. They may lack deletes with versions above since, which is 0 when the moment is not known. Copies in
// either map may lack deletes that nobody keeps for them.
func (l *ledger) Stale() (rolledBack, others map[uint64]uint64, since uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rolledBack, others = make(map[uint64]uint64), make(map[uint64]uint64)
	for id := range l.records.lacking {
		switch r := l.records.byShard[id]; {
		case r.Lacks != Stale:
		case r.After != Outdated:
			others[id] = r.Gen
		default:
			if rolledBack[id] = r.Gen; since == 0 || r.Since != 0 && r.Since < since {
				since = r.Since
			}
		}
	}
	return rolledBack, others, since
}

// CaughtUp is called when deletes that other nodes remember have run on copies that Stale returned. all is false when
// some of these deletes must not run here: the copies are Outdated then. A copy whose Gen has changed stays Stale. The
// error says that copies.db could not be written.
func (l *ledger) CaughtUp(stale map[uint64]uint64, all bool) error {
	return l.update(func(set func(uint64, record)) {
		for id, gen := range stale {
			if r := l.records.byShard[id]; r.Lacks == Stale && r.Gen == gen {
				r.Lacks, r.Since, r.After = r.After, 0, ""
				if !all {
					r.Lacks = Outdated
				}
				l.records.renewGen(&r) // it lacks something else: a repair that failed is tried at once
				set(id, r)
			}
		}
	})
}

// Discarded is called when a copy that was Outdated or Stale was removed: from now on it lacks what it had, and no
// more.
func (l *ledger) Discarded(id uint64) error {
	now := l.version()
	return l.update(func(set func(uint64, record)) {
		r := l.records.byShard[id]
		if r.Why == "" {
			r.Why = "it was removed, to be made anew"
		}
		r.Lacks, r.Since, r.After, r.Anew = Lost, 0, "", max(r.Anew, now)
		l.records.renewGen(&r) // who compared the copy that was removed must not say that the next one is whole
		set(id, r)
	})
}

// Missed is called when this node's copy of a shard turns out to lack writes that nobody keeps for it.
func (l *ledger) Missed(shard uint64, why string) {
	if !l.missedAgain(shard) {
		l.missed([]uint64{shard}, why)
	}
}

// missedAgain reports whether it is on disk already that a copy lacks writes. Then the copy only gets another Lack.Gen,
// in memory, and Events.Found is told of it with the next tick: a queue of old writes tells of the same copy with each
// message. After a start all copies that lack something have another one, too.
func (l *ledger) missedAgain(id uint64) bool {
	l.saving.Lock()
	defer l.saving.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records.byShard[id]
	if r.Lacks == "" || Missed.Worse(r.beside()) || l.unsaved.has(id) {
		return false
	}
	l.records.renewGen(&r)
	l.records.byShard[id] = r
	l.records.toTell[id] = struct{}{}
	return true
}

// MissedAll is Missed of all copies of this node that other nodes have, too.
func (l *ledger) MissedAll(why string) error {
	return l.missed(slices.Collect(maps.Keys(l.owned(l.meta.State()))), why)
}

// missed notes that copies of this node lack something that hinted handoff does not bring: it is lost, or its holder
// is away. Shard 0 means that deletes are missing on all copies that other nodes have too. A shard that is newer than
// this node's metadata is noted as well, as this node may own it: the node that tells of it forgets it afterwards.
func (l *ledger) missed(shards []uint64, why string) error {
	err := l.update(func(set func(uint64, record)) {
		st := l.meta.State()
		owned := l.owned(st)
		for _, id := range shards {
			if id == allShards {
				for id := range owned {
					r := l.records.byShard[id]
					l.records.lackDeletes(&r, Missed, why)
					set(id, r)
				}
			} else if owned[id] || id > st.Data.MaxShardID {
				r := l.records.byShard[id]
				l.records.lack(&r, Missed, why)
				set(id, r)
			}
		}
	})
	if err != nil {
		l.log.Error("Cannot write copies.db, and goes on trying: that copies of this node lack writes or deletes is "+
			"in memory only. After a crash, they may count as whole", zap.Error(err))
	}
	return err
}

// rolledBack marks all copies of this node that other nodes have, too: its folders are as they were at a moment that is
// not before the version since.
func (l *ledger) rolledBack(since uint64) error {
	return l.update(func(set func(uint64, record)) {
		for id := range l.owned(l.meta.State()) {
			r := l.records.byShard[id]
			if since != 0 && (r.Since == 0 || since < r.Since) {
				r.Since = since
			}
			l.records.lackDeletes(&r, Outdated, "the folders of its node are older than they were")
			set(id, r)
		}
	})
}

// update changes records by set with mu held, and stores them. When they cannot be stored, it is remembered what copies
// lack, to be stored later, and nothing else has changed.
func (l *ledger) update(fn func(set func(id uint64, r record))) error {
	l.saving.Lock()
	defer l.saving.Unlock()
	c := change{shards: make(map[uint64]*record)}
	var found, news []uint64
	before := make(map[uint64]record)
	l.mu.Lock()
	fn(func(id uint64, r record) {
		old := l.records.byShard[id]
		if _, again := before[id]; !again {
			before[id] = old
		}
		if r.Lacks != "" && (r.Lacks != old.Lacks || r.Gen != old.Gen) {
			if found = append(found, id); old.Lacks == "" {
				news = append(news, id)
			}
		}
		l.records.set(id, r)
		c.shards[id] = &r
	})
	l.refresh()
	l.mu.Unlock()
	if len(c.shards) == 0 {
		return nil
	}
	if err := l.store.save(c); err != nil {
		for _, id := range l.takeBack(before) {
			l.unsaved[id] = struct{}{}
		}
		return err
	}
	for id := range c.shards {
		delete(l.unsaved, id)
	}
	if len(news) > 0 {
		l.log.Warn("Copies of this node are not whole: they are repaired from the other copies",
			zap.Int("shards", len(news)),
			zap.Uint64("db_shard_id", news[0]), zap.String("reason", l.Lacks(news[0]).Why))
	}
	switch len(found) {
	case 0:
	case 1:
		l.found(found[0])
	default:
		l.found(0)
	}
	return nil
}
