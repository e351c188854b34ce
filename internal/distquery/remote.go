package distquery

import (
	"context"
	"slices"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/rpc"
)

// openRemote adds the iterators of other nodes' shards to ins.
func (r *reading) openRemote(ids []uint64, ins []inputs) error {
	if len(ids) == 0 {
		return nil
	}
	return r.src.others.open(r.ctx, ids, func(asking context.Context, p peer, ids []uint64) (passed, error) {
		return r.askNode(asking, p, ids, ins)
	})
}

// askNode adds the iterators of one node's shards to ins. The node is asked once, unless it has a former build.
func (r *reading) askNode(asking context.Context, p peer, ids []uint64, ins []inputs) (not passed, err error) {
	var (
		list   = make([]opened, 0, len(r.opts.list))
		series []*rpc.SeriesCount
	)
	defer func() {
		if err != nil {
			(&inputs{list: list}).close()
		}
	}()
	for len(list) < len(r.opts.list) {
		rest := r.with(calls{r.opts.list[len(list):], r.opts.keep})
		a, err := rest.openAnswer(asking, p, ids)
		if err != nil {
			return passed{}, err
		}
		for call, typ := range a.types[:min(len(a.types), len(rest.opts.list))] {
			itr, err := a.iterator(call, typ)
			if err != nil {
				a.stream.Close()
				return passed{}, err
			}
			list = append(list, opened{Iterator: itr, lowest: slices.Min(ids), only: len(ids) == 1, remote: true})
		}
		not, series = a.not, a.series
	}
	for i := range list {
		ins[i].add(list[i], series)
	}
	return not, nil
}

// request is what a node is asked for these calls over shards.
func (o calls) request(mm *influxql.Measurement, ids []uint64) (*rpc.IteratorRequest, error) {
	options, err := encodeOptions(mm, o.list[0])
	if err != nil {
		return nil, err
	}
	req := &rpc.IteratorRequest{
		ShardIds: ids, Options: options, Keep: []byte(o.keep.Name), KeepN: int64(o.keep.N),
		ByShard: mm.SystemIterator != "_series" && slices.ContainsFunc(o.list, orderMatters),
	}
	for _, opt := range o.list[1:] {
		req.MoreCalls = append(req.MoreCalls, []byte(opt.Expr.String()))
	}
	return req, nil
}

// nodeAnswer is what one node streams for the calls of a reading.
type nodeAnswer struct {
	*reading
	stream *stream
	from   peer
	ids    []uint64 // that it was asked for
	not    passed
	series []*rpc.SeriesCount
	types  []influxql.DataType // of the calls that it answers
}

// openAnswer asks a node for shards. The answer lives as long as the statement; while it is opened also asking can
// end it.
func (r *reading) openAnswer(asking context.Context, p peer, ids []uint64) (*nodeAnswer, error) {
	req, err := r.opts.request(r.mm, ids)
	if err != nil {
		return nil, err
	}
	req.Incomplete = p.incomplete
	s := r.ahead.take(p.id, req)
	if s == nil {
		if s, err = r.openStream(asking, p, req); err != nil {
			return nil, err
		}
	}
	s.query = r.ctx
	first, err := s.await(asking, func(c *rpc.IteratorChunk) bool { return c.Open })
	if err != nil {
		return nil, err
	}
	a := &nodeAnswer{
		reading: r, stream: s, from: p, ids: ids, not: passed{first.Missing, first.Unfit}, series: first.Series,
	}
	for _, typ := range append([]int32{first.DataType}, first.MoreTypes...) {
		a.types = append(a.types, influxql.DataType(typ))
	}
	s.calls = make([]streamedCall, len(a.types))
	return a, nil
}

// iterator returns the iterator of one call, nil when no point can match. It moves to other owners when the node fails
// before its first point.
func (a *nodeAnswer) iterator(call int, typ influxql.DataType) (query.Iterator, error) {
	if typ == influxql.Unknown {
		a.stream.end(call)
		return nil, nil
	}
	opt := a.opts.list[call]
	return newRemoteIterator(a.stream, call, typ, func(why error) (query.Iterator, error) {
		if err := a.src.others.fail(a.from.id, why); err != nil {
			return nil, err
		}
		held := slices.DeleteFunc(slices.Clone(a.ids), func(id uint64) bool { return a.not.has(id) })
		other := make([]inputs, 1)
		if err := a.with(calls{[]query.IteratorOptions{opt}, a.opts.keep}).openRemote(held, other); err != nil {
			closeAll(other)
			return nil, err
		}
		if orderMatters(opt) && a.mm.SystemIterator != "_series" {
			return byShard(other[0].list, opt, false, nil), nil
		}
		return other[0].merge(a.mm, opt, false)
	})
}
