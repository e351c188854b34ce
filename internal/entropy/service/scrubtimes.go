package service

import (
	"encoding/binary"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"concord/internal/cluster"
)

// scrubBucket has when a shard's files were verified, or seen first: nanoseconds in
// 8 bytes, big endian, by shard ID in the same form.
var scrubBucket = []byte("scrubbed.v1")

// scrubbed returns when each of the shards was verified last, or seen first, which may be now. It forgets all others.
// It is asked every minute, and writes only what changed.
func (q *queue) scrubbed(now time.Time, shards map[uint64]cluster.Shard) (map[uint64]time.Time, error) {
	out := make(map[uint64]time.Time)
	wanted := func(id uint64) bool { _, ok := shards[id]; return ok }
	var gone [][]byte
	err := q.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(scrubBucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(k) != 8 || len(v) != 8 || !wanted(binary.BigEndian.Uint64(k)) {
				gone = append(gone, append([]byte(nil), k...))
				return nil
			}
			// A time to come is of a clock that was wrong.
			at := time.Unix(0, int64(binary.BigEndian.Uint64(v)))
			if at.After(now) {
				at = time.Time{}
			}
			out[binary.BigEndian.Uint64(k)] = at
			return nil
		})
	})
	var fresh []uint64
	for id := range shards {
		if _, ok := out[id]; !ok {
			fresh = append(fresh, id)
			out[id] = now
		}
	}
	if err == nil && len(gone)+len(fresh) > 0 {
		err = q.db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(scrubBucket)
			if err != nil {
				return err
			}
			for _, k := range gone {
				if err := b.Delete(k); err != nil {
					return err
				}
			}
			for _, id := range fresh {
				if err := putTime(b, id, now); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read when shards were verified: %w", err)
	}
	return out, nil
}

func putTime(b *bbolt.Bucket, id uint64, at time.Time) error {
	return b.Put(binary.BigEndian.AppendUint64(nil, id), binary.BigEndian.AppendUint64(nil, uint64(at.UnixNano())))
}

func (q *queue) setScrubbed(id uint64, at time.Time) error {
	err := q.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(scrubBucket)
		if err != nil {
			return err
		}
		return putTime(b, id, at)
	})
	if err != nil {
		return fmt.Errorf("store when shard %d was verified: %w", id, err)
	}
	return nil
}
