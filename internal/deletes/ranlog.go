package deletes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"concord/internal/bolt"
	"concord/internal/order"
	"concord/internal/rpc"
)

// RanLog remembers, durably, which deletes ran on this node, for three reasons. Several nodes may bring the same
// delete, each followed by later writes. It runs once: a second time, it would remove those writes. Points that are
// older than a delete may arrive after it: they are left out while the delete is remembered with its version. And a
// node whose disk is older than it was asks the others which deletes it has lost: so they are kept when nothing older
// can arrive any more.
type RanLog struct {
	db       *bbolt.DB
	keep     Keep
	recorded func() error // nil for nothing
}

// Keep is for how long deletes are remembered.
type Keep struct {
	IDs      time.Duration // longer than a delete may wait in hinted handoff
	Versions time.Duration // longer than a write may wait there
}

var (
	ranBucket     = []byte("ran.v1")     // id -> nanoseconds, 8 bytes big endian
	removalBucket = []byte("removal.v1") // id -> the delete with its version, an rpc.Delete
	pastBucket    = []byte("past.v1")    // version, 8 bytes big endian, and id -> a delete; nothing older can arrive
	logBucket     = []byte("log.v1")     // beganKey -> the version of Began, 8 bytes big endian; learnedKey
	beganKey      = []byte("began")
	learnedKey    = []byte("learned") // -> empty: the other nodes were asked for what they remember
)

// moveRanLog is why a damaged log is not set aside automatically: what it says cannot be found out again.
const moveRanLog = "to start without, move it away; a delete that other nodes still keep for this one then runs " +
	"once more, and takes later writes of its time range with it"

// OpenRanLog opens the log at path, and forgets what is older than keep says. It calls recorded, unless that is nil,
// when a delete was recorded: an older copy of this node's disk lacks it.
func OpenRanLog(path string, keep Keep, recorded func() error) (*RanLog, error) {
	db, err := bolt.Open(path, 0o600, 2*time.Second)
	var damaged *bolt.DamagedError
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use: is another influxd running?", path)
	} else if errors.As(err, &damaged) {
		return nil, fmt.Errorf("%w: %s", err, moveRanLog)
	} else if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	l := &RanLog{db: db, keep: keep, recorded: recorded}
	if err := l.purge(time.Now()); errors.Is(err, bbolterrors.ErrIncompatibleValue) {
		return nil, errors.Join(fmt.Errorf("%s is damaged: %w: %s", path, err, moveRanLog), db.Close())
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", path, err), db.Close())
	}
	return l, nil
}

// Forget forgets all deletes: this node has left its cluster, and another one may have the same numbers and databases.
// The log begins anew.
func (l *RanLog) Forget() error {
	return l.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{ranBucket, removalBucket, pastBucket, logBucket} {
			err := tx.DeleteBucket(name)
			if err == nil {
				_, err = tx.CreateBucket(name)
			}
			if err != nil {
				return fmt.Errorf("forget the deletes of the cluster: %w", err)
			}
		}
		return begin(tx.Bucket(logBucket), time.Now())
	})
}

// begin notes when the log began, unless it did.
func begin(about *bbolt.Bucket, now time.Time) error {
	if len(about.Get(beganKey)) == 8 {
		return nil
	}
	began := order.AtTime(now.Add(longestDelete)) // clocks of other nodes may be ahead
	return about.Put(beganKey, binary.BigEndian.AppendUint64(nil, uint64(began)))
}

// Began is a version from when on the log has every delete that ran here. A node without its log knows nothing of
// those before. It is certain when the node has Learned: until then, clocks that are far ahead may have given greater
// versions to deletes from before the log.
func (l *RanLog) Began() (began order.Version) {
	l.db.View(func(tx *bbolt.Tx) error {
		began = order.Version(binary.BigEndian.Uint64(tx.Bucket(logBucket).Get(beganKey)))
		return nil
	})
	return began
}

