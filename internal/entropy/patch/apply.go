package patch

import (
	"context"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

const applyBatch = 5000 // points that are written at once

// DefaultFilePoints is how many points are worth a file.
const DefaultFilePoints = 10_000

// Store is what Apply needs of the engine's store.
type Store interface {
	Shard(id uint64) *tsdb.Shard
	CreateShard(database, retentionPolicy string, shardID uint64, enabled bool) error
	WriteToShard(ctx tsdb.WriteContext, shardID uint64, points []models.Point) error
}

// Apply writes the points of blocks to a shard, creating it where it is
// missing, and returns how many it wrote. It is idempotent. A point that the
// engine refuses, as a field of another type, is an error.
//
// Fewer than filePoints go through the engine's write path, into its log and its cache. More become
// a file of the engine, as the blocks are; see install.
func Apply(ctx context.Context, store Store, database, policy string, shardID uint64, blocks []Block, filePoints int) (int, error) {
	fail := func(n int, err error) (int, error) { return n, fmt.Errorf("repair shard %d: %w", shardID, err) }
	if store.Shard(shardID) == nil {
		if err := store.CreateShard(database, policy, shardID, true); err != nil {
			return fail(0, err)
		}
	}
	parsed, points, err := parse(ctx, blocks)
	if err != nil {
		return fail(0, err)
	}
	installed := 0
	if points >= filePoints {
		if blocks, installed, err = install(ctx, store, shardID, parsed); err != nil {
			return fail(0, err)
		}
	}
	n, err := write(ctx, store, shardID, blocks)
	if err != nil {
		return fail(installed+n, err)
	}
	return installed + n, nil
}

// write takes points through the engine's write path, and returns how many.
func write(ctx context.Context, store Store, shardID uint64, blocks []Block) (written int, err error) {
	var batch []models.Point
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := store.WriteToShard(tsdb.WriteContext{UserId: tsdb.UnknownUser}, shardID, batch); err != nil {
			return err
		}
		written += len(batch)
		batch = nil // the engine may keep the points
		return nil
	}
	for _, b := range blocks {
		if ctx.Err() != nil {
			return written, context.Cause(ctx)
		}
		vs, err := b.Decode()
		if err != nil {
			return written, err
		}
		points, err := pointsOf(b, vs)
		if err != nil {
			return written, err
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
