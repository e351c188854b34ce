package service

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"concord/internal/bolt"
	"concord/internal/durable"
	"concord/internal/entropy"
)

// queueBucket names the version of the records: 4 bytes CRC-32C, big endian,
// of the JSON that follows. The key is the shard ID in 8 bytes, big endian.
var queueBucket = []byte("queue.v1")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute
	maxWait    = 30 * time.Second // for hinted handoff
)

// queued is a shard that waits for its repair or is being repaired.
type queued struct {
	ID       uint64    `json:"id"`
	Added    time.Time `json:"added"`
	Attempts int       `json:"attempts"` // failed ones
	Since    int       `json:"since"`    // of attempts: those since the back-off began anew
	Next     time.Time `json:"next"`     // not tried before
	Error    string    `json:"error,omitempty"`
}

// record is what is known of a repair that does not run.
func (it queued) record() entropy.RepairRecord {
	r := entropy.RepairRecord{
		ShardID: it.ID, State: entropy.Waiting, Added: it.Added, Attempts: it.Attempts, Error: it.Error,
	}
	if it.Error != "" {
		r.State = entropy.Failed
	}
	return r
}

// queue is the durable list of shards to repair. Reads come from memory; each change is on disk before its method
// returns. What came of an attempt counts in memory also when it cannot be written: a repair would be tried again
// without a pause otherwise. Safe for concurrent use.
type queue struct {
	db *bbolt.DB

	mu    sync.Mutex
	items map[uint64]queued
}

// openQueue opens or creates entropy.db in dir. A record that does not match
// its checksum keeps its place, as its key says which shard it is, and loses its history. A file that is damaged
// is renamed to aside, and an empty queue begins: what was in it were intentions, and checks find anew what differs.
func openQueue(dir string) (q *queue, aside string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", fmt.Errorf("create the folder of the repair queue: %w", err)
	}
	path := filepath.Join(dir, "entropy.db")
	q, err = readQueue(path)
	var damaged *bolt.DamagedError
	if errors.As(err, &damaged) {
		if aside, err = durable.SetAside(path, "damaged"); err == nil {
			q, err = readQueue(path)
		}
	}
	if err != nil {
		return nil, aside, fmt.Errorf("open the repair queue: %w", err)
	}
	return q, aside, nil
}

func readQueue(path string) (*queue, error) {
	db, err := bolt.Open(path, 0o644, 5*time.Second)
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use: is another influxd running?", path)
	} else if err != nil {
		return nil, err
	}
	q := &queue{db: db, items: make(map[uint64]queued)}
	err = db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(settingsBucket); err != nil {
			return err
		}
		b, err := tx.CreateBucketIfNotExists(queueBucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != 8 {
				return nil
			}
			if v == nil {
				return bbolterrors.ErrIncompatibleValue
			}
			id := binary.BigEndian.Uint64(k)
			q.items[id] = decodeQueued(id, v)
			return nil
		})
	})
	if errors.Is(err, bbolterrors.ErrIncompatibleValue) { // a bucket where a value should be, or the other way round
		err = &bolt.DamagedError{Path: path, Reason: err.Error()}
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return q, nil
}

// settingsBucket has what outlives a restart besides the queue: paused, one byte.
var settingsBucket = []byte("settings.v1")

func (q *queue) setPaused(paused bool) error {
	v := []byte{0}
	if paused {
		v[0] = 1
	}
	err := q.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(settingsBucket)
		if err != nil {
			return err
		}
		return b.Put([]byte("paused"), v)
	})
	if err != nil {
		return fmt.Errorf("store that repairs are paused: %w", err)
	}
	return nil
}

func (q *queue) paused() (paused bool, err error) {
	err = q.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket(settingsBucket); b != nil {
			v := b.Get([]byte("paused"))
			paused = len(v) == 1 && v[0] == 1
		}
		return nil
	})
	return paused, err
}

func encodeQueued(it queued) ([]byte, error) {
	b, err := json.Marshal(it)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...), nil
}

func decodeQueued(id uint64, v []byte) queued {
	var it queued
	if len(v) < 4 || binary.BigEndian.Uint32(v) != crc32.Checksum(v[4:], castagnoli) ||
		json.Unmarshal(v[4:], &it) != nil || it.ID != id {
		return queued{ID: id}
	}
	return it
}

