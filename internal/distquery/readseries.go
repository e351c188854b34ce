package distquery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/storage"
	"github.com/influxdata/influxdb/storage/reads"
	"github.com/influxdata/influxdb/storage/reads/datatypes"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/cursors"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/restrict"
	"concord/internal/seriesindex"
)

// storageNames are the names of the storage API as the index knows them.
var storageNames = map[string]string{
	"_measurement": "_name", models.MeasurementTagKey: "_name", models.FieldKeyTagKey: "_field",
}

// seriesRead reads whole series of shards on one node. It selects and orders
// series as the engine's own storage API does. Unlike it, it passes on every
// error of a shard: the engine's leaves out what it cannot read.
type seriesRead struct {
	cond     influxql.Expr // nil selects all
	indexed  influxql.Expr // the part of cond that the index can answer
	min, max int64         // ns, inclusive
}

// newSeriesRead checks what a client selects.
func newSeriesRead(predicate *datatypes.Predicate, min, max int64) (*seriesRead, error) {
	r := &seriesRead{min: min, max: max}
	root := predicate.GetRoot()
	if root == nil {
		return r, nil
	}
	var err error
	if r.cond, err = reads.NodeToExpr(root, storageNames); err != nil {
		return nil, err
	}
	if _, values := storage.HasFieldKeyOrValue(r.cond); values {
		return nil, errors.New("a condition on values is not supported")
	}
	influxql.WalkFunc(r.cond, func(n influxql.Node) {
		if e, ok := n.(*influxql.BinaryExpr); ok {
			switch e.Op {
			case influxql.EQ, influxql.NEQ, influxql.EQREGEX, influxql.NEQREGEX, influxql.OR, influxql.AND:
			default:
				err = fmt.Errorf("invalid tag comparison operator %s", e.Op)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	r.indexed = influxql.Reduce(storage.RewriteExprRemoveFieldKeyAndValue(influxql.CloneExpr(r.cond)), nil)
	if reads.IsTrueBooleanLiteral(r.indexed) {
		r.indexed = nil
	}
	return r, nil
}

// seriesRow is one field of a series. Its parts are only valid during the call
// that gets it.
type seriesRow struct {
	name  []byte
	tags  models.Tags
	field string
}

// Value is the valuer of conditions.
func (r *seriesRow) Value(key string) (any, bool) {
	switch key {
	case "_name":
		return string(r.name), true
	case "_field":
		return r.field, true
	}
	return r.tags.GetString(key), true
}

// samples are some samples of a row in one shard, in the order of time.
// values is nil when the field has another type than float.
type samples struct {
	row    *seriesRow
	shard  uint64
	typ    influxql.DataType
	values *cursors.FloatArray
}

// shardReader is a shard that is being read.
type shardReader struct {
	readShard
	cursors cursors.CursorIterator
}

// run reads shards of one database, which must all be there, and passes the
// samples to emit: series by series, of each series field by field, of each
// field shard by shard in the order of ids.
func (r *seriesRead) run(ctx context.Context, store *tsdb.Store, ids []uint64, emit func(samples) error) error {
	if len(ids) == 0 {
		return nil
	}
	shards, index, err := openReaders(ctx, store, ids)
	if err != nil {
		return err
	}
	names, err := r.measurements(index)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.measurement(ctx, shards, index, name, emit); err != nil {
			return err
		}
	}
	// One that was closed meanwhile, or let in no reader, ends as a shard that has no more points does.
	for _, sh := range shards {
		if !sh.open(store) {
			return fmt.Errorf("shard %d was closed, or is to be closed: try again", sh.ID())
		}
	}
	return nil
}

func openReaders(
	ctx context.Context, store *tsdb.Store, ids []uint64,
) (shards []shardReader, is tsdb.IndexSet, err error) {
	for _, id := range ids {
		sh := store.Shard(id)
		if sh == nil {
			return nil, is, fmt.Errorf("shard %d: %w", id, tsdb.ErrShardNotFound)
		}
		if len(shards) > 0 && sh.Database() != shards[0].Database() {
			return nil, is, fmt.Errorf("shards %d and %d are of two databases", shards[0].ID(), id)
		}
		index, err := seriesindex.Of(sh)
		if err != nil {
			return nil, is, fmt.Errorf("shard %d: %w", id, err)
		}
		if is.SeriesFile, err = sh.SeriesFile(); err != nil { // one for all shards of a database
			return nil, is, fmt.Errorf("shard %d: %w", id, err)
		}
		is.Indexes = append(is.Indexes, index)
		engine, err := sh.Engine()
		if err != nil {
			return nil, is, fmt.Errorf("shard %d: %w", id, err)
		}
		c, err := sh.CreateCursorIterator(ctx)
		if err != nil {
			return nil, is, fmt.Errorf("shard %d: %w", id, err)
		}
		shards = append(shards, shardReader{readShard{sh, engine}, c})
	}
	// Without the duplicates that an index in memory, which all shards share, would be.
	unique := is.DedupeInmemIndexes()
	return shards, tsdb.IndexSet{Indexes: unique.Indexes, SeriesFile: unique.SeriesFile}, nil
}

// measurements are those that can have a selected series, sorted.
func (r *seriesRead) measurements(index tsdb.IndexSet) ([][]byte, error) {
	if name, one := storage.HasSingleMeasurementNoOR(r.cond); one {
		return [][]byte{[]byte(name)}, nil
	}
	return index.MeasurementNamesByExpr(query.OpenAuthorizer, nil)
}

func (r *seriesRead) measurement(
	ctx context.Context, shards []shardReader, index tsdb.IndexSet, name []byte, emit func(samples) error,
) error {
	var all tsdb.Shards
	for _, sh := range shards {
		all = append(all, sh.Shard)
	}
	fields := all.FieldKeysByMeasurement(name)
	if len(fields) == 0 {
		return nil
	}
	keys, err := r.series(ctx, index, name)
	if err != nil {
		return err
	}
	for _, key := range keys {
		row := &seriesRow{}
		row.name, row.tags = tsdb.ParseSeriesKey(key)
		for _, row.field = range fields {
			if r.cond != nil && !reads.EvalExprBool(r.cond, row) {
				continue
			}
			for _, sh := range shards {
				if err := r.samples(ctx, sh, row, emit); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// allows reports whether the user may see a series.
func allows(allowed *restrict.Filter, key []byte) bool {
	if allowed == nil {
		return true
	}
	return allowed.Allows(tsdb.ParseSeriesKey(key))
}

// series are copies of the keys of a measurement's selected series that the user may see, in the
// engine's order: keys of the series file are not valid after its end.
func (r *seriesRead) series(ctx context.Context, index tsdb.IndexSet, name []byte) (keys [][]byte, err error) {
	share, allowed := budget.Of(ctx), restrict.Of(ctx)
	itr, err := index.MeasurementSeriesByExprIterator(name, r.indexed)
	if err != nil || itr == nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, itr.Close()) }()
	defer index.SeriesFile.Retain()()
	for {
		e, err := itr.Next()
		if err != nil {
			return nil, err
		}
		if e.SeriesID == 0 {
			break
		}
		if key := index.SeriesFile.SeriesKey(e.SeriesID); len(key) > 0 && allows(allowed, key) {
			keys = append(keys, slices.Clone(key))
			if err := share.Grow(costOfName + int64(len(key))); err != nil {
				return nil, overBudget(err)
			}
		}
	}
	slices.SortFunc(keys, tsdb.CompareSeriesKeys)
	return keys, nil
}

// samples reads a row of one shard.
func (r *seriesRead) samples(ctx context.Context, sh shardReader, row *seriesRow, emit func(samples) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	cur, err := sh.cursors.Next(ctx, &cursors.CursorRequest{
		Name: row.name, Tags: row.tags, Field: row.field, Ascending: true, StartTime: r.min, EndTime: r.max,
	})
	if err != nil {
		return fmt.Errorf("shard %d: read %s: %w", sh.ID(), row.name, err)
	}
	if cur == nil {
		return nil
	}
	defer cur.Close()
	s := samples{row: row, shard: sh.ID(), typ: influxql.Float}
	n := 0
	switch cur := cur.(type) {
	case cursors.FloatArrayCursor:
		for a := cur.Next(); a.Len() > 0; a = cur.Next() {
			s.values = a
			if err := emit(s); err != nil {
				return err
			}
		}
		return cur.Err()
	case cursors.IntegerArrayCursor:
		s.typ, n = influxql.Integer, cur.Next().Len()
	case cursors.UnsignedArrayCursor:
		s.typ, n = influxql.Unsigned, cur.Next().Len()
	case cursors.BooleanArrayCursor:
		s.typ, n = influxql.Boolean, cur.Next().Len()
	case cursors.StringArrayCursor:
		s.typ, n = influxql.String, cur.Next().Len()
	default:
		return fmt.Errorf("shard %d: unknown cursor %T", sh.ID(), cur)
	}
	if n == 0 {
		return nil
	}
	return emit(s)
}
