package distquery

import (
	"bytes"
	"context"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/rpc"
	"concord/internal/seriesindex"
)

// limitSeries applies SLIMIT and SOFFSET. The engine applies them to the tag
// sets of each shard, which on a single node are those of a shard group. So
// that a cluster answers alike, the tag sets of all shards of a group are
// joined, cut by the engine's own function, and what is left becomes a
// condition: other series are neither read nor sent nor counted. A group of
// one shard is the engine's own business.
func (r *reading) limitSeries() (query.Iterator, error) {
	src, mm, opt := r.src, r.mm, r.opts.list[0]
	var whole, several []uint64
	for _, g := range src.groups {
		if len(g) == 1 || mm.SystemIterator != "" {
			whole = append(whole, g...)
		} else {
			several = append(several, g...)
		}
	}
	ins := make([]inputs, 1)
	err := func() error {
		if len(whole) > 0 {
			if err := r.with(oneCall(opt)).open(whole, ins); err != nil {
				return err
			}
		}
		every := opt
		every.SLimit, every.SOffset = 0, 0
		sets, err := r.with(oneCall(every)).tagSets(several)
		if err != nil {
			return err
		}
		for _, g := range src.groups {
			joined := join(sets, g, opt.Dimensions)
			for _, name := range slices.Sorted(maps.Keys(joined)) {
				all := joined[name]
				kept := query.LimitTagSets(all, opt.SLimit, opt.SOffset)
				if len(kept) == 0 {
					continue
				}
				one, these := mm.Clone(), every
				one.Name, one.Regex = name, nil
				if len(kept) < len(all) {
					these.Condition = and(every.Condition, oneOf(kept, opt.Dimensions))
				}
				limited := r.with(oneCall(these))
				limited.mm = one
				if err := limited.open(g, ins); err != nil {
					return err
				}
			}
		}
		return nil
	}()
	if err != nil {
		closeAll(ins)
		return nil, err
	}
	return ins[0].merge(mm, opt, src.ties(mm))
}

// join is the tag sets of a group of shards by measurement, in the engine's order.
func join(sets map[uint64][]*rpc.TagSetsChunk_TagSet, shards []uint64, dims []string) map[string][]*query.TagSet {
	seen := make(map[string]bool)
	out := make(map[string][]*query.TagSet)
	for _, id := range shards {
		for _, s := range sets[id] {
			name := string(s.Measurement)
			if k := name + "\x00" + string(s.Key); !seen[k] {
				seen[k] = true
				tags := make(map[string]string, len(dims))
				for i, v := range s.Values[:min(len(s.Values), len(dims))] {
					tags[dims[i]] = string(v)
				}
				out[name] = append(out[name], &query.TagSet{Key: s.Key, Tags: tags})
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b *query.TagSet) int { return bytes.Compare(a.Key, b.Key) })
	}
	return out
}

func and(a, b influxql.Expr) influxql.Expr {
	if a == nil {
		return b
	}
	return &influxql.BinaryExpr{Op: influxql.AND, LHS: &influxql.ParenExpr{Expr: a}, RHS: &influxql.ParenExpr{Expr: b}}
}

// oneOf is the condition that the dimensions have the values of one of the sets.
func oneOf(sets []*query.TagSet, dims []string) influxql.Expr {
	var any influxql.Expr
	for _, s := range sets {
		var all influxql.Expr
		for _, dim := range dims {
			var is influxql.Expr = &influxql.BinaryExpr{
				Op: influxql.EQ, LHS: &influxql.VarRef{Val: dim, Type: influxql.Tag}, RHS: &influxql.StringLiteral{Val: s.Tags[dim]},
			}
			if all != nil {
				is = &influxql.BinaryExpr{Op: influxql.AND, LHS: all, RHS: is}
			}
			all = is
		}
		if any != nil {
			all = &influxql.BinaryExpr{Op: influxql.OR, LHS: any, RHS: all}
		}
		any = all
	}
	return any
}

// tagSets asks for the tag sets of shards, by shard.
func (r *reading) tagSets(ids []uint64) (map[uint64][]*rpc.TagSetsChunk_TagSet, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	mm, opt := r.mm, r.opts.list[0]
	req, err := encodeOptions(mm, opt)
	if err != nil {
		return nil, err
	}
	out := make(map[uint64][]*rpc.TagSetsChunk_TagSet)
	add := func(sets []*rpc.TagSetsChunk_TagSet) {
		for _, s := range sets {
			out[s.ShardId] = append(out[s.ShardId], s)
		}
	}
	local, remote := r.src.split(ids)
	sets, missing, err := shardTagSets(r.e.store, local, mm, opt)
	if err != nil {
		return nil, err
	}
	add(sets)
	remote = append(remote, r.src.others.removed(missing)...)
	var mu sync.Mutex
	err = r.src.others.each(r.ctx, remote, func(ctx context.Context, p peer, ids []uint64) (not passed, err error) {
		chunks, err := p.TagSets(ctx, &rpc.IteratorRequest{ShardIds: ids, Options: req, Incomplete: p.incomplete})
		if err != nil {
			return passed{}, err
		}
		var got []*rpc.TagSetsChunk_TagSet
		for {
			c, err := chunks.Recv()
			if err == io.EOF {
				break
			} else if err != nil {
				return passed{}, err
			}
			got = append(got, c.TagSets...)
			not.add(c.Missing, c.Unfit)
		}
		mu.Lock()
		defer mu.Unlock()
		add(got)
		return not, nil
	})
	return out, err
}

// shardTagSets are the tag sets of shards on this node.
func shardTagSets(store *tsdb.Store, ids []uint64, mm *influxql.Measurement, opt query.IteratorOptions) (out []*rpc.TagSetsChunk_TagSet, missing []uint64, err error) {
	for _, id := range ids {
		sh := store.Shard(id)
		if sh == nil {
			missing = append(missing, id)
			continue
		}
		index, err := seriesindex.SetOf(sh)
		if err != nil {
			return nil, nil, err
		}
		names := []string{mm.Name}
		if mm.Regex != nil {
			names = tsdb.Shards{sh}.MeasurementsByRegex(mm.Regex.Val)
		}
		for _, name := range names {
			var sets []*query.TagSet
			if own, ok := index.Indexes[0].(interface {
				TagSets(name []byte, opt query.IteratorOptions) ([]*query.TagSet, error)
			}); ok { // the in-memory index, which tells the shard's series from the database's
				sets, err = own.TagSets([]byte(name), opt)
			} else {
				sets, err = index.TagSets(index.SeriesFile, []byte(name), opt)
			}
			if err != nil {
				return nil, nil, err
			}
			for _, s := range sets {
				set := &rpc.TagSetsChunk_TagSet{ShardId: id, Measurement: []byte(name), Key: s.Key}
				_, tags := models.ParseKeyBytes([]byte(s.SeriesKeys[0]))
				for _, dim := range opt.Dimensions {
					set.Values = append(set.Values, tags.Get([]byte(dim)))
				}
				out = append(out, set)
			}
		}
	}
	return out, missing, nil
}
