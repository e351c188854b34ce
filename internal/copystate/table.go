package copystate

import (
	"errors"
	"maps"
	"slices"

	"concord/internal/rpc"
)

// allShards stands for all shards of a node: a delete waits for it, and its database is not known.
const allShards uint64 = 0

// maxEntries bounds the shards of one table that another node sends.
const maxEntries = 1 << 20

// shardSet is a set of shard IDs.
type shardSet map[uint64]struct{}

func newShardSet(ids []uint64) shardSet {
	s := make(shardSet, len(ids))
	for _, id := range ids {
		s[id] = struct{}{}
	}
	return s
}

func (s shardSet) sorted() []uint64 { return slices.Sorted(maps.Keys(s)) }

// has reports whether the set has a shard, or all of them.
func (s shardSet) has(id uint64) bool {
	_, ok := s[id]
	if !ok {
		_, ok = s[allShards]
	}
	return ok
}

// version orders the tables of one holder.
type version struct {
	folder   string // names the holder's files
	start    uint64
	sequence uint64
}

func (v version) newer(than version) bool {
	return v.start > than.start || v.start == than.start && v.sequence > than.sequence
}

// table is what one node, its holder, keeps for others: for each of them the shards whose copies lack it.
type table struct {
	version
	former []string // names that the holder's files had earlier, the latest last
	owed   map[uint64]shardSet
}

func (t table) equal(owed map[uint64]shardSet) bool {
	return maps.EqualFunc(t.owed, owed, func(a, b shardSet) bool { return maps.Equal(a, b) })
}

func (t table) encode(holder uint64) *rpc.OwedTable {
	m := &rpc.OwedTable{Version: t.version.encode(holder), Former: t.former}
	for _, node := range slices.Sorted(maps.Keys(t.owed)) {
		m.Owed = append(m.Owed, &rpc.Owed{Node: node, Shards: t.owed[node].sorted()})
	}
	return m
}

func (v version) encode(holder uint64) *rpc.TableVersion {
	return &rpc.TableVersion{Holder: holder, Folder: v.folder, Start: v.start, Sequence: v.sequence}
}

func decodeVersion(m *rpc.TableVersion) version {
	return version{m.GetFolder(), m.GetStart(), m.GetSequence()}
}

// decodeVersions returns the versions by holder.
func decodeVersions(ms []*rpc.TableVersion) map[uint64]version {
	out := make(map[uint64]version, len(ms))
	for _, m := range ms {
		out[m.GetHolder()] = decodeVersion(m)
	}
	return out
}

func decodeTable(m *rpc.OwedTable) (table, error) {
	t := table{version: decodeVersion(m.Version), former: decodeNames(m.Former), owed: make(map[uint64]shardSet)}
	if len(t.folder) > maxName {
		return table{}, errors.New("the name of a folder is too long")
	}
	n := 0
	for _, o := range m.Owed {
		if n += len(o.Shards); n > maxEntries {
			return table{}, errors.New("a table of what a node owes to others is too long")
		}
		if len(o.Shards) > 0 {
			t.owed[o.Node] = newShardSet(o.Shards)
		}
	}
	return t, nil
}

// decodeNames returns the earlier names of a folder, as many as this node remembers.
func decodeNames(names []string) []string {
	return slices.DeleteFunc(latest(names), func(name string) bool { return len(name) > maxName })
}
