package replication

import (
	"context"
	"sync"
	"time"

	"concord/internal/rpc"
)

const (
	maxFences  = 4096             // kept without looking for old ones
	fenceKeeps = 10 * time.Minute // how late a message may arrive
)

// fences keep messages that arrive late, out of the buffers of a node that hung, from undoing what came
// after them. What comes out of a sender's hinted handoff waits for that
// sender's direct writes to the shard that are running, and voids those that have
// not begun: the sender has given them up and queues them anew. The same goes for what came
// out of hinted handoff and was sent again since.
type fences struct {
	mu     sync.Mutex
	shards map[fenceKey]*fence
	ids    map[string]*fence // of deletes
	bars   map[barKey]*fence
}

// barKey is a sender and a database.
type barKey struct {
	sender uint64
	db     string
}

type fenceKey struct{ sender, shard uint64 }

type fence struct {
	sync.RWMutex
	from uint64 // what is below it is void
	used time.Time

	settled uint64            // what is below it is void, too; guarded by fences.mu
	seen    map[uint64]uint64 // sequences, by message, of those that came and are not below settled; guarded by fences.mu
}

// bar voids what senders sent to a database before a delete and what has not begun here, and waits for what
// has: nothing from before the delete arrives after it.
func (f *fences) bar(db string, barriers []*rpc.Barrier) {
	f.mu.Lock()
	if f.bars == nil {
		f.bars = make(map[barKey]*fence)
	}
	var running []*fence
	for _, b := range barriers {
		fe := at(f.bars, barKey{b.Sender, db})
		fe.from = max(fe.from, b.Sequence)
		for key, fe := range f.shards {
			if key.sender == b.Sender {
				running = append(running, fe)
			}
		}
	}
	f.mu.Unlock()
	for _, fe := range running {
		fe.Lock()
		//lint:ignore SA2001 those that hold it are waited for
		fe.Unlock()
	}
}

// barred tells whether a message is from before a delete that ran.
func (f *fences) barred(sender, sequence uint64, db string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fe := f.bars[barKey{sender, db}]
	return fe != nil && sequence < fe.from
}

// first tells whether a write comes for the first time, and not so late that its
// sender has done with it: a second one could undo what was written since.
func (f *fences) first(r *rpc.WriteShardRequest) bool {
	if r.Sender == 0 || r.Message == 0 {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shards == nil {
		f.shards = make(map[fenceKey]*fence)
	}
	fe := at(f.shards, fenceKey{r.Sender, r.ShardId})
	if _, again := fe.seen[r.Message]; again || r.Sequence < fe.settled {
		return false
	}
	if r.Settled > fe.settled {
		fe.settled = r.Settled
		for message, sequence := range fe.seen {
			if sequence < fe.settled {
				delete(fe.seen, message)
			}
		}
	}
	if fe.seen == nil {
		fe.seen = make(map[uint64]uint64)
	}
	fe.seen[r.Message] = r.Sequence
	return true
}

// pass admits a message, until release. Hinted ones run alone.
func (f *fences) pass(ctx context.Context, sender, shard, sequence uint64, hinted bool, db string) (release func(), ok bool) {
	if sender == 0 {
		return func() {}, true
	}
	f.mu.Lock()
	if f.shards == nil {
		f.shards = make(map[fenceKey]*fence)
	}
	fe := at(f.shards, fenceKey{sender, shard})
	f.mu.Unlock()
	if hinted {
		fe.Lock()
		if sequence < fe.from || ctx.Err() != nil || f.barred(sender, sequence, db) {
			fe.Unlock()
			return nil, false
		}
		fe.from = max(fe.from, sequence)
		return fe.Unlock, true
	}
	fe.RLock()
	if sequence < fe.from || ctx.Err() != nil || f.barred(sender, sequence, db) {
		fe.RUnlock()
		return nil, false
	}
	return fe.RUnlock, true
}

// once admits a delete that has not run yet; ran tells, and is told by the
// caller before it releases.
func (f *fences) once(id string, ran func(string) bool) (release func(), ok bool) {
	f.mu.Lock()
	if f.ids == nil {
		f.ids = make(map[string]*fence)
	}
	fe := at(f.ids, id)
	f.mu.Unlock()
	fe.Lock()
	if ran(id) {
		fe.Unlock()
		return nil, false
	}
	return fe.Unlock, true
}

// at returns the fence of a key, and forgets old ones when there are many.
func at[K comparable](m map[K]*fence, key K) *fence {
	now := time.Now()
	fe := m[key]
	if fe == nil {
		if len(m) >= maxFences {
			for k, old := range m {
				if now.Sub(old.used) > fenceKeeps {
					delete(m, k)
				}
			}
		}
		fe = &fence{}
		m[key] = fe
	}
	fe.used = now
	return fe
}
