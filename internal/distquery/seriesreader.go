package distquery

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/storage"
	"github.com/influxdata/influxdb/storage/reads"
	"github.com/influxdata/influxdb/storage/reads/datatypes"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/cursors"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/budget"
	"concord/internal/restrict"
	"concord/internal/rpc"
)

// What one read may return when there is no max-select-point and no
// max-select-series. The first is Prometheus' own default for the same limit.
const (
	maxReadPoints = 50_000_000
	maxReadSeries = 5_000_000
)

// SeriesReader is the storage API of the engine over the whole cluster, as far
// as the HTTP API uses it: Prometheus reads through it.
//
// The answers of all shards are gathered before the first series is returned.
// The engine's handler does not look for an error once it has a result, so an
// error after that would be an answer that lacks series. The gathered blocks
// are compressed, the handler's own copy of the answer is many times as large,
// and the limits bound both.
type SeriesReader struct {
	limits  ReadLimits
	whole   Whole          // which copies may be read
	silence time.Duration  // after which a node that gives no sign of life is passed over
	budget  *budget.Budget // the memory of this node for queries; nil is no limit

	meta  Metadata
	store *tsdb.Store
	pool  *rpc.Pool
	n     atomic.Int64
}

// ReadLimits end one read that would take too much.
type ReadLimits struct {
	MaxPoints int           // 0 is maxReadPoints
	MaxSeries int           // each field counts; 0 is maxReadSeries
	Timeout   time.Duration // 0 is no limit
}

// NewSeriesReader returns the reader of a node.
func NewSeriesReader(d Deps, limits ReadLimits) *SeriesReader {
	return &SeriesReader{
		limits: limits, whole: d.Whole, silence: askTimeout, budget: d.Budget,
		meta: d.Meta, store: d.Store, pool: d.Pool,
	}
}

// Requests is how many reads were asked for.
func (s *SeriesReader) Requests() int64 { return s.n.Load() }

// ReadFilter returns the selected series that have points in the range, whose
// end is exclusive, in the engine's order, of those that the filter in the context allows (package restrict). The
// result is nil when no shard is in the range.
func (s *SeriesReader) ReadFilter(ctx context.Context, req *datatypes.ReadFilterRequest) (reads.ResultSet, error) {
	s.n.Add(1)
	where, err := storage.GetReadSource(req.ReadSource)
	if err != nil {
		return nil, err
	}
	// The answer has no place for a warning: one that would be incomplete is an error.
	report, err := newReport(ctx, true, s.meta)
	if err != nil {
		return nil, err
	}
	db := s.meta.Database(where.Database)
	if db == nil {
		return nil, errors.New("no database")
	}
	rp := cmp.Or(where.RetentionPolicy, db.DefaultRetentionPolicy)
	if known, err := s.meta.RetentionPolicy(where.Database, rp); err != nil || known == nil {
		return nil, errors.New("invalid retention policy")
	}
	start, end := max(req.Range.GetStart(), models.MinNanoTime), min(req.Range.GetEnd(), models.MaxNanoTime)
	groups, err := s.meta.ShardGroupsByTimeRange(where.Database, rp, time.Unix(0, start), time.Unix(0, end))
	if err != nil || len(groups) == 0 {
		return nil, err
	}
	sort.Sort(emeta.ShardGroupInfos(groups))
	read, err := newSeriesRead(req.Predicate, start, end-1)
	if err != nil {
		return nil, err
	}
	predicate, err := proto.Marshal(req.Predicate)
	if err != nil {
		return nil, fmt.Errorf("encode the predicate for other nodes: %w", err)
	}
	if s.limits.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, s.limits.Timeout, query.ErrQueryTimeoutLimitExceeded)
		defer cancel()
	}
	share := s.budget.Open()
	ctx, cancel := context.WithCancelCause(budget.With(ctx, share))
	defer cancel(nil)
	defer share.OnEnd(func(err error) { cancel(err) })()
	g := &gathering{
		reader: s, read: read, share: share,
		request: &rpc.ReadSeriesRequest{Predicate: predicate, MinTime: read.min, MaxTime: read.max},
	}
	others := newOwned(s.meta, s.pool, s.whole, report)
	others.allowed = restrict.Of(ctx)
	series, err := g.run(ctx, newSource(others, s.store, groups))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		share.Close()
		return nil, err
	}
	return &seriesSet{rest: series, share: share}, nil
}

