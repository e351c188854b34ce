package distquery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/pkg/estimator/hll"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// Schema answers what SHOW statements ask the store, over the whole cluster.
type Schema struct {
	meta  Metadata
	store *tsdb.Store
	pool  *rpc.Pool
}

// NewSchema returns the schema of the cluster as seen from one node.
func NewSchema(meta Metadata, store *tsdb.Store, pool *rpc.Pool) *Schema {
	return &Schema{meta: meta, store: store, pool: pool}
}

// errAuthorizer is returned for grants finer than those of InfluxDB 1.x open source.
var errAuthorizer = errors.New("authorization by series is not supported across data nodes")

func conditionText(e influxql.Expr) string {
	if e == nil {
		return ""
	}
	return e.String()
}

// everyNode asks all other nodes. Nodes that do not answer are an error only
// where they are all the owners of a shard of db.
func (s *Schema) everyNode(ctx context.Context, db string, fn func(context.Context, rpc.QueryClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		down = make(map[uint64]error)
	)
	st := s.meta.State()
	for _, n := range st.DataNodes {
		if n.ID == s.meta.NodeID() {
			continue
		}
		wg.Add(1)
		go func(n cluster.Node) {
			defer wg.Done()
			conn, err := s.pool.Conn(n.TCPAddr)
			if err == nil {
				err = fn(ctx, rpc.NewQueryClient(conn))
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				down[n.ID] = fmt.Errorf("%s: %s", n.TCPAddr, rpc.Message(err))
			}
		}(n)
	}
	wg.Wait()
	if len(down) == 0 {
		return nil
	}
	for _, sh := range st.Shards() {
		if sh.Database != db {
			continue
		}
		var why error
		if !slices.ContainsFunc(sh.Owners, func(id uint64) bool { why = errors.Join(why, down[id]); return down[id] == nil }) && why != nil {
			return fmt.Errorf("shard %d is on no reachable node: %w", sh.ID, why)
		}
	}
	return nil
}

// eachShard asks the local store for the shards that this node has, and owners for the others.
func (s *Schema) eachShard(ctx context.Context, ids []uint64, local func([]uint64) error, remote func(context.Context, rpc.QueryClient, []uint64) error) error {
	want := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	o := newOwned(s.meta, s.pool)
	var mine []uint64
	for _, sh := range s.meta.State().Shards() {
		if !want[sh.ID] {
			continue
		}
		info := emeta.ShardInfo{ID: sh.ID}
		for _, id := range sh.Owners {
			info.Owners = append(info.Owners, emeta.ShardOwner{NodeID: id})
		}
		if o.add(info, s.store) {
			mine = append(mine, sh.ID)
		}
	}
	if len(mine) > 0 {
		if err := local(mine); err != nil {
			return err
		}
	}
	return o.each(ctx, remote)
}

