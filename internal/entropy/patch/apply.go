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