// gathering is one read under way.
type gathering struct {
	reader  *SeriesReader
	read    *seriesRead
	request *rpc.ReadSeriesRequest // without its shards
	share   *budget.Share

	points atomic.Int64 // so far

	mu    sync.Mutex
	parts []*part
}

// part is what one node returned. It is in the order of series.
type part struct {
	gathering *gathering
	series    []*seriesBlocks
	points    int64
	scratch   cursors.FloatArray
}

// seriesBlocks are the samples of one field of a series.
type seriesBlocks struct {
	key    []byte // of the series, in the engine's comparable form
	name   []byte
	tags   models.Tags
	field  string
	typ    influxql.DataType // of what blocks would be
	blocks []block
}

type block struct {
	shard       uint64
	first, last int64  // ns
	points      []byte // a TSM block, which was decoded once
}

// run asks this node for its shards and other owners for all others.
func (g *gathering) run(ctx context.Context, src *source) ([]*seriesBlocks, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	local, remote := src.split(src.shards())
	others := make(chan error, 1)
	go func() {
		err := src.others.open(ctx, remote, g.ask)
		if err != nil {
			cancel()
		}
		others <- err
	}()
	err := g.readLocal(ctx, local, src.others)
	if err != nil {
		cancel()
	}
	other := <-others
	switch {
	case errors.Is(err, context.Canceled) && other != nil: // which made this node stop
		return nil, other
	case err != nil:
		return nil, errors.New(rpc.Message(err))
	case other != nil:
		return nil, other
	}
	return g.join(src.shards())
}

func (g *gathering) readLocal(ctx context.Context, ids []uint64, others *owned) error {
	_, missing, err := shardsOf(g.reader.store, ids)
	if err != nil {
		return err
	}
	ids = slices.DeleteFunc(ids, func(id uint64) bool { return slices.Contains(missing, id) })
	if err := others.open(ctx, others.removed(missing), g.ask); err != nil {
		return err
	}
	p := &part{gathering: g}
	pack := packer{emit: p.add}
	if err := g.read.run(ctx, g.reader.store, ids, pack.add); err != nil {
		return err
	}
	g.keep(p)
	return nil
}

// ask reads the shards of one node. A part that breaks off is forgotten, and
// its shards are read anew from another owner.
func (g *gathering) ask(ctx context.Context, from peer, ids []uint64) (not passed, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chunks, err := from.ReadSeries(ctx, &rpc.ReadSeriesRequest{
		ShardIds: ids, Predicate: g.request.Predicate, MinTime: g.request.MinTime, MaxTime: g.request.MaxTime,
	})
	if err != nil {
		return passed{}, err
	}
	p := &part{gathering: g}
	defer func() {
		if err != nil {
			g.points.Add(-p.points)
		}
	}()
	for {
		c, err := listen(ctx, cancel, g.reader.silence, chunks.Recv)
		switch {
		case err == io.EOF:
			g.keep(p)
			return not, nil
		case err != nil:
			return passed{}, err
		}
		not.add(c.Missing, c.Unfit)
		for _, b := range c.Blocks {
			if err := p.check(b); err != nil {
				return passed{}, err
			}
		}
	}
}

func (g *gathering) keep(p *part) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parts = append(g.parts, p)
}

// tooMuch ends the read: no other owner has less.
func tooMuch(what string, n, limit int64) error {
	return status.Errorf(codes.InvalidArgument, "%s limit exceeded: (%d/%d)", what, n, limit)
}

