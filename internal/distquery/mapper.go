// Package distquery answers queries over shards on any node: local shards
// locally, every other shard through one of its owners, another owner when
// that one fails before its first point.
package distquery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// Metadata is what queries need to know of the cluster.
type Metadata interface {
	NodeID() uint64
	State() *cluster.State
	ShardGroupsByTimeRange(database, policy string, min, max time.Time) ([]emeta.ShardGroupInfo, error)
}

// ShardMapper is the engine's query.ShardMapper over the whole cluster.
type ShardMapper struct {
	Logger *zap.Logger

	meta  Metadata
	store *tsdb.Store
	pool  *rpc.Pool
}

// NewShardMapper returns a mapper for the node that store belongs to.
func NewShardMapper(meta Metadata, store *tsdb.Store, pool *rpc.Pool) *ShardMapper {
	return &ShardMapper{Logger: zap.NewNop(), meta: meta, store: store, pool: pool}
}

// MapShards maps sources to local shards and to owners of all others.
func (e *ShardMapper) MapShards(sources influxql.Sources, t influxql.TimeRange, _ query.SelectOptions) (query.ShardGroup, error) {
	m := &mapping{
		local:  coordinator.LocalShardMapping{ShardMap: make(map[coordinator.Source]tsdb.ShardGroup)},
		remote: make(map[coordinator.Source]*owned),
		log:    e.Logger,
	}
	m.local.MinTime, m.local.MaxTime = time.Unix(0, t.MinTimeNano()), time.Unix(0, t.MaxTimeNano())
	if err := e.mapShards(m, sources); err != nil {
		return nil, err
	}
	return m, nil
}

func (e *ShardMapper) mapShards(m *mapping, sources influxql.Sources) error {
	for _, s := range sources {
		switch s := s.(type) {
		case *influxql.Measurement:
			src := coordinator.Source{Database: s.Database, RetentionPolicy: s.RetentionPolicy}
			if _, ok := m.local.ShardMap[src]; ok {
				continue
			}
			groups, err := e.meta.ShardGroupsByTimeRange(s.Database, s.RetentionPolicy, m.local.MinTime, m.local.MaxTime)
			if err != nil {
				return err
			}
			local, remote := split(e.meta, e.store, e.pool, groups)
			m.local.ShardMap[src] = nil
			if len(local) > 0 {
				m.local.ShardMap[src] = e.store.ShardGroup(local)
			}
			m.remote[src] = remote
		case *influxql.SubQuery:
			if err := e.mapShards(m, s.Statement.Sources); err != nil {
				return err
			}
		}
	}
	return nil
}

// split tells the shards that this node has from those that others have.
func split(meta Metadata, store *tsdb.Store, pool *rpc.Pool, groups []emeta.ShardGroupInfo) (local []uint64, remote *owned) {
	remote = newOwned(meta, pool)
	for _, g := range groups {
		for _, sh := range g.Shards {
			if remote.add(sh, store) {
				local = append(local, sh.ID)
			}
		}
	}
	return local, remote
}

// mapping is a query.ShardGroup: the shards of one statement.
type mapping struct {
	local  coordinator.LocalShardMapping
	remote map[coordinator.Source]*owned
	log    *zap.Logger
}

func (m *mapping) others(mm *influxql.Measurement) *owned {
	return m.remote[coordinator.Source{Database: mm.Database, RetentionPolicy: mm.RetentionPolicy}]
}

// FieldDimensions joins the fields and tags of all shards; of two types of a field the engine's order picks.
func (m *mapping) FieldDimensions(mm *influxql.Measurement) (map[string]influxql.DataType, map[string]struct{}, error) {
	fields, dims, err := m.local.FieldDimensions(mm)
	if err != nil {
		return nil, nil, err
	}
	if fields == nil {
		fields, dims = make(map[string]influxql.DataType), make(map[string]struct{})
	}
	var mu sync.Mutex
	err = m.others(mm).each(context.Background(), func(ctx context.Context, c rpc.QueryClient, ids []uint64) error {
		r, err := c.FieldDimensions(ctx, &rpc.FieldDimensionsRequest{ShardIds: ids, Measurement: encodeMeasurement(mm)})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for k, t := range r.Fields {
			if typ := influxql.DataType(t); fields[k].LessThan(typ) {
				fields[k] = typ
			}
		}
		for _, d := range r.Dimensions {
			dims[d] = struct{}{}
		}
		return nil
	})
	return fields, dims, err
}

// MapType is the type of a field over all shards; Unknown when they cannot be asked.
func (m *mapping) MapType(mm *influxql.Measurement, field string) influxql.DataType {
	typ := m.local.MapType(mm, field)
	var mu sync.Mutex
	err := m.others(mm).each(context.Background(), func(ctx context.Context, c rpc.QueryClient, ids []uint64) error {
		r, err := c.MapType(ctx, &rpc.MapTypeRequest{ShardIds: ids, Measurement: encodeMeasurement(mm), Field: field})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if t := influxql.DataType(r.DataType); typ.LessThan(t) {
			typ = t
		}
		return nil
	})
	if err != nil {
		m.log.Warn("Asking for the type of a field failed", zap.String("measurement", mm.Name), zap.String("field", field), zap.Error(err))
	}
	return typ
}

