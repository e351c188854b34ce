package patch

import (
	"context"
	"errors"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

const applyBatch = 5000 // points that are written at once

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
