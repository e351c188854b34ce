package patch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/pace"
	"concord/internal/entropy/tsmfile"
)

// maxFileBlock is how many points a block in a file may have; the engine's own have no more.
const maxFileBlock = 10_000

// install makes blocks a file of the shard, and returns those that have to take the write path, and how many
// points the file has.
//
// In a file a point loses against one in the write cache, which counts as newer: blocks
// with points there are left over. So are blocks that overlap. The first point of a
// series-field that the shard does not have takes the write path, too, which makes the
// series and the field. Where the engine refuses it, refuse is called for all blocks of the series-field.
//
// The file is whole and on disk before the engine sees it. A crash before leaves a
// temporary file, which the engine removes when it starts.
func install(
	ctx context.Context, store Store, shardID uint64, generation int, blocks []parsed,
	refuse func(p parsed, reason string),
) (rest []parsed, points int, err error) {
	shard := store.Shard(shardID)
	if shard == nil {
		return nil, 0, tsdb.ErrShardNotFound
	}
	engine, err := tsmfile.EngineOf(shard)
	if err != nil {
		return nil, 0, err
	}
	file, begin, rest, err := place(engine, blocks)
	if err != nil || len(file) == 0 {
		return rest, 0, err
	}
	_, err = write(ctx, store, shardID, begin, func(p parsed, reason string) {
		for _, of := range file[p.at] {
			refuse(of, reason)
		}
		file[p.at] = nil
	})
	all := slices.Concat(file...)
	if err != nil || len(all) == 0 {
		return rest, 0, err
	}
	if err := addFile(ctx, shard, engine, generation, all); err != nil {
		return nil, 0, err
	}
	for _, p := range all {
		points += p.Points
	}
	return rest, points, nil
}

// place says where blocks go: into a file, by series-field, or, those in rest, on the write path. begin are the first
// points of the series-fields in file that the shard does not have; at is the place in file.
func place(engine *tsm1.Engine, blocks []parsed) (file [][]parsed, begin, rest []parsed, err error) {
	slices.SortFunc(blocks, func(a, b parsed) int {
		return cmp.Or(bytes.Compare(a.key, b.key), cmp.Compare(a.First, b.First))
	})
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && bytes.Equal(blocks[n].key, blocks[0].key) {
			n++
		}
		field := blocks[:n]
		blocks = blocks[n:]
		if !fits(engine, field) {
			rest = append(rest, field...)
			continue
		}
		if typ, err := engine.Type(field[0].key); err != nil || typ != field[0].Type {
			b, err := field[0].first()
			if err != nil {
				return nil, nil, nil, err
			}
			first := Span{Type: field[0].Type, First: field[0].First, Last: field[0].First, Points: 1}
			begin = append(begin, parsed{Block: b, Span: first, at: len(file)})
		}
		file = append(file, field)
	}
	return file, begin, rest, nil
}

// nextGeneration takes a generation of files of a shard: of two files with a point, the later one counts.
func nextGeneration(shard *tsdb.Shard) (int, error) {
	if shard == nil {
		return 0, tsdb.ErrShardNotFound
	}
	engine, err := tsmfile.EngineOf(shard)
	if err != nil {
		return 0, err
	}
	return engine.FileStore.NextGeneration(), nil
}

// addFile gives the engine a file of blocks.
func addFile(
	ctx context.Context, shard *tsdb.Shard, engine *tsm1.Engine, generation int, blocks []parsed,
) error {
	name := tsm1.DefaultFormatFileName(generation, 1)
	path := filepath.Join(shard.Path(), name+"."+tsm1.TSMFileExtension+"."+tsm1.TmpTSMFileExtension)
	if err := writeFile(ctx, path, blocks); err != nil {
		return err
	}
	if _, err := shard.Engine(); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	if err := engine.FileStore.Replace(nil, []string{path}); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// fits tells whether blocks of one series-field, ascending, can be in a file.
func fits(engine *tsm1.Engine, blocks []parsed) bool {
	for i, b := range blocks {
		if b.Points > maxFileBlock || b.Type != blocks[0].Type || i > 0 && b.First <= blocks[i-1].Last {
			return false
		}
	}
	if _, err := engine.Cache.Type(blocks[0].key); err != nil {
		return true // not there
	}
	for _, v := range engine.Cache.Values(blocks[0].key) {
		t := v.UnixNano()
		i, found := slices.BinarySearchFunc(blocks, t, func(b parsed, t int64) int { return cmp.Compare(b.First, t) })
		if found || i > 0 && t <= blocks[i-1].Last {
			return false
		}
	}
	return true
}

// writeFile writes a file of blocks, which are in order, and syncs it. When it fails there is none.
func writeFile(ctx context.Context, path string, blocks []parsed) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o666) // as the engine's
	if err != nil {
		return err
	}
	w, err := tsm1.NewTSMWriter(f)
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	work := pace.Begin(ctx)
	for _, b := range blocks {
		if err = errors.Join(w.WriteBlock(b.key, b.First, b.Last, b.Data), work.Rest()); err != nil {
			break
		}
	}
	if err == nil {
		err = w.WriteIndex()
	}
	if err = errors.Join(err, w.Close()); err != nil { // which syncs
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
