package copystate

import (
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
)

// Lack is what a copy lacks for good, until a repair brings it.
type Lack struct {
	Kind Kind   // empty when nothing is known to be missing
	Why  string // for people
	Gen  uint64 // another for each time that something was missed
}

// Lacks returns what this node's copy of a shard lacks.
func (s *Service) Lacks(id uint64) Lack {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[id]
	return Lack{r.Lacks, r.Why, r.Gen}
}

// Begin is called before a write makes this node's copy of a shard. A copy that the node had before, or that others
// may have had before this node's disk was new, lacks what was written earlier. It is on disk when Begin returns.
func (s *Service) Begin(id uint64) error {
	return s.update(func(set func(uint64, record)) {
		r, known := s.records[id]
		// Once: a repair that runs brings what was lost, and begins the copy, too.
		if lost := r.Had || !known && id <= s.self.Newest; lost && Lost.Worse(r.Lacks) {
			s.lack(&r, Lost, "its node lost it, and has only what was written since")
		}
		r.Had = true
		set(id, r)
	})
}

// Copied is called before this node's copy of a shard is made of another's, which may get writes meanwhile.
func (s *Service) Copied(id uint64) error {
	return s.update(func(set func(uint64, record)) {
		r := s.records[id]
		r.Had = true
		if r.Lacks == "" {
			s.lack(&r, Missed, "it was copied, and is not compared with the other copies yet")
		}
		set(id, r)
	})
}

// Whole is called when a copy was found to have what a whole copy has. gen is Lack.Gen as it was before the two were
// compared: what was missed since stays missing.
func (s *Service) Whole(id, gen uint64) error {
	return s.update(func(set func(uint64, record)) {
		r := s.records[id]
		if r.Lacks == "" || r.Gen != gen {
			return
		}
		s.log.Info("A copy is whole again", zap.Uint64("db_shard_id", id), zap.String("before", r.Why))
		set(id, record{Had: s.deps.Has(id)})
	})
}

// Discarded is called when a copy that may have held deleted points was removed: from now on it lacks what it had,
// and no more.
func (s *Service) Discarded(id, gen uint64) error {
	return s.update(func(set func(uint64, record)) {
		if r := s.records[id]; r.Lacks == Stale && r.Gen == gen {
			r.Lacks = Lost
			set(id, r)
		}
	})
}

// Lose notes that a write or delete for a copy on another node, or on this one, is lost: nobody keeps it. Shard 0 is
// for all shards of the node.
func (s *Service) Lose(node, shard uint64) {
	if node == s.deps.Meta.NodeID() {
		s.missed([]uint64{shard}, "writes did not reach it, and are not kept for it")
		return
	}
	s.mu.Lock()
	known := s.lost[node].has(shard)
	s.mu.Unlock()
	if known {
		s.Announce(node, shard)
		return
	}
	s.saving.Lock()
	s.mu.Lock()
	s.addLost(node, shard)
	c := change{lost: s.lostChange()}
	s.refreshOwn()
	s.mu.Unlock()
	err := s.store.save(c)
	s.saving.Unlock()
	if err != nil {
		s.log.Error("Cannot store that a copy on another node lacks writes", zap.Error(err))
	}
	s.Announce(node, shard)
}

func (s *Service) addLost(node, shard uint64) {
	if s.lost[node] == nil {
		s.lost[node] = make(shardSet)
	}
	s.lost[node][shard] = struct{}{}
}

func (s *Service) lostChange() map[uint64]*shardSet {
	out := make(map[uint64]*shardSet, len(s.lost))
	for node, shards := range s.lost {
		out[node] = nil
		if len(shards) > 0 {
			set := newShardSet(shards.sorted())
			out[node] = &set
		}
	}
	return out
}

// Missed is called when this node's copy of a shard turns out to lack writes that nobody keeps for it.
func (s *Service) Missed(shard uint64, why string) { s.missed([]uint64{shard}, why) }

// Doubt marks all copies of this node that other nodes have, too: they may lack writes.
func (s *Service) Doubt(why string) error {
	return s.missed(slices.Collect(maps.Keys(s.owned(s.deps.Meta.State()))), why)
}

// missed marks copies of this node that lack what nobody keeps for them; 0 is for all that other nodes have too, of
// which deletes are lost.
func (s *Service) missed(shards []uint64, why string) error {
	err := s.update(func(set func(uint64, record)) {
		mark := func(id uint64, kind Kind) {
			r := s.records[id]
			s.lack(&r, kind, why)
			set(id, r)
		}
		owned := s.owned(s.deps.Meta.State())
		for _, id := range shards {
			if id == allShards {
				for id := range owned {
					mark(id, Stale)
				}
			} else if owned[id] {
				mark(id, Missed)
			}
		}
	})
	if err != nil {
		s.log.Error("Cannot store that copies lack writes", zap.Error(err))
	}
	return err
}

// lack adds to what a copy lacks. mu must be held.
func (s *Service) lack(r *record, kind Kind, why string) {
	s.gen++
	r.Gen = s.gen
	if kind.Worse(r.Lacks) {
		r.Lacks, r.Why = kind, why
	}
}

// Forget forgets all copies: this node has left its cluster, and another one may have the same numbers.
func (s *Service) Forget() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := change{shards: make(map[uint64]*record), tables: make(map[uint64]*table), lost: make(map[uint64]*shardSet), marks: make(map[uint64]*uint64)}
	for id := range s.records {
		c.shards[id] = nil
	}
	for id := range s.tables {
		c.tables[id] = nil
	}
	for id := range s.lost {
		c.lost[id] = nil
	}
	for id := range s.marks {
		c.marks[id] = nil
	}
	clear(s.records)
	clear(s.lacking)
	clear(s.tables)
	clear(s.voided)
	clear(s.lost)
	clear(s.marks)
	s.self.Newest, s.self.Reviewed = 0, false
	next := s.self
	c.self = &next
	s.refresh()
	return s.store.save(c)
}

