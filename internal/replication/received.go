package replication

import (
	"slices"
	"sync"
	"time"

	"concord/internal/order"
	"concord/internal/rpc"
)

const (
	// maxReceived bounds the writes of one sender to one shard that are remembered.
	maxReceived = 1 << 16
	// maxSenders is how many processes and shards are kept without looking for old ones.
	maxSenders = 4096
	// maxReceivedBytes bounds the points that are kept of all of these writes.
	maxReceivedBytes = 32 << 20
	// receivedRecent is how long a write may be on its way to other owners, or in the memory of its sender.
	receivedRecent = time.Minute
)

// receivedKey is a process and a shard that it wrote to.
type receivedKey struct{ sender, shard uint64 }

// received is which writes of other nodes have reached this one and may not have reached all other owners. A node
// that goes down takes what was on its way with it: some owners have it, others do not, and nobody keeps it. The
// owners then send each other what they received (relay.go).
type received struct {
	mu    sync.Mutex
	m     map[receivedKey]*receivedFrom // by the sender's process and shard
	bytes int                           // of the points that are kept
	gone  map[uint64]time.Time          // processes that are gone, and since when that is known
}

type receivedFrom struct {
	node      uint64             // of the sender
	at        time.Time          // when the last one came
	noneBelow uint64             // no write below it is under way: all have reached their owners, or wait for them
	writes    map[uint64]arrived // those from noneBelow on
}

// arrived is a write as it came from another node.
type arrived struct {
	version order.Version          // 0 of a node from before there were versions
	request *rpc.WriteShardRequest // nil when the points are not kept
	batch   *rpc.WriteBatchRequest // has the points; nil when the request itself has them
	part    bool                   // this node refused some of the points
	taken   bool                   // the other owners are told of it
}

// size is that of the points, in bytes.
func (a arrived) size() (bytes int) {
	if a.batch != nil {
		return len(a.batch.Batch)
	}
	for _, p := range a.request.GetPoints() {
		bytes += len(p)
	}
	return bytes
}

// add remembers a write that this node has now.
func (r *received) add(a arrived) {
	m := a.request
	if m.Write == 0 || m.Sender == 0 || m.SenderNode == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Relayed { // the node that sends it on knows that
		r.noteGone(m.Sender)
	}
	key := receivedKey{m.Sender, m.ShardId}
	from := r.m[key]
	if from == nil {
		if len(r.m) >= maxSenders {
			r.forgetOld()
		}
		from = &receivedFrom{node: m.SenderNode, writes: make(map[uint64]arrived)}
		if r.m == nil {
			r.m = make(map[receivedKey]*receivedFrom)
		}
		r.m[key] = from
	}
	from.at = time.Now()
	if m.NoneUnderWayBelow > from.noneBelow {
		from.noneBelow = m.NoneUnderWayBelow
		for w, old := range from.writes {
			if w < from.noneBelow {
				delete(from.writes, w)
				r.bytes -= old.size()
			}
		}
	}
	before, has := from.writes[m.Write]
	if has && (a.part || !before.part) || m.Write < from.noneBelow || len(from.writes) >= maxReceived {
		return
	}
	a.taken = before.taken
	r.bytes -= before.size()
	size := a.size()
	if r.bytes+size > maxReceivedBytes {
		r.forgetPoints()
	}
	a.version = order.Version(m.Version)
	if r.bytes+size > maxReceivedBytes || a.version == 0 {
		a, size = arrived{version: a.version, part: a.part, taken: a.taken}, 0
	}
	from.writes[m.Write] = a
	r.bytes += size
}

// below is told by a process below which version it has nothing under way. Its writes below that have reached all
// owners, or wait for them, and are forgotten.
func (r *received) below(sender uint64, underWay order.Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.gone, sender) // who took it for gone could not reach it
	for key, from := range r.m {
		if key.sender != sender {
			continue
		}
		for w, a := range from.writes {
			if a.version != 0 && a.version < underWay {
				from.noneBelow = max(from.noneBelow, w+1)
				r.bytes -= a.size()
				delete(from.writes, w)
			}
		}
	}
}

// noteGone notes that a process is gone. mu must be held.
func (r *received) noteGone(sender uint64) {
	if r.gone == nil {
		r.gone = make(map[uint64]time.Time)
	}
	if _, ok := r.gone[sender]; !ok {
		r.gone[sender] = time.Now()
	}
}

// forgetGone forgets what came from processes that are gone for long: the other owners were told of it.
func (r *received) forgetGone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for sender, since := range r.gone {
		if time.Since(since) >= receivedKeeps {
			delete(r.gone, sender)
			for key := range r.m {
				if key.sender == sender {
					r.forget(key)
				}
			}
		}
	}
}

// forgetOld forgets writes that most likely have reached all owners, or wait for them. mu must be held.
func (r *received) forgetOld() {
	for key, from := range r.m {
		if from.old() {
			r.forget(key)
		}
	}
}

// forgetPoints forgets the points of such writes, but not that they came. mu must be held.
func (r *received) forgetPoints() {
	for _, from := range r.m {
		if !from.old() {
			continue
		}
		for w, a := range from.writes {
			r.bytes -= a.size()
			from.writes[w] = arrived{version: a.version, part: a.part, taken: a.taken}
		}
	}
}

// forget forgets what a process wrote to a shard. mu must be held.
func (r *received) forget(key receivedKey) {
	if from := r.m[key]; from != nil {
		for _, a := range from.writes {
			r.bytes -= a.size()
		}
		delete(r.m, key)
	}
}

// old reports whether the last write came so long ago that it has reached all owners, or waits for them.
func (f *receivedFrom) old() bool { return time.Since(f.at) > receivedRecent }

// lacks reports whether one of the writes has not come here, or not all of its points.
func (r *received) lacks(sender, shard uint64, writes []uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := r.m[receivedKey{sender, shard}]
	return slices.ContainsFunc(writes, func(w uint64) bool {
		if from == nil {
			return true
		}
		a, has := from.writes[w]
		return (!has || a.part) && w >= from.noneBelow
	})
}

// has reports whether a write has come here, as far as that is remembered.
func (r *received) has(m *rpc.WriteShardRequest) bool {
	return !r.lacks(m.Sender, m.ShardId, []uint64{m.Write})
}

// take returns what came from processes of a node other than current, 0 for all: they are gone. It returns a write
// once.
func (r *received) take(node, current uint64) map[receivedKey]map[uint64]arrived {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[receivedKey]map[uint64]arrived)
	for key, from := range r.m {
		if from.node != node || key.sender == current {
			continue
		}
		r.noteGone(key.sender)
		writes := make(map[uint64]arrived)
		for w, a := range from.writes {
			// A node of an earlier version never tells what is not under way any more.
			if !a.taken && (a.version != 0 || !from.old()) {
				writes[w] = a
				a.taken = true
				from.writes[w] = a
			}
		}
		if len(writes) > 0 {
			out[key] = writes
		}
	}
	return out
}
