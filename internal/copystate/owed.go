package copystate

import (
	"context"
	"maps"
	"slices"
)

// Owes returns those of the shards for whose copies on a node this node keeps writes or deletes. What it keeps counts
// from before it is acknowledged until about a second after it was brought there.
func (s *Service) Owes(node uint64, ids []uint64) []uint64 {
	owed := s.owing.Load().owed[node]
	if len(owed) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return !owed.has(id) })
}

// Announce returns when the other nodes that can be reached know that a copy on a node lacks a write or a delete
// which this node keeps, or did not bring there. It is called before such a write is acknowledged, and costs nothing
// while they know.
func (s *Service) Announce(node, shard uint64) {
	s.mu.Lock()
	if s.own.owed[node].has(shard) && s.told() {
		s.mu.Unlock()
		return
	}
	s.refreshOwn()
	due := s.own.sequence
	attempt := make(map[*peer]uint64, len(s.peers))
	for _, p := range s.peers {
		if !p.away() || p.refused { // one that was down may be up again, and is asked at no cost
			attempt[p] = p.begun + 1
		}
		notify(p.kick)
	}
	s.mu.Unlock()
	s.stats.announced.Add(1)
	ctx, cancel := context.WithTimeout(context.Background(), exchangeTimeout)
	defer cancel()
	s.await(ctx, func() bool {
		for p, n := range attempt {
			if p.told < due && (p.ended < n || p.reached) && s.peers[p.node.ID] == p {
				return false
			}
		}
		return true
	})
}

// told reports whether all nodes that can be reached have this node's table. mu must be held.
func (s *Service) told() bool {
	for _, p := range s.peers {
		if !p.away() && p.told < s.own.sequence {
			return false
		}
	}
	return true
}

// owed is what this node keeps for others now. It includes what was lost for good and not told yet.
func (s *Service) owed() map[uint64]shardSet {
	out := make(map[uint64]shardSet)
	for node, ids := range s.deps.Owed() {
		if len(ids) > 0 {
			out[node] = newShardSet(ids)
		}
	}
	for node, shards := range s.lost {
		if out[node] == nil {
			out[node] = make(shardSet)
		}
		maps.Copy(out[node], shards)
	}
	return out
}

// refreshOwn takes over what this node owes to others now. mu must be held.
func (s *Service) refreshOwn() {
	owed := s.owed()
	if s.own.equal(owed) {
		return
	}
	self := s.deps.Meta.NodeID()
	mine := !maps.Equal(s.own.owed[self], owed[self])
	s.own.owed = owed
	s.own.sequence++
	s.owing.Store(&table{owed: owed})
	if self != 0 {
		s.tables[self] = s.own // stored, to be compared with what is left after a restart
		s.dirty[self] = true
	}
	if mine {
		s.refresh()
	}
}