// Lacking reports whether any copy of this node lacks something.
func (s *Service) Lacking() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lacking) > 0
}

// owned are the shards of this node that others have, too.
func (s *Service) owned(st *cluster.State) map[uint64]bool {
	self, out := s.deps.Meta.NodeID(), make(map[uint64]bool)
	for _, sh := range st.Shards() {
		if len(sh.Owners) > 1 && slices.Contains(sh.Owners, self) {
			out[sh.ID] = true
		}
	}
	return out
}

// update changes records by set with mu held, and stores them. When they cannot be stored, what copies lack is remembered
// until the node stops, and nothing else has changed.
func (s *Service) update(fn func(set func(id uint64, r record))) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	c := change{shards: make(map[uint64]*record)}
	var found, news []uint64
	before := make(map[uint64]record)
	s.mu.Lock()
	fn(func(id uint64, r record) {
		if _, again := before[id]; !again {
			before[id] = s.records[id]
		}
		if r.Lacks != "" {
			if found = append(found, id); s.records[id].Lacks == "" {
				news = append(news, id)
			}
		}
		s.setRecord(id, r)
		c.shards[id] = &r
	})
	s.refresh()
	s.mu.Unlock()
	if len(c.shards) == 0 {
		return nil
	}
	if err := s.store.save(c); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for id, r := range before {
			if s.records[id].Lacks == "" {
				s.setRecord(id, r)
			}
		}
		s.refresh()
		return err
	}
	if len(news) > 0 {
		s.log.Warn("Copies of this node are not whole: they are repaired from the other copies", zap.Int("shards", len(news)),
			zap.Uint64("db_shard_id", news[0]), zap.String("reason", s.Lacks(news[0]).Why))
	}
	switch len(found) {
	case 0:
	case 1:
		s.deps.Found(found[0])
	default:
		s.deps.Found(0)
	}
	return nil
}

// setRecord changes a record in memory. mu must be held.
func (s *Service) setRecord(id uint64, r record) {
	s.records[id] = r
	if delete(s.lacking, id); r.Lacks != "" {
		s.lacking[id] = struct{}{}
	}
}

// look says what is known of the folders when the metadata is looked through.
type look struct {
	starting bool // it is the first one since the start: the store has what is on disk, and no more
	newDisk  bool // the data folder is not the one of the last start
	adopt    bool // the data is from a version that did not keep copies.db
	crashed  bool // the node did not stop by itself
}

// crashWindow is how long before a crash a shard must have been written to for writes to have been on their way from
// its node.
const crashWindow = 30 * time.Second

// underWay reports whether writes to a shard may have been on their way when the node crashed: other owners may lack
// some that are here, and this copy some that are there.
func (s *Service) underWay(id uint64) bool {
	var newest time.Time
	for _, at := range s.deps.Written {
		if at.After(newest) {
			newest = at
		}
	}
	at, ok := s.deps.Written[id]
	return ok && newest.Sub(at) < crashWindow
}

// review looks through the metadata for shards that this node owns since its last look. A shard that is newer than
// the last look is whole, and empty: this node hears of every write to it. One that is older was given to it later,
// or its disk is new.
func (s *Service) review(at look) error {
	st := s.deps.Meta.State()
	me := s.deps.Meta.NodeID()
	if st.Data.ClusterID == 0 || me == 0 {
		s.mu.Lock()
		s.refresh()
		s.mu.Unlock()
		return nil
	}
	seen := false // a shard that is newer than those of the look before
	var gone []uint64
	err := s.update(func(set func(uint64, record)) {
		live := make(map[uint64]bool)
		first := !s.self.Reviewed
		for _, sh := range st.Shards() {
			if !slices.Contains(sh.Owners, me) {
				continue
			}
			live[sh.ID] = true
			r, known := s.records[sh.ID]
			old := r
			has := s.deps.Has(sh.ID)
			older := known || first || sh.ID <= s.self.Newest // than this look
			switch {
			case len(sh.Owners) < 2 || !older || at.adopt:
			case at.newDisk:
				s.lack(&r, Lost, "the disk of its node is new")
			case first:
				s.lack(&r, Lost, "its node is new")
			case at.starting && r.Had && !has:
				s.lack(&r, Lost, "its node lost it")
			case at.crashed && s.underWay(sh.ID) && r.Lacks == "":
				s.lack(&r, Missed, "its node went down while writes were on their way: it waits until a repair has compared it "+
					"with the other copies, for seconds, or about as long as [anti-entropy] settle where they have different values")
			case !known:
				s.lack(&r, Lost, "its node became an owner later, and does not have all of it yet")
			}
			if r.Had = r.Had || has; !known || r != old {
				set(sh.ID, r)
			}
		}
		for id := range s.records {
			if at.starting && !live[id] {
				delete(s.records, id)
				delete(s.lacking, id)
				gone = append(gone, id)
			}
		}
		if now := st.Data.MaxShardID; first || now > s.self.Newest {
			s.self.Newest, s.self.Reviewed = max(s.self.Newest, now), true
			seen = true
		}
	})
	if err != nil || !seen && len(gone) == 0 {
		return err
	}
	c := change{shards: make(map[uint64]*record)}
	for _, id := range gone {
		c.shards[id] = nil
	}
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	next := s.self // here: a mark that was stored meanwhile must not be stored over
	s.mu.Unlock()
	c.self = &next
	return s.store.save(c)
}
