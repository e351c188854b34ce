package patch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
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

// VersionStore is a Store that knows versions.
type VersionStore interface {
	Store
	// WriteVersion writes points that were written with a version elsewhere.
	WriteVersion(ctx tsdb.WriteContext, shardID, version uint64, points []models.Point) error
	// Newer reports which points of a field are newer there than what has no known version; nil is none.
	Newer(shardID uint64, series []byte, field string, times func() []int64) (map[int]bool, error)
}

// Apply writes the points of blocks to a shard, creating it where it is
// missing, and returns what became of them. It is idempotent. Blocks that the
// engine refuses, as those with a field of another type, keep no other from being written.
//
// Fewer than filePoints go through the engine's write path, into its log and its cache. More become
// a file of the engine, as the blocks are; see install.
func Apply(
	ctx context.Context, store Store, database, policy string, shardID uint64, blocks []Block, filePoints int,
) (Applied, error) {
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
	generation := 0
	if points >= filePoints {
		// What a snapshot of the write cache brings from here on is of a later generation than the file, and newer.
		// What came before is found now.
		if generation, err = nextGeneration(store.Shard(shardID)); err != nil {
			return fail(err)
		}
		if left, err = withoutNewer(store, shardID, left); err != nil {
			return fail(err)
		}
	}
	if points >= filePoints && !slices.ContainsFunc(blocks, func(b Block) bool { return b.Versions != nil }) {
		var installed int
		left, installed, err = install(ctx, store, shardID, generation, left, r.refuse)
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

// withoutNewer leaves out points that are newer in the store.
func withoutNewer(store Store, shardID uint64, blocks []parsed) ([]parsed, error) {
	known, ok := store.(VersionStore)
	if !ok {
		return blocks, nil
	}
	var out []parsed
	for _, p := range blocks {
		if p.Versions != nil { // they are compared when they are written
			out = append(out, p)
			continue
		}
		var vs tsm1.Values
		var err error
		newer, failed := known.Newer(shardID, p.Series, p.Field, func() []int64 {
			vs, err = p.Decode()
			times := make([]int64, len(vs))
			for i, v := range vs {
				times[i] = v.UnixNano()
			}
			return times
		})
		if err := errors.Join(err, failed); err != nil {
			return nil, err
		}
		if len(newer) > 0 {
			left := vs[:0]
			for i, v := range vs {
				if !newer[i] {
					left = append(left, v)
				}
			}
			if len(left) == 0 {
				continue
			}
			b, err := NewBlock(p.Series, p.Field, left)
			if err != nil {
				return nil, err
			}
			var spans Spans
			p.Block = b
			if p.Span, err = spans.Of(b); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// write takes points through the engine's write path, and returns how many. It calls refuse for each block that the
// engine refuses.
func write(
	ctx context.Context, store Store, shardID uint64, blocks []parsed, refuse func(p parsed, reason string),
) (written int, err error) {
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
func writeBatch(
	ctx context.Context, store Store, shardID uint64, blocks []parsed, refuse func(p parsed, reason string),
) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var batch []models.Point
	versions := make(map[uint64][]models.Point) // those that are known
	known, _ := store.(VersionStore)
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
		in = append(in, p)
		for i, point := range points {
			if known != nil && p.Versions != nil && p.Versions[i] != 0 {
				versions[p.Versions[i]] = append(versions[p.Versions[i]], point)
			} else {
				batch = append(batch, point)
			}
		}
	}
	err := writeAll(store, known, shardID, batch, versions)
	if err == nil {
		for _, points := range versions {
			batch = append(batch, points...)
		}
		return len(batch), nil
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

// writeAll writes points without a version that is known, and those with one.
func writeAll(
	store Store, known VersionStore, shardID uint64, batch []models.Point, versions map[uint64][]models.Point,
) error {
	ctx := tsdb.WriteContext{UserId: tsdb.UnknownUser}
	for chunk := range slices.Chunk(batch, applyBatch) { // the engine may keep the points
		if err := store.WriteToShard(ctx, shardID, chunk); err != nil {
			return err
		}
	}
	for version, points := range versions {
		if err := known.WriteVersion(ctx, shardID, version, points); err != nil {
			return err
		}
	}
	return nil
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