// MeasurementNames lists the measurements of a database, sorted.
func (s *Schema) MeasurementNames(ctx context.Context, auth query.FineAuthorizer, db, rp string, cond influxql.Expr) ([][]byte, error) {
	if !query.AuthorizerIsOpen(auth) {
		return nil, errAuthorizer
	}
	names, err := s.store.MeasurementNames(ctx, auth, db, rp, cond)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	err = s.everyNode(ctx, db, func(ctx context.Context, c rpc.QueryClient) error {
		r, err := c.MeasurementNames(ctx, &rpc.SchemaRequest{Database: db, RetentionPolicy: rp, Condition: conditionText(cond)})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		names = append(names, r.Names...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(names, bytes.Compare)
	return slices.CompactFunc(names, bytes.Equal), nil
}

// TagKeys lists the tag keys of shards by measurement, both sorted.
func (s *Schema) TagKeys(ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr) ([]tsdb.TagKeys, error) {
	if !query.AuthorizerIsOpen(auth) {
		return nil, errAuthorizer
	}
	var mu sync.Mutex
	all := make(map[string][]string)
	add := func(m string, keys []string) {
		mu.Lock()
		defer mu.Unlock()
		all[m] = append(all[m], keys...)
	}
	err := s.eachShard(ctx, ids, func(mine []uint64) error {
		list, err := s.store.TagKeys(ctx, auth, mine, cond)
		for _, m := range list {
			add(m.Measurement, m.Keys)
		}
		return err
	}, func(ctx context.Context, c rpc.QueryClient, ids []uint64) error {
		r, err := c.TagKeys(ctx, &rpc.SchemaRequest{ShardIds: ids, Condition: conditionText(cond)})
		if err != nil {
			return err
		}
		for _, m := range r.Measurements {
			add(m.Measurement, m.Keys)
		}
		return nil
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
func (s *Schema) TagValues(ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr) ([]tsdb.TagValues, error) {
	if !query.AuthorizerIsOpen(auth) {
		return nil, errAuthorizer
	}
	var mu sync.Mutex
	all := make(map[string][]tsdb.KeyValue)
	add := func(m string, values ...tsdb.KeyValue) {
		mu.Lock()
		defer mu.Unlock()
		all[m] = append(all[m], values...)
	}
	err := s.eachShard(ctx, ids, func(mine []uint64) error {
		list, err := s.store.TagValues(ctx, auth, mine, cond)
		for _, m := range list {
			add(m.Measurement, m.Values...)
		}
		return err
	}, func(ctx context.Context, c rpc.QueryClient, ids []uint64) error {
		r, err := c.TagValues(ctx, &rpc.SchemaRequest{ShardIds: ids, Condition: conditionText(cond)})
		if err != nil {
			return err
		}
		for _, m := range r.Measurements {
			for _, kv := range m.Values {
				add(m.Measurement, tsdb.KeyValue{Key: kv.Key, Value: kv.Value})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []tsdb.TagValues
	for m, values := range all {
		slices.SortFunc(values, func(a, b tsdb.KeyValue) int {
			return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Value, b.Value))
		})
		out = append(out, tsdb.TagValues{Measurement: m, Values: slices.Compact(values)})
	}
	slices.SortFunc(out, func(a, b tsdb.TagValues) int { return cmp.Compare(a.Measurement, b.Measurement) })
	return out, nil
}

// SeriesCardinality estimates the number of series of a database.
func (s *Schema) SeriesCardinality(ctx context.Context, db string) (int64, error) {
	return s.cardinality(ctx, db, false)
}

// MeasurementsCardinality estimates the number of measurements of a database.
func (s *Schema) MeasurementsCardinality(ctx context.Context, db string) (int64, error) {
	return s.cardinality(ctx, db, true)
}

// cardinality joins the nodes' sketches: replicas count once.
func (s *Schema) cardinality(ctx context.Context, db string, measurements bool) (int64, error) {
	var mu sync.Mutex
	has, gone := hll.NewDefaultPlus(), hll.NewDefaultPlus()
	add := func(sketch, tombstones []byte) error {
		mu.Lock()
		defer mu.Unlock()
		for _, part := range []struct {
			into *hll.Plus
			b    []byte
		}{{has, sketch}, {gone, tombstones}} {
			if len(part.b) == 0 {
				continue
			}
			p := hll.NewDefaultPlus()
			if err := p.UnmarshalBinary(part.b); err != nil {
				return fmt.Errorf("malformed sketch: %w", err)
			}
			if err := part.into.Merge(p); err != nil {
				return err
			}
		}
		return nil
	}
	a, b, err := sketches(ctx, s.store, db, measurements)
	if err == nil {
		err = add(a, b)
	}
	if err != nil {
		return 0, err
	}
	err = s.everyNode(ctx, db, func(ctx context.Context, c rpc.QueryClient) error {
		r, err := c.Cardinality(ctx, &rpc.CardinalityRequest{Database: db, Measurements: measurements})
		if err != nil {
			return err
		}
		return add(r.Sketch, r.TombstoneSketch)
	})
	return max(int64(has.Count())-int64(gone.Count()), 0), err
}

func sketches(ctx context.Context, store *tsdb.Store, db string, measurements bool) (has, gone []byte, err error) {
	get := store.SeriesSketches
	if measurements {
		get = store.MeasurementsSketches
	}
	a, b, err := get(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	if a != nil {
		if has, err = a.MarshalBinary(); err != nil {
			return nil, nil, err
		}
	}
	if b != nil {
		gone, err = b.MarshalBinary()
	}
	return has, gone, err
}