// Learned reports whether this node has taken over what the others remembered when its log was new.
func (l *RanLog) Learned() (learned bool) {
	l.db.View(func(tx *bbolt.Tx) error {
		learned = tx.Bucket(logBucket).Get(learnedKey) != nil
		return nil
	})
	return learned
}

// HasLearned notes that this node has taken over what the others remember.
func (l *RanLog) HasLearned() error {
	return l.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(logBucket).Put(learnedKey, []byte{}) })
}

// Learn remembers deletes that ran on another node: for nodes that ask, and because older points may arrive here. It
// does not say that they ran here: the log begins after them.
func (l *RanLog) Learn(deletes []*rpc.Delete) error {
	if len(deletes) == 0 {
		return nil
	}
	return l.db.Update(func(tx *bbolt.Tx) error {
		past, removals, about := tx.Bucket(pastBucket), tx.Bucket(removalBucket), tx.Bucket(logBucket)
		began := binary.BigEndian.Uint64(about.Get(beganKey))
		for _, r := range deletes {
			b, err := proto.Marshal(r)
			if err == nil {
				err = errors.Join(past.Put(pastKey(r), b), removals.Put([]byte(r.Id), b))
			}
			if err != nil {
				return err
			}
			began = max(began, r.Version)
		}
		if err := about.Put(beganKey, binary.BigEndian.AppendUint64(nil, began)); err != nil {
			return err
		}
		return l.purgePast(past, time.Now())
	})
}

// pastKey is the key of a delete in pastBucket.
func pastKey(r *rpc.Delete) []byte {
	return append(binary.BigEndian.AppendUint64(nil, r.Version), r.Id...)
}

// purge forgets what is older than keep says. It makes the buckets that are not there.
func (l *RanLog) purge(now time.Time) error {
	return l.db.Update(func(tx *bbolt.Tx) error {
		about, err := tx.CreateBucketIfNotExists(logBucket)
		if err == nil {
			err = begin(about, now)
		}
		if err != nil {
			return err
		}
		ran, err := tx.CreateBucketIfNotExists(ranBucket)
		removals, failed := tx.CreateBucketIfNotExists(removalBucket)
		past, without := tx.CreateBucketIfNotExists(pastBucket)
		if err = errors.Join(err, failed, without); err != nil {
			return err
		}
		if err := l.purgePast(past, now); err != nil {
			return err
		}
		var ids, versions [][]byte
		err = ran.ForEach(func(id, v []byte) error {
			var at time.Time // long ago, when it is malformed
			if len(v) == 8 {
				at = time.Unix(0, int64(binary.BigEndian.Uint64(v)))
			}
			if age := now.Sub(at); age > l.keep.IDs {
				ids = append(ids, id)
			} else if age > l.keep.Versions {
				versions = append(versions, id)
			}
			return nil
		})
		for _, id := range ids {
			err = errors.Join(err, ran.Delete(id), removals.Delete(id))
		}
		for _, id := range versions {
			err = errors.Join(err, removals.Delete(id))
		}
		return err
	})
}

// purgePast removes what nobody asks for any more.
func (l *RanLog) purgePast(past *bbolt.Bucket, now time.Time) error {
	before := binary.BigEndian.AppendUint64(nil, uint64(order.AtTime(now.Add(-l.keep.Versions))))
	c := past.Cursor()
	for key, _ := c.First(); key != nil && bytes.Compare(key, before) < 0; key, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// Each calls fn with the deletes that have versions and after which something older may still arrive.
func (l *RanLog) Each(fn func(*rpc.Delete)) error {
	return l.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(removalBucket).ForEach(func(id, v []byte) error {
			r := &rpc.Delete{}
			err := proto.Unmarshal(v, r)
			if err == nil {
				err = check(r)
			}
			if err != nil {
				return fmt.Errorf("delete %s: %w", id, err)
			}
			fn(r)
			return nil
		})
	})
}

