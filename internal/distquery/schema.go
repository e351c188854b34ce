package distquery

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/pkg/estimator/hll"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
	"concord/internal/cluster"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

// Schema answers what SHOW statements ask the store, over the whole cluster. It has many methods because the engine's
// store has one for each list and each count, and each of them asks this node and others in a way of its own.
type Schema struct {
	whole    Whole     // which copies may be read
	sketches *Sketches // that estimate the number of series

	report *Report         // of the statement; nil for none
	share  *budget.Share   // of this node's memory
	ending context.Context // ends with the statement; nil for that of each question
	user   *restrict.User  // nil for one without restrictions
	meta   Metadata
	store  *tsdb.Store
	pool   *rpc.Pool
}

// NewSchema returns the schema of the cluster as seen from one node.
func NewSchema(d Deps) *Schema {
	return &Schema{whole: d.Whole, sketches: d.Sketches, meta: d.Meta, store: d.Store, pool: d.Pool}
}

// For returns the schema for one statement of a user, which ends when ending does, notes in the report what it could
// not read whole, and takes its memory from the share.
func (s *Schema) For(ending context.Context, report *Report, share *budget.Share, user *restrict.User) *Schema {
	one := *s
	one.ending, one.report, one.share, one.user = ending, report, share, user
	return &one
}

// allowed is what the user of the statement may read of the database of shards. The engine gives the same rules with
// most questions.
func (s *Schema) allowed(auth query.FineAuthorizer, ids []uint64) (*restrict.Filter, error) {
	user, err := restrict.From(auth)
	if err != nil {
		return nil, err
	}
	if user = cmp.Or(user, s.user); user == nil || len(ids) == 0 {
		return nil, nil
	}
	sh, _ := s.meta.State().Shard(ids[0])
	return user.Reads(sh.Database), nil
}

// context is ctx, and ends with the statement.
func (s *Schema) context(ctx context.Context) context.Context {
	return endingWith(ctx, s.ending)
}

// shardsOf lists the shards of a database, or of one policy when rp is not empty.
func (s *Schema) shardsOf(db, rp string) []uint64 {
	return s.shards(func(sh cluster.Shard) bool {
		return sh.Database == db && (rp == "" || sh.RetentionPolicy == rp)
	})
}

func (s *Schema) shards(match func(cluster.Shard) bool) (ids []uint64) {
	for _, sh := range s.meta.State().Shards() {
		if match(sh) {
			ids = append(ids, sh.ID)
		}
	}
	return ids
}

// indexed widens shards to all those whose tags their index knows: the
// in-memory index is one for all shards of a database, and on a single node
// statements bounded by time tell all of it.
func (s *Schema) indexed(ids []uint64) []uint64 {
	if s.store.EngineOptions.IndexVersion != tsdb.InmemIndexName {
		return ids
	}
	dbs := make(map[string]bool)
	s.shards(func(sh cluster.Shard) bool {
		if slices.Contains(ids, sh.ID) {
			dbs[sh.Database] = true
		}
		return false
	})
	return s.shards(func(sh cluster.Shard) bool { return dbs[sh.Database] })
}

// each asks the local store for the shards that this node has, and owners for the others.
func (s *Schema) each(
	ctx context.Context, ids []uint64, allowed *restrict.Filter, local func([]uint64) error, remote question,
) error {
	others, mine, theirs := s.split(ids, allowed)
	if len(mine) > 0 {
		if err := local(mine); err != nil {
			return err
		}
	}
	return others.each(ctx, theirs, remote)
}

// split tells the shards that this node has from those that others are asked for.
func (s *Schema) split(ids []uint64, allowed *restrict.Filter) (others *owned, mine, theirs []uint64) {
	want := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	others = newOwned(s.meta, s.pool, s.whole, s.report)
	others.allowed = allowed
	var shards []emeta.ShardInfo
	for _, sh := range others.state.Shards() {
		if want[sh.ID] {
			shards = append(shards, infoOf(sh))
		}
	}
	mine = others.add(shards, s.store)
	for _, id := range mine {
		delete(want, id)
	}
	for _, sh := range shards {
		if want[sh.ID] {
			theirs = append(theirs, sh.ID)
		}
	}
	return others, mine, theirs
}

// grow takes memory for what a node answered. When there is no more, no other node is asked.
func (s *Schema) grow(n int64) error {
	if err := s.share.Grow(n); err != nil {
		return overBudget(err)
	}
	return nil
}