// grow takes memory for what was read, and for what the handler makes of it.
func (g *gathering) grow(n int64) error {
	if err := g.share.Grow(n); err != nil {
		return overBudget(err)
	}
	return nil
}

func (g *gathering) limitSeries(n int) error {
	if limit := cmp.Or(g.reader.limits.MaxSeries, maxReadSeries); n > limit {
		return tooMuch("max-select-series", int64(n), int64(limit))
	}
	return nil
}

var errBlock = errors.New("malformed block of points")

// check takes over a block of another node when it can be decoded.
func (p *part) check(b *rpc.ReadSeriesChunk_Block) error {
	if len(b.Points) == 0 {
		return p.add(b, nil)
	}
	if err := decodePoints(b.Points, &p.scratch); err != nil {
		return err
	}
	return p.add(b, &p.scratch)
}

// decodePoints decodes a block from outside into a, of which it uses the memory.
func decodePoints(points []byte, a *cursors.FloatArray) (err error) {
	defer func() {
		if r := recover(); r != nil { // the engine trusts what it decodes
			err = errBlock
		}
	}()
	n, err := tsm1.BlockCount(points)
	if err != nil || n < 1 || n > tsdb.DefaultMaxPointsPerBlock {
		return errBlock
	}
	err = tsm1.DecodeFloatArrayBlock(points, a)
	if err != nil || a.Len() != n || len(a.Values) != n || !slices.IsSorted(a.Timestamps) {
		return errBlock
	}
	return nil
}

// add takes over a block, whose points are those of a.
func (p *part) add(b *rpc.ReadSeriesChunk_Block, a *cursors.FloatArray) error {
	if b.Series != nil {
		s := &seriesBlocks{name: b.Series.Measurement, field: string(b.Series.Field),
			typ: influxql.DataType(b.DataType)}
		for _, t := range b.Series.Tags {
			s.tags = append(s.tags, models.NewTag(t.Key, t.Value))
		}
		s.key = tsdb.AppendSeriesKey(nil, s.name, s.tags)
		p.series = append(p.series, s)
		if err := p.gathering.grow(int64(2*len(s.key)) + costOfName*int64(len(s.tags)+4)); err != nil {
			return err
		}
		if err := p.gathering.limitSeries(len(p.series)); err != nil {
			return err
		}
	}
	if len(p.series) == 0 {
		return errBlock
	}
	if a == nil {
		return nil
	}
	s := p.series[len(p.series)-1]
	s.typ = influxql.Float
	s.blocks = append(s.blocks, block{shard: b.ShardId, first: a.MinTime(), last: a.MaxTime(), points: b.Points})
	n := int64(a.Len())
	p.points += n
	if err := p.gathering.grow(costOfSample*n + int64(len(b.Points))); err != nil {
		return err
	}
	if limit := int64(cmp.Or(p.gathering.reader.limits.MaxPoints, maxReadPoints)); p.gathering.points.Add(n) > limit {
		return tooMuch("max-select-point", p.gathering.points.Load(), limit)
	}
	return nil
}

// join merges the parts: a series can have points on several nodes. order is
// that of the shard groups in time.
func (g *gathering) join(order []uint64) ([]*seriesBlocks, error) {
	place := make(map[uint64]int, len(order))
	for i, id := range order {
		place[id] = i
	}
	var all, out []*seriesBlocks
	for _, p := range g.parts {
		all = append(all, p.series...)
	}
	slices.SortFunc(all, func(a, b *seriesBlocks) int {
		return cmp.Or(tsdb.CompareSeriesKeys(a.key, b.key), cmp.Compare(a.field, b.field))
	})
	for _, s := range all {
		if n := len(out); n > 0 && bytes.Equal(out[n-1].key, s.key) && out[n-1].field == s.field {
			last := out[n-1]
			last.blocks = append(last.blocks, s.blocks...)
			if s.typ == influxql.Float { // also when shards differ: what can be shown is
				last.typ = s.typ
			}
			continue
		}
		out = append(out, s)
	}
	if err := g.limitSeries(len(out)); err != nil {
		return nil, errors.New(rpc.Message(err))
	}
	for _, s := range out {
		slices.SortStableFunc(s.blocks, func(a, b block) int { return cmp.Compare(place[a.shard], place[b.shard]) })
	}
	return out, nil
}