// Ran reports whether a delete ran.
func (l *RanLog) Ran(id string) (ran bool) {
	l.db.View(func(tx *bbolt.Tx) error {
		ran = tx.Bucket(ranBucket).Get([]byte(id)) != nil
		return nil
	})
	return ran
}

// learned reports whether a delete is in pastBucket. If it is from before the log began, this node took it over from
// other nodes when its disk was new. Its copies were made from theirs after that, without the deleted points.
func (l *RanLog) learned(r *rpc.Delete) (learned bool) {
	l.db.View(func(tx *bbolt.Tx) error {
		learned = tx.Bucket(pastBucket).Get(pastKey(r)) != nil
		return nil
	})
	return learned
}

// remembered calls fn with all deletes that have versions above since, some of them twice.
func (l *RanLog) remembered(since order.Version, fn func(*rpc.Delete) error) error {
	// In this order: a delete moves from the first bucket to the second.
	for _, bucket := range [][]byte{removalBucket, pastBucket} {
		after := []byte(nil)
		if bytes.Equal(bucket, pastBucket) {
			after = binary.BigEndian.AppendUint64(nil, uint64(since))
		}
		for {
			values, last, err := l.page(bucket, after)
			if err != nil {
				return err
			}
			if len(values) == 0 {
				break
			}
			for _, v := range values {
				r := &rpc.Delete{}
				if err := proto.Unmarshal(v, r); err != nil {
					return fmt.Errorf("a delete in the log of deletes: %w", err)
				}
				if order.Version(r.Version) <= since {
					continue
				}
				if err := fn(r); err != nil {
					return err
				}
			}
			after = last
		}
	}
	return nil
}

// pageLength is how many deletes are read at once: a transaction that stays open keeps pages of the file from use.
const pageLength = 1000

// page returns the next values of a bucket, and the key of the last one.
func (l *RanLog) page(bucket, after []byte) (values [][]byte, last []byte, err error) {
	err = l.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		key, v := c.Seek(after)
		if after != nil && bytes.Equal(key, after) {
			key, v = c.Next()
		}
		for ; key != nil && len(values) < pageLength; key, v = c.Next() {
			values, last = append(values, bytes.Clone(v)), bytes.Clone(key)
		}
		return nil
	})
	return values, last, err
}

// Record remembers that a delete ran, and that nothing older than some others arrives any more. It is on disk when
// Record returns.
func (l *RanLog) Record(r *rpc.Delete, forgotten ...string) error {
	kept := &rpc.Delete{
		Kind: r.Kind, Database: r.Database, Name: r.Name, Statement: r.Statement, Id: r.Id, Version: r.Version,
		Unversioned: r.Unversioned, Nodes: r.Nodes,
	}
	b, err := proto.Marshal(kept)
	if err != nil {
		return err
	}
	err = l.db.Update(func(tx *bbolt.Tx) error {
		removals, past := tx.Bucket(removalBucket), tx.Bucket(pastBucket)
		for _, id := range forgotten {
			if err := putPast(past, removals, id); err != nil {
				return err
			}
		}
		if err := l.purgePast(past, time.Now()); err != nil {
			return err
		}
		if r.Version != 0 {
			if err := removals.Put([]byte(r.Id), b); err != nil {
				return err
			}
		}
		return tx.Bucket(ranBucket).Put([]byte(r.Id), binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())))
	})
	if err == nil && l.recorded != nil {
		err = l.recorded()
	}
	return err
}

// putPast moves a delete that nothing older follows any more.
func putPast(past, removals *bbolt.Bucket, id string) error {
	v := removals.Get([]byte(id))
	if v == nil {
		return nil
	}
	r := &rpc.Delete{}
	if err := proto.Unmarshal(v, r); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	return errors.Join(past.Put(pastKey(r), bytes.Clone(v)), removals.Delete([]byte(id)))
}

// Close closes the file.
func (l *RanLog) Close() error { return l.db.Close() }