// store keeps items, all or none of them. mu must be held.
func (q *queue) store(items ...queued) error {
	err := q.db.Update(func(tx *bbolt.Tx) error {
		for _, it := range items {
			v, err := encodeQueued(it)
			if err != nil {
				return err
			}
			if err := tx.Bucket(queueBucket).Put(binary.BigEndian.AppendUint64(nil, it.ID), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the repair queue: %w", err)
	}
	for _, it := range items {
		q.items[it.ID] = it
	}
	return nil
}

// put queues a shard to be tried at once. A shard that is queued already
// keeps its place, its record and its back-off.
func (q *queue) put(id uint64, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.items[id]; ok {
		return nil
	}
	return q.store(queued{ID: id, Added: now, Next: now})
}

// hurry ends the back-off of a queued shard.
func (q *queue) hurry(id uint64, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.due(id, now)
}

// putNow queues a shard to be tried at once, also one that is queued already. It is one step: an attempt that failed
// between put and hurry would be made again.
func (q *queue) putNow(id uint64, now time.Time) (it queued, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.items[id]; !ok {
		err = q.store(queued{ID: id, Added: now, Next: now})
	} else {
		err = q.due(id, now)
	}
	return q.items[id], err
}

// due ends the back-off of a shard. mu must be held.
func (q *queue) due(id uint64, now time.Time) error {
	it, ok := q.items[id]
	if !ok || !it.Next.After(now) {
		return nil
	}
	it.Next = now
	return q.store(it)
}

// anew has the back-off of queued shards begin anew: those that wait are due at once, and one that is being repaired
// is tried again soon if that attempt fails, too.
func (q *queue) anew(which func(id uint64) bool, now time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	var items []queued
	for id, it := range q.items {
		if it.Attempts == 0 || !which(id) {
			continue
		}
		it.Since = 0
		if it.Next.After(now) {
			it.Next = now
		}
		items = append(items, it)
	}
	if len(items) == 0 {
		return nil
	}
	return q.store(items...)
}

// fail records a failed attempt and when to try again. It does nothing to a
// shard that left the queue meanwhile.
func (q *queue) fail(id uint64, now time.Time, cause error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	it, ok := q.items[id]
	if !ok {
		return nil
	}
	it.Attempts++
	it.Since++
	it.Next = now.Add(backoff(it.Since))
	it.Error = cause.Error()
	q.items[id] = it // first: it is not tried again at once either when the disk does not take it
	return q.store(it)
}

// postpone records that a repair could not begin yet, and when to look again: after as long as it has been queued,
// within limits. That is no failed attempt: the next real one comes as soon as without it.
func (q *queue) postpone(id uint64, now time.Time, cause error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	it, ok := q.items[id]
	if !ok {
		return nil
	}
	it.Next = now.Add(min(max(now.Sub(it.Added), minBackoff), maxWait))
	it.Error = cause.Error()
	q.items[id] = it
	return q.store(it)
}

// backoff is 1 s after the first failure and doubles up to 5 minutes.
func backoff(attempts int) time.Duration {
	if attempts > 9 {
		return maxBackoff
	}
	return min(minBackoff<<(max(attempts, 1)-1), maxBackoff)
}

// remove takes a shard from the queue. Where that cannot be written, the shard is queued again after a restart.
func (q *queue) remove(id uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.items[id]; !ok {
		return nil
	}
	delete(q.items, id)
	err := q.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(queueBucket).Delete(binary.BigEndian.AppendUint64(nil, id))
	})
	if err != nil {
		return fmt.Errorf("take shard %d from the repair queue: %w", id, err)
	}
	return nil
}

func (q *queue) has(id uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	_, ok := q.items[id]
	return ok
}

// list returns all records, the longest waiting first.
func (q *queue) list() []queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]queued, 0, len(q.items))
	for _, it := range q.items {
		out = append(out, it)
	}
	sort.Slice(out, func(i, j int) bool {
		if !out[i].Added.Equal(out[j].Added) {
			return out[i].Added.Before(out[j].Added)
		}
		return out[i].ID < out[j].ID
	})
	return out
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// failed counts the shards whose repair failed and is to be tried again.
func (q *queue) failed() (n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range q.items {
		if it.Attempts > 0 {
			n++
		}
	}
	return n
}

func (q *queue) close() error { return q.db.Close() }
