package copystate

import (
	"maps"
	"slices"
)

// own is what this node keeps for others, or has lost for them.
type own struct {
	table                     // its version is told with it
	lost  map[uint64]shardSet // of table.owed, what nobody keeps any more and its node does not know yet
	// of lost, what a node is being told of, and did not lose once more since; in memory alone
	telling map[uint64]shardSet
}

// tellLost returns what a request to a node says that it lost. When the answer shows that the node has stored it,
// toldLost forgets it.
func (o *own) tellLost(node uint64) []uint64 {
	if o.telling == nil {
		o.telling = make(map[uint64]shardSet)
	}
	o.telling[node] = maps.Clone(o.lost[node])
	return o.lost[node].sorted()
}

// toldLost forgets which of some shards a node has noted itself, and did not lose again.
func (o *own) toldLost(node uint64, shards []uint64) {
	for _, id := range shards {
		if _, told := o.telling[node][id]; told {
			delete(o.lost[node], id)
			delete(o.telling[node], id)
		}
	}
}

// dropEmpty forgets the nodes that have noted all, once that is on disk.
func (o *own) dropEmpty() {
	for node, shards := range o.lost {
		if len(shards) == 0 {
			delete(o.lost, node)
			delete(o.telling, node)
		}
	}
}

func (o *own) addLost(node, shard uint64) {
	delete(o.telling[node], shard)
	if o.lost[node] == nil {
		o.lost[node] = make(shardSet)
	}
	o.lost[node][shard] = struct{}{}
}

// lostChange is what disk has to have of lost.
func (o *own) lostChange() map[uint64]*shardSet {
	out := make(map[uint64]*shardSet, len(o.lost))
	for node, shards := range o.lost {
		out[node] = nil
		if len(shards) > 0 {
			set := newShardSet(shards.sorted())
			out[node] = &set
		}
	}
	return out
}

// with adds what was lost to what this node keeps.
func (o *own) with(kept map[uint64][]uint64) map[uint64]shardSet {
	out := make(map[uint64]shardSet)
	for node, ids := range kept {
		if len(ids) > 0 {
			out[node] = newShardSet(ids)
		}
	}
	for node, shards := range o.lost {
		if out[node] == nil {
			out[node] = make(shardSet)
		}
		maps.Copy(out[node], shards)
	}
	return out
}

// forget forgets what was lost, and adds to a change what has to be removed from disk.
func (o *own) forget(c *change) {
	for id := range o.lost {
		c.lost[id] = nil
	}
	clear(o.lost)
}

// Owes returns those of the shards for whose copies on a node this node keeps writes or deletes. What it keeps counts
// from before it is acknowledged until about a second after it was brought there.
func (k *knowledge) Owes(node uint64, ids []uint64) []uint64 {
	owed := k.owing.Load().owed[node]
	if len(owed) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return !owed.has(id) })
}

// renewOwn gives this node's table the name and the start of its folders, and another version. mu must be held.
func (k *knowledge) renewOwn() {
	self := k.folders.self
	k.own.version = version{self.Folder, self.Start, k.own.sequence + 1}
	k.own.former = self.Former
}

// refreshOwn takes over what this node owes to others now. mu must be held.
func (k *knowledge) refreshOwn() {
	owed := k.own.with(k.kept())
	if k.own.equal(owed) {
		return
	}
	self := k.meta.NodeID()
	mine := !maps.Equal(k.own.owed[self], owed[self])
	k.own.owed = owed
	k.own.sequence++
	k.owing.Store(&table{owed: owed})
	if self != 0 {
		k.holders.set(self, k.own.table) // stored, to be compared with what is left after a restart
	}
	if mine {
		k.refresh()
	}
}