// CreateIterator merges the iterators of all shards. Aggregates are pushed
// down: each node sends its own, and the merge joins them.
func (m *mapping) CreateIterator(ctx context.Context, mm *influxql.Measurement, opt query.IteratorOptions) (query.Iterator, error) {
	opt = m.clip(opt)
	req, err := iteratorRequest(mm, opt)
	if err != nil {
		return nil, err
	}
	var (
		mu     sync.Mutex
		inputs []query.Iterator
	)
	add := func(itr query.Iterator) {
		mu.Lock()
		defer mu.Unlock()
		if itr != nil {
			inputs = append(inputs, itr)
		}
	}
	itr, err := m.local.CreateIterator(ctx, mm, opt)
	if err != nil {
		return nil, err
	}
	add(itr)
	err = m.others(mm).open(ctx, func(c rpc.QueryClient, ids []uint64) error {
		itr, err := openIterator(ctx, c, &rpc.CreateIteratorRequest{ShardIds: ids, Options: req})
		if err == nil {
			add(itr)
		}
		return err
	})
	if err != nil {
		query.Iterators(inputs).Close()
		return nil, err
	}
	return query.Iterators(inputs).Merge(opt)
}

// IteratorCost adds the costs of all shards.
func (m *mapping) IteratorCost(mm *influxql.Measurement, opt query.IteratorOptions) (query.IteratorCost, error) {
	opt = m.clip(opt)
	cost, err := m.local.IteratorCost(mm, opt)
	if err != nil {
		return cost, err
	}
	req, err := iteratorRequest(mm, opt)
	if err != nil {
		return cost, err
	}
	var mu sync.Mutex
	err = m.others(mm).each(context.Background(), func(ctx context.Context, c rpc.QueryClient, ids []uint64) error {
		r, err := c.IteratorCost(ctx, &rpc.CreateIteratorRequest{ShardIds: ids, Options: req})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		cost = cost.Combine(query.IteratorCost{
			NumShards: r.NumShards, NumSeries: r.NumSeries, CachedValues: r.CachedValues,
			NumFiles: r.NumFiles, BlocksRead: r.BlocksRead, BlockSize: r.BlockSize,
		})
		return nil
	})
	return cost, err
}

// Close drops the map.
func (m *mapping) Close() error { return m.local.Close() }

// clip narrows the time range to that of the statement, as the engine does locally.
func (m *mapping) clip(opt query.IteratorOptions) query.IteratorOptions {
	opt.StartTime = max(opt.StartTime, m.local.MinTime.UnixNano())
	opt.EndTime = min(opt.EndTime, m.local.MaxTime.UnixNano())
	return opt
}

// iteratorRequest encodes a measurement and options: the engine's encoding of
// options carries measurements as their sources.
func iteratorRequest(mm *influxql.Measurement, opt query.IteratorOptions) ([]byte, error) {
	opt.Sources = []influxql.Source{mm}
	b, err := opt.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode the query for other nodes: %w", err)
	}
	return b, nil
}

func encodeMeasurement(mm *influxql.Measurement) []byte {
	b, err := iteratorRequest(mm, query.IteratorOptions{})
	if err != nil {
		return nil // strings always encode
	}
	return b
}

// decodeRequest is the inverse of iteratorRequest.
func decodeRequest(b []byte) (*influxql.Measurement, query.IteratorOptions, error) {
	var opt query.IteratorOptions
	if err := opt.UnmarshalBinary(b); err != nil {
		return nil, opt, fmt.Errorf("malformed query: %w", err)
	}
	if len(opt.Sources) != 1 {
		return nil, opt, errors.New("malformed query: not one measurement")
	}
	mm, ok := opt.Sources[0].(*influxql.Measurement)
	if !ok {
		return nil, opt, errors.New("malformed query: not a measurement")
	}
	return mm, opt, nil
}

// openIterator starts a remote iterator and waits for its type: from then on
// its node cannot be replaced.
func openIterator(ctx context.Context, c rpc.QueryClient, req *rpc.CreateIteratorRequest) (query.Iterator, error) {
	sctx, cancel := context.WithCancel(ctx)
	stream, err := c.CreateIterator(sctx, req)
	if err != nil {
		cancel()
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		cancel()
		return nil, err
	}
	if first.None {
		cancel()
		return nil, nil
	}
	stats := query.IteratorStats{SeriesN: int(first.SeriesN), PointN: int(first.PointN)}
	return query.NewReaderIterator(ctx, &streamReader{stream: stream, cancel: cancel}, influxql.DataType(first.DataType), stats), nil
}

// streamReader is a stream of chunks as a reader. Only an end that the sender
// declared is io.EOF. Close frees the sender.
type streamReader struct {
	stream interface {
		Recv() (*rpc.CreateIteratorChunk, error)
	}
	cancel context.CancelFunc
	held   []byte
}

func (r *streamReader) Read(p []byte) (int, error) {
	for len(r.held) == 0 {
		c, err := r.stream.Recv()
		if err == io.EOF {
			return 0, io.EOF
		} else if err != nil {
			return 0, fmt.Errorf("a data node failed during the query: %s", rpc.Message(err))
		}
		r.held = c.Data
	}
	n := copy(p, r.held)
	r.held = r.held[n:]
	return n, nil
}

func (r *streamReader) Close() error {
	r.cancel()
	return nil
}
