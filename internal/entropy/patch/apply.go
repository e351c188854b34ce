package patch

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
// missing, and returns what became of them. It is idempotent. Blocks that the
// engine refuses, as those with a field of another type, keep no other from being written.
//
// Fewer than filePoints go through the engine's write path, into its log and its cache. More become
// a file of the engine, as the blocks are; see install.
func Apply(ctx context.Context, store Store, database, policy string, shardID uint64, blocks []Block, filePoints int) (Applied, error) {
	var out Applied
	fail := func(err error) (Applied, error) { return out, fmt.Errorf("repair shard %d: %w", shardID, err) }
	if store.Shard(shardID) == nil {
		if err := store.CreateShard(database, policy, shardID, true); err != nil {
			return fail(err)
		}
	}
	left, err := parse(ctx, blocks)
	if err != nil {
		return fail(err)
	}
	r := refuser{shard: store.Shard(shardID), blocks: left, out: &out}
	if left, err = r.check(); err != nil {
		return fail(err)
	}
	points := 0
	for _, p := range left {
		points += p.Points
	}
	if points >= filePoints {
		var installed int
		left, installed, err = install(ctx, store, shardID, left, r.refuse)
		if out.Points += installed; err != nil {
			return fail(err)
		}
	}
	written, err := write(ctx, store, shardID, left, r.refuse)
	if out.Points += written; err != nil {
		return fail(err)
	}
	r.end()
	return out, nil
}

// write takes points through the engine's write path, and returns how many. It calls refuse for each block that the
// engine refuses.
func write(ctx context.Context, store Store, shardID uint64, blocks []parsed, refuse func(p parsed, reason string)) (written int, err error) {
	for len(blocks) > 0 {
		n, points := 1, blocks[0].Points
		for n < len(blocks) && points+blocks[n].Points <= applyBatch {
			points += blocks[n].Points
			n++
		}
		w, err := writeBatch(ctx, store, shardID, blocks[:n], refuse)
		if written += w; err != nil {
			return written, err
		}
		blocks = blocks[n:]
	}
	return written, nil
}

// writeBatch writes blocks together. The engine says that it refuses some of the points, but not which: then
// it writes each half by itself.
func writeBatch(ctx context.Context, store Store, shardID uint64, blocks []parsed, refuse func(p parsed, reason string)) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var batch []models.Point
	var in []parsed
	for _, p := range blocks {
		vs, err := p.Decode()
		if err != nil {
			return 0, err
		}
		points, err := pointsOf(p.Block, vs)
		if err != nil {
			refuse(p, err.Error())
			continue
		}
		batch, in = append(batch, points...), append(in, p)
	}
	for chunk := range slices.Chunk(batch, applyBatch) { // the engine may keep the points
		err := store.WriteToShard(tsdb.WriteContext{UserId: tsdb.UnknownUser}, shardID, chunk)
		if err == nil {
			continue
		}
		reason, ok := refusal(err)
		if !ok {
			return 0, err
		}
		if len(in) == 1 {
			refuse(in[0], reason)
			return 0, nil
		}
		half := len(in) / 2
		first, err := writeBatch(ctx, store, shardID, in[:half], refuse)
		if err != nil {
			return first, err
		}
		second, err := writeBatch(ctx, store, shardID, in[half:], refuse)
		return first + second, err
	}
	return len(batch), nil
}

// refusal returns the engine's reason for an error that the same points meet each time.
func refusal(err error) (reason string, ok bool) {
	var p tsdb.PartialWriteError
	switch {
	case errors.As(err, &p):
		return p.Reason, true
	case errors.Is(err, tsdb.ErrFieldTypeConflict): // the write cache has another type than the field index
		return err.Error(), true
	}
	return "", false
}
