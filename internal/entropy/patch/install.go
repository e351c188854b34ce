package patch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/pace"
)

// keyFieldSeparator is the engine's, between the series key and the field of its own keys.
const keyFieldSeparator = "#!~#"

// maxFileBlock is how many points a block in a file may have; the engine's own have no more.
const maxFileBlock = 10_000

// parsed is a block that was found to decode.
type parsed struct {
	Block
	Span
	key []byte // the engine's
}

// parse checks blocks, and counts their points.
func parse(ctx context.Context, blocks []Block) (out []parsed, points int, err error) {
	var spans Spans
	out = make([]parsed, len(blocks))
	work := pace.Begin(ctx)
	for i, b := range blocks {
		if err := work.Rest(); err != nil {
			return nil, 0, err
		}
		p := parsed{Block: b}
		if len(b.Series) == 0 || b.Field == "" {
			return nil, 0, fmt.Errorf("%w: no measurement or no field", ErrMalformed)
		}
		if p.Span, err = spans.Of(b); err != nil {
			return nil, 0, err
		}
		p.key = append(append(append(make([]byte, 0, len(b.Series)+len(keyFieldSeparator)+len(b.Field)), b.Series...), keyFieldSeparator...), b.Field...)
		out[i], points = p, points+p.Points
	}
	return out, points, nil
}

// install makes blocks a file of the shard, and returns those that have to take the write path, and how many
// points the file has.
//
// In a file a point loses against one in the write cache, which counts as newer: blocks
// with points there are left over. So are blocks that overlap. The first point of a
// series-field that the shard does not have takes the write path, too, which makes the
// series and the field, and refuses one of another type.
//
// The file is whole and on disk before the engine sees it. A crash before leaves a
// temporary file, which the engine removes when it starts.
func install(ctx context.Context, store Store, shardID uint64, blocks []parsed) (rest []Block, points int, err error) {
	shard := store.Shard(shardID)
	if shard == nil {
		return nil, 0, tsdb.ErrShardNotFound
	}
	e, err := shard.Engine()
	if err != nil {
		return nil, 0, err
	}
	engine, ok := e.(*tsm1.Engine)
	if !ok {
		return nil, 0, fmt.Errorf("unknown engine %T", e)
	}
	slices.SortFunc(blocks, func(a, b parsed) int { return cmp.Or(bytes.Compare(a.key, b.key), cmp.Compare(a.First, b.First)) })
	var file []parsed
	var begin []Block // the first points of what the shard does not have
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && bytes.Equal(blocks[n].key, blocks[0].key) {
			n++
		}
		field := blocks[:n]
		blocks = blocks[n:]
		if !fits(engine, field) {
			for _, p := range field {
				rest = append(rest, p.Block)
			}
			continue
		}
		if typ, err := engine.Type(field[0].key); err != nil || typ != field[0].Type {
			b, err := field[0].first()
			if err != nil {
				return nil, 0, err
			}
			begin = append(begin, b)
		}
		file = append(file, field...)
	}
	if len(file) == 0 {
		return rest, 0, nil
	}
	if _, err := write(ctx, store, shardID, begin); err != nil {
		return nil, 0, err
	}
	// From here on a snapshot of the write cache is of a later generation, and newer.
	path := filepath.Join(shard.Path(), tsm1.DefaultFormatFileName(engine.FileStore.NextGeneration(), 1)+"."+tsm1.TSMFileExtension+"."+tsm1.TmpTSMFileExtension)
	if err := writeFile(ctx, path, file); err != nil {
		return nil, 0, err
	}
	if _, err := shard.Engine(); err != nil {
		return nil, 0, errors.Join(err, os.Remove(path))
	}
	if err := engine.FileStore.Replace(nil, []string{path}); err != nil {
		return nil, 0, errors.Join(err, os.Remove(path))
	}
	for _, p := range file {
		points += p.Points
	}
	return rest, points, nil
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

// first is a block of the first point. The engine has to know the series by this very key.
func (p parsed) first() (Block, error) {
	v, err := p.Decode()
	if err != nil {
		return Block{}, err
	}
	points, err := pointsOf(p.Block, v[:1])
	if err != nil {
		return Block{}, err
	}
	if !bytes.Equal(points[0].Key(), p.Series) {
		return Block{}, fmt.Errorf("%w: %q is not the key of a series", ErrMalformed, p.Series)
	}
	return NewBlock(p.Series, p.Field, v[:1])
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