// seriesSet are the gathered series as the engine's handler takes them. A series
// is let go of when the next one is asked for.
type seriesSet struct {
	share   *budget.Share // until Close
	current *seriesBlocks
	rest    []*seriesBlocks
	floats  floatBlocks
}

func (s *seriesSet) Next() bool {
	if s.current = nil; len(s.rest) == 0 {
		return false
	}
	s.current, s.rest[0], s.rest = s.rest[0], nil, s.rest[1:]
	return true
}

func (s *seriesSet) Cursor() cursors.Cursor {
	switch s.current.typ {
	case influxql.Float:
		s.floats.reset(s.current.blocks)
		return &s.floats
	case influxql.Integer:
		return reads.IntegerEmptyArrayCursor
	case influxql.Unsigned:
		return reads.UnsignedEmptyArrayCursor
	case influxql.Boolean:
		return reads.BooleanEmptyArrayCursor
	case influxql.String:
		return reads.StringEmptyArrayCursor
	}
	return nil
}

// Tags are those of the series, with the measurement and the field as the
// storage API has them.
func (s *seriesSet) Tags() models.Tags {
	tags := s.current.tags.Clone()
	tags.SetString("_measurement", string(s.current.name))
	tags.SetString("_field", s.current.field)
	return tags
}

func (s *seriesSet) Close() {
	s.current, s.rest = nil, nil
	s.share.Close()
}

func (s *seriesSet) Err() error                 { return nil }
func (s *seriesSet) Stats() cursors.CursorStats { return cursors.CursorStats{} }

// floatBlocks is a cursor over blocks, which it decodes one by one into the
// same memory.
type floatBlocks struct {
	blocks  []block
	overlap bool
	out     cursors.FloatArray
}

// reset begins with blocks in the order of their shard groups. Groups follow
// each other in time; those that do not, because of truncate-shards, are
// merged, and the later group has the later value.
func (c *floatBlocks) reset(blocks []block) {
	c.blocks, c.overlap = blocks, false
	for i := 1; i < len(blocks); i++ {
		c.overlap = c.overlap || blocks[i].first <= blocks[i-1].last
	}
}

func (c *floatBlocks) Next() *cursors.FloatArray {
	switch {
	case len(c.blocks) == 0:
		c.out.Timestamps, c.out.Values = c.out.Timestamps[:0], c.out.Values[:0]
	case c.overlap:
		c.out, c.blocks = mergeBlocks(c.blocks), nil
	default:
		mustDecode(c.blocks[0], &c.out)
		c.blocks = c.blocks[1:]
	}
	return &c.out
}

func (c *floatBlocks) Close()                     { c.blocks = nil }
func (c *floatBlocks) Err() error                 { return nil }
func (c *floatBlocks) Stats() cursors.CursorStats { return cursors.CursorStats{} }

// mergeBlocks merges the blocks of each shard into those of the shards before.
func mergeBlocks(blocks []block) (all cursors.FloatArray) {
	for len(blocks) > 0 {
		var one cursors.FloatArray
		for shard := blocks[0].shard; len(blocks) > 0 && blocks[0].shard == shard; blocks = blocks[1:] {
			var a cursors.FloatArray
			mustDecode(blocks[0], &a)
			one.Timestamps, one.Values = append(one.Timestamps, a.Timestamps...), append(one.Values, a.Values...)
		}
		all.Merge(&one)
	}
	return all
}

// mustDecode decodes a block that could be decoded when it came.
func mustDecode(b block, a *cursors.FloatArray) {
	if err := tsm1.DecodeFloatArrayBlock(b.points, a); err != nil {
		panic(fmt.Sprintf("a block of shard %d that was sound: %v", b.shard, err))
	}
}
