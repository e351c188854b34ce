package copystate

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// knowledge is what a node knows of copies, in memory. Its parts are guarded by mu. From them it makes what readers
// look up without a lock: facts and owing. It writes to no file, and asks no other node.
type knowledge struct {
	meta Metadata
	kept func() map[uint64][]uint64 // Hints.Owed

	mu      sync.Mutex
	folders folders // of this node
	records records // what its copies lack
	holders holders // what other nodes keep
	own     own     // what it keeps for others

	facts atomic.Pointer[facts] // what Unfit looks up
	owing atomic.Pointer[table] // own, for Owes
}

// newKnowledge is what a node knows of what it has on disk.
func newKnowledge(meta Metadata, kept func() map[uint64][]uint64, st *state) *knowledge {
	return &knowledge{
		meta: meta, kept: kept,
		folders: folders{self: st.self},
		records: newRecords(st.shards),
		holders: holders{
			tables: st.tables, voided: make(map[uint64]version), marks: st.marks,
			dirty: make(map[uint64]bool), dirtyMarks: make(map[uint64]bool),
		},
		own: own{lost: st.lost},
	}
}

// begin begins a start of the node: what it kept for others when it stopped and does not keep now is lost.
func (k *knowledge) begin() {
	me := k.meta.NodeID()
	owed := k.own.with(k.kept())
	for node, shards := range k.holders.tables[me].owed {
		for id := range shards {
			if node != me && !owed[node].has(id) {
				k.own.addLost(node, id)
			}
		}
	}
	k.own.owed, k.own.sequence = k.own.with(k.kept()), 1
	k.owing.Store(&table{owed: k.own.owed})
	if me != 0 {
		k.holders.set(me, k.own.table)
	}
}

// refresh makes the facts anew. mu must be held.
func (k *knowledge) refresh() {
	f := &facts{shards: make(map[uint64]Unfit), waiting: make(shardSet)}
	self := k.meta.NodeID()
	for id := range k.records.lacking {
		rank := rankLost
		if k.records.byShard[id].Lacks == Missed {
			rank = rankMissed
		}
		f.shards[id] = Unfit{Reason: k.records.byShard[id].Why, Readable: true, Rank: rank}
	}
	for holder, t := range k.holders.tables {
		if holder != self && k.holders.counts(holder, t) {
			f.wait("data node "+k.addr(holder), t.owed[self])
		}
	}
	if f.all != nil {
		f.deletes = time.Now()
		if before := k.facts.Load(); before != nil && !before.deletes.IsZero() {
			f.deletes = before.deletes
		}
	}
	f.wait("this node itself", k.own.owed[self])
	k.records.expect(f.waiting)
	k.facts.Store(f)
}

// takeBack makes records as they were before, except where a copy lacks something now. It returns the shards whose
// copies lack something: what is on disk of them is not known.
func (k *knowledge) takeBack(before map[uint64]record) (lacking []uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	missed := k.records.missed
	for id, r := range before {
		if k.records.byShard[id].Lacks == "" {
			k.records.set(id, r)
		}
		if k.records.byShard[id].Lacks != "" {
			lacking = append(lacking, id)
		}
	}
	k.records.missed = missed // what a copy lacked before is nothing new
	k.refresh()
	return lacking
}

// takeOver makes this node tell others what a holder kept for them that lost it. It returns what it kept for this
// node. mu must be held.
func (k *knowledge) takeOver(old table) (mine []uint64) {
	me := k.meta.NodeID()
	for node, shards := range old.owed {
		for id := range shards {
			if node == me {
				mine = append(mine, id)
			} else {
				k.own.addLost(node, id)
			}
		}
	}
	return mine
}

// addr names a node for people.
func (k *knowledge) addr(node uint64) string {
	if n, ok := k.meta.State().DataNode(node); ok {
		return n.TCPAddr
	}
	return fmt.Sprintf("%d, which left the cluster,", node)
}

// holdsPlace reports whether the cluster has given the place of a message's sender to its folders, as far as this node
// knows.
func (k *knowledge) holdsPlace(m *rpc.CopyStates) bool {
	n, _ := k.meta.State().DataNode(m.Node)
	return n.Identity == "" || m.Identity == "" || n.Identity == m.Identity
}

// owned are the shards of this node that others have, too.
func (k *knowledge) owned(st *cluster.State) map[uint64]bool {
	self, out := k.meta.NodeID(), make(map[uint64]bool)
	for _, sh := range st.Shards() {
		if len(sh.Owners) > 1 && slices.Contains(sh.Owners, self) {
			out[sh.ID] = true
		}
	}
	return out
}

// Waiting lists the nodes that keep writes or deletes for this node's copy of a shard, as far as this node knows.
func (k *knowledge) Waiting(id uint64) []uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	self := k.meta.NodeID()
	var out []uint64
	for holder, t := range k.holders.tables {
		if holder != self && k.holders.counts(holder, t) && t.owed[self].has(id) {
			out = append(out, holder)
		}
	}
	slices.Sort(out)
	return out
}

// Lacks returns what this node's copy of a shard lacks.
func (k *knowledge) Lacks(id uint64) Lack {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.records.byShard[id]
	return Lack{r.Lacks, r.Why, r.Gen, r.After}
}

// LastUnversioned is a version of this node's clock from before its copy of a shard was made anew the last time, or was
// one that GotUnversioned; 0 for never. What the other owners had by then came without versions.
func (k *knowledge) LastUnversioned(id uint64) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.records.byShard[id].Anew
}

// Lacking is not 0 while any copy of this node lacks something. It is another number after each time that a copy which
// was whole missed something.
func (k *knowledge) Lacking() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.records.missedLast()
}

// Marked is this node's mark as it is on its disk.
func (k *knowledge) Marked() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.folders.self.Mark
}

// DiskMark is this node's mark as other nodes are told of it.
func (k *knowledge) DiskMark() *rpc.DiskMark {
	k.mu.Lock()
	defer k.mu.Unlock()
	self := k.folders.self
	return &rpc.DiskMark{Node: k.meta.NodeID(), Folder: self.Folder, Start: self.Start, Mark: self.Mark}
}

// Hear takes over the mark of another node: something is on its disk that an older copy of the disk lacks. The mark is
// nil when the node is of an earlier version.
func (k *knowledge) Hear(m *rpc.DiskMark) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m != nil && m.Node != k.meta.NodeID() {
		k.holders.heardMark(m)
	}
}

// HeardMark is the greatest mark that this node has heard of another one.
func (k *knowledge) HeardMark(node uint64) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.holders.marks[node]
}

// count returns how many copies lack something, how many are not whole, and how many others lack what this node keeps.
func (k *knowledge) count() (lacking, notWhole, owed int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, shards := range k.own.owed {
		owed += len(shards)
	}
	return len(k.records.lacking), len(k.facts.Load().shards), owed
}