// MeasurementNames lists the measurements of a database, sorted.
func (s *Schema) MeasurementNames(
	ctx context.Context, auth query.FineAuthorizer, db, rp string, cond influxql.Expr,
) (names [][]byte, err error) {
	err = s.eachMeasurement(ctx, auth, db, rp, cond, 0, func(name string) error {
		names = append(names, []byte(name))
		return s.grow(costOfName + int64(len(name)))
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}

// eachMeasurement passes the measurements of a database to see, sorted, until that returns an error, which may be
// errEnough. most is how many are asked for; 0 is all.
func (s *Schema) eachMeasurement(
	ctx context.Context, auth query.FineAuthorizer, db, rp string, cond influxql.Expr, most int,
	see func(name string) error,
) error {
	shards := s.shardsOf(db, rp)
	allowed, err := s.allowed(auth, shards)
	if err != nil {
		return err
	}
	if index := s.store.EngineOptions.IndexVersion; rp != "" && index != tsdb.TSI1IndexName {
		return fmt.Errorf("retention policy filter for measurements not supported for index %s", index)
	}
	plan, result, err := newNamesPlan(cond)
	if err != nil || len(plan.questions) == 0 {
		return err
	}
	q := schemaQuestion{shards: shards, allowed: allowed}
	if !plan.simple {
		most = 0
	}
	q.local = func(ctx context.Context, mine []uint64) schemaList {
		return listMeasurements(ctx, s.store, allowed, mine, plan.questions, most)
	}
	q.ask = func(ctx context.Context, p peer, ids []uint64) (listChunks, error) {
		return plan.chunks(ctx, p, ids, most)
	}
	if plan.simple {
		return s.read(ctx, q, func(e entry) error { return see(e.measurement) })
	}
	var window []entry
	flush := func() error {
		names := result(plan.byQuestion(window))
		window = window[:0]
		for _, name := range names {
			if err := see(string(name)); err != nil {
				return err
			}
		}
		return nil
	}
	err = s.read(ctx, q, func(e entry) error {
		if window = append(window, e); len(window) < windowLen {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err == errEnough {
		return nil
	}
	return err
}

// TagKeys lists the tag keys of shards by measurement, both sorted.
func (s *Schema) TagKeys(
	ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr,
) ([]tsdb.TagKeys, error) {
	allowed, err := s.allowed(auth, ids)
	if err != nil {
		return nil, err
	}
	ctx = s.context(ctx)
	var mu sync.Mutex
	all := make(map[string][]string)
	err = s.each(ctx, s.indexed(ids), allowed, func(mine []uint64) error {
		list, err := tagKeys(ctx, s.store, allowed, mine, cond)
		for _, m := range list {
			all[m.Measurement] = append(all[m.Measurement], m.Keys...)
		}
		return cmp.Or(err, s.grow(keysSize(list)))
	}, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		r, err := p.TagKeys(ctx, &rpc.SchemaRequest{
			ShardIds: ids, Condition: encodeCondition(cond), Incomplete: p.incomplete,
		})
		if err != nil {
			return passed{}, err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, m := range r.Measurements {
			name := string(m.Measurement)
			if err := s.grow(namesSize(m.Keys)); err != nil {
				return passed{}, err
			}
			for _, k := range m.Keys {
				all[name] = append(all[name], string(k))
			}
		}
		return passed{r.Missing, r.Unfit}, nil
	})
	if err != nil {
		return nil, err
	}
	var out []tsdb.TagKeys
	for m, keys := range all {
		slices.Sort(keys)
		out = append(out, tsdb.TagKeys{Measurement: m, Keys: slices.Compact(keys)})
	}
	slices.SortFunc(out, func(a, b tsdb.TagKeys) int { return cmp.Compare(a.Measurement, b.Measurement) })
	return out, nil
}

// TagValues lists the tag values of shards by measurement, all sorted.
func (s *Schema) TagValues(
	ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr,
) (out []tsdb.TagValues, err error) {
	err = s.eachTagValue(ctx, auth, ids, cond, 0, func(measurement string, kv tsdb.KeyValue) error {
		if len(out) == 0 || out[len(out)-1].Measurement != measurement {
			out = append(out, tsdb.TagValues{Measurement: measurement})
		}
		last := &out[len(out)-1]
		last.Values = append(last.Values, kv)
		return s.grow(costOfName + int64(len(kv.Key)+len(kv.Value)))
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// eachTagValue passes the tag values of shards to see, sorted by measurement, key and value, until that returns an
// error, which may be errEnough. most is how many are asked for of each measurement; 0 is all.
func (s *Schema) eachTagValue(
	ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr, most int,
	see func(measurement string, kv tsdb.KeyValue) error,
) error {
	allowed, err := s.allowed(auth, ids)
	if err != nil {
		return err
	}
	q := schemaQuestion{shards: s.indexed(ids), allowed: allowed}
	q.local = func(ctx context.Context, mine []uint64) schemaList {
		return listTagValues(ctx, s.store, allowed, mine, cond, most)
	}
	q.ask = func(ctx context.Context, p peer, ids []uint64) (listChunks, error) {
		return tagValueChunks(ctx, p, &rpc.SchemaRequest{
			ShardIds: ids, Condition: encodeCondition(cond), Incomplete: p.incomplete, Most: uint64(most),
		})
	}
	return s.read(ctx, q, func(e entry) error { return see(e.measurement, e.KeyValue) })
}

// SeriesCardinality is how many series a database has. It is exact when they are few, or when one node has all shards
// that have series. Else it is an estimate: see Sketches.
func (s *Schema) SeriesCardinality(ctx context.Context, db string) (int64, error) {
	ctx = s.context(ctx)
	shards := s.shardsOf(db, "")
	if allowed, err := s.allowed(nil, shards); allowed != nil || err != nil {
		return s.allowedCardinality(ctx, shards, allowed)
	}
	n, alone, err := s.seriesOfOne(ctx, db)
	if alone || err != nil {
		return n, err
	}
	var mu sync.Mutex
	var all tally
	err = s.each(ctx, shards, nil, func(mine []uint64) error {
		_, hashes, counts, err := s.sketches.of(budget.With(ctx, s.share), s.store, mine)
		if err != nil {
			return err
		}
		return all.add(hashes, counts)
	}, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		hashes, counts, not, err := sketchOf(ctx, p, ids)
		if err != nil {
			return passed{}, err
		}
		mu.Lock()
		defer mu.Unlock()
		return not, all.add(hashes, counts)
	})
	if err != nil {
		return 0, err
	}
	return all.n(), nil
}

// allowedCardinality counts the series that a user may see. No sketch has them alone, so that all are looked at.
func (s *Schema) allowedCardinality(ctx context.Context, shards []uint64, allowed *restrict.Filter) (int64, error) {
	var mu sync.Mutex
	var all tally
	err := s.each(ctx, shards, allowed, func(mine []uint64) error {
		hashes, err := seriesHashes(budget.With(ctx, s.share), s.store, allowed, mine)
		if err != nil {
			return err
		}
		return all.add(hashes, nil)
	}, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		hashes, counts, not, err := hashesFrom(ctx, p, &rpc.SchemaRequest{ShardIds: ids, Incomplete: p.incomplete})
		if err != nil {
			return passed{}, err
		}
		mu.Lock()
		defer mu.Unlock()
		return not, all.add(hashes, counts)
	})
	return all.n(), err
}

// seriesOfOne counts the series without looking at them, which works when one node has all of them; alone says so.
func (s *Schema) seriesOfOne(ctx context.Context, db string) (n int64, alone bool, err error) {
	var mu sync.Mutex
	nodes := 0 // that have series
	err = s.each(ctx, s.shardsOf(db, ""), nil, func(mine []uint64) error {
		series, _, err := seriesOf(s.store, mine)
		if err == nil && series.Cardinality() > 0 {
			n, nodes = int64(series.Cardinality()), 1
		}
		return err
	}, func(ctx context.Context, p peer, ids []uint64) (passed, error) {
		r, err := p.SeriesSketch(ctx, &rpc.SchemaRequest{ShardIds: ids, Incomplete: p.incomplete, Count: true})
		mu.Lock()
		defer mu.Unlock()
		switch {
		case status.Code(err) == codes.Unimplemented || err == nil && len(r.Sketch)+len(r.Hashes) > 0:
			nodes += 2 // a former build, which does not count
			return passed{}, nil
		case err != nil:
			return passed{}, err
		case r.Count > 0:
			n, nodes = int64(r.Count), nodes+1
		}
		return passed{r.Missing, r.Unfit}, nil
	})
	return n, nodes < 2, err
}

// sketchOf asks another node. One of a former build sends the hashes of all series.
func sketchOf(ctx context.Context, p peer, ids []uint64) (hashes []uint64, counts *hll.Plus, not passed, err error) {
	req := &rpc.SchemaRequest{ShardIds: ids, Incomplete: p.incomplete}
	r, err := p.SeriesSketch(ctx, req)
	if err == nil {
		if len(r.Sketch) > 0 {
			counts, err = readSketch(r.Sketch)
		}
		return r.Hashes, counts, passed{r.Missing, r.Unfit}, err
	}
	if status.Code(err) != codes.Unimplemented {
		return nil, nil, not, err
	}
	return hashesFrom(ctx, p, req)
}

// hashesFrom asks another node for the hashes of all series. Of many it makes a sketch.
func hashesFrom(
	ctx context.Context, p peer, req *rpc.SchemaRequest,
) (hashes []uint64, counts *hll.Plus, not passed, err error) {
	chunks, err := p.SeriesHashes(ctx, req)
	if err != nil {
		return nil, nil, not, err
	}
	var all tally
	for {
		c, err := chunks.Recv()
		if err == io.EOF {
			return slices.Collect(maps.Keys(all.hashes)), all.counts, not, nil
		} else if err != nil {
			return nil, nil, not, err
		}
		not.add(c.Missing, c.Unfit)
		if err := all.add(c.Hashes, nil); err != nil {
			return nil, nil, not, err
		}
	}
}

// MeasurementsCardinality counts the measurements of a database.
func (s *Schema) MeasurementsCardinality(ctx context.Context, db string) (int64, error) {
	n := int64(0)
	err := s.eachMeasurement(ctx, nil, db, "", nil, 0, func(string) error { n++; return nil })
	return n, err
}
