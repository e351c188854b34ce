package view

import (
	"cmp"
	"slices"

	"concord/internal/cluster"
	"concord/internal/entropy"
)

// merge makes one status of those of all nodes.
type merge struct {
	live   map[uint64]cluster.Shard // that it is about
	shards map[uint64]found
	out    ClusterStatus
}

// found is what a node says of a shard.
type found struct {
	entropy.ShardStatus
	first bool // it is the first owner, which compares all
}

// add takes in the status of a node.
func (m *merge) add(node uint64, st entropy.NodeStatus) {
	for _, s := range st.Shards {
		if sh, ok := m.live[s.ID]; ok {
			m.addShard(found{s, len(sh.Owners) > 0 && sh.Owners[0] == node})
		}
	}
	for _, id := range st.Queued {
		if _, ok := m.live[id]; ok {
			m.out.Queued = append(m.out.Queued, id)
		}
	}
	for _, id := range st.Processing {
		if _, ok := m.live[id]; ok {
			m.out.Processing = append(m.out.Processing, id)
		}
	}
}

// addShard decides whose word about a shard counts: that of an owner whose copy is corrupt, which alone knows it, and
// then that of the first owner.
func (m *merge) addShard(s found) {
	old, ok := m.shards[s.ID]
	switch {
	case ok && old.Status == entropy.Corrupt && s.Status == entropy.Corrupt:
		old.Message += "; " + s.Message
		m.shards[s.ID] = old
	case ok && old.Status == entropy.Corrupt:
	case !ok || s.Status == entropy.Corrupt || s.first && !old.first:
		m.shards[s.ID] = s
	}
}

// status is the merged status, each list ascending.
func (m *merge) status() ClusterStatus {
	out := m.out
	for id, s := range m.shards {
		out.Shards = append(out.Shards, ShardEntry{Shard: m.live[id], Status: s.Status, Message: s.Message})
	}
	slices.SortFunc(out.Shards, func(a, b ShardEntry) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(out.Queued)
	slices.Sort(out.Processing)
	out.Queued, out.Processing = slices.Compact(out.Queued), slices.Compact(out.Processing)
	slices.Sort(out.Unreachable)
	return out
}
