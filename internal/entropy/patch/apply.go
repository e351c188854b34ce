package patch

import (
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// applyBatch is how many points are written at once.
const applyBatch = 5000

// Store is what Apply needs of the engine's store.
type Store interface {
	CreateShard(database, retentionPolicy string, shardID uint64, enabled bool) error
	WriteToShard(ctx tsdb.WriteContext, shardID uint64, points []models.Point) error
}

// Apply writes the points of blocks to a shard, creating it where it is
// missing, and returns how many it wrote. It is idempotent. A point that the
// engine refuses, as a field of another type, is an error.
func Apply(store Store, database, policy string, shardID uint64, blocks []Block) (int, error) {
	var (
		batch   []models.Point
		written int
	)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := store.WriteToShard(tsdb.WriteContext{UserId: tsdb.UnknownUser}, shardID, batch)
		if errors.Is(err, tsdb.ErrShardNotFound) {
			if err = store.CreateShard(database, policy, shardID, true); err == nil {
				err = store.WriteToShard(tsdb.WriteContext{UserId: tsdb.UnknownUser}, shardID, batch)
			}
		}
		if err != nil {
			return fmt.Errorf("repair shard %d: %w", shardID, err)
		}
		written += len(batch)
		batch = nil // the engine may keep the points
		return nil
	}
	for _, b := range blocks {
		vs, err := b.Decode()
		if err != nil {
			return written, fmt.Errorf("repair shard %d: %w", shardID, err)
		}
		points, err := pointsOf(b, vs)
		if err != nil {
			return written, fmt.Errorf("repair shard %d: %w", shardID, err)
		}
		for len(points) > 0 {
			n := min(len(points), applyBatch-len(batch))
			batch, points = append(batch, points[:n]...), points[n:]
			if len(batch) == applyBatch {
				if err := flush(); err != nil {
					return written, err
				}
			}
		}
	}
	return written, flush()
}
