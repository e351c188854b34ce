// Package entropytest has nodes in memory, for tests of anti-entropy.
package entropytest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/zeebo/xxh3"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/entropy/retype"
	"concord/internal/entropy/tsmfile"
)

// Field is a series-field: the key of the series, and the name of the field.
type Field [2]string

// Shard is a shard as a map.
type Shard struct {
	modified int64
	Hints    []uint64 // as in entropy.ShardState
	Began    copystate.Beginning
	Deletes  uint64 // as in entropy.ShardState
	Lack     copystate.Lack
	Fields   map[Field]map[int64]any
}

// Replica is a node's copies in memory. It has a method for each question of entropy.Replica.
type Replica struct {
	Overtake      func() // runs once, before points are applied
	mu            sync.Mutex
	Shards        map[uint64]*Shard
	down          error                                      // what each call answers
	Paced         atomic.Bool                                // Fetch was called with a pace
	Deaf          bool                                       // to Whole
	Told          int                                        // that its copies are whole, so many times
	Unreadable    bool                                       // to Digests
	Block         chan struct{}                              // Fetch waits for it, when set
	Files         func(ctx context.Context, id uint64) error // makes a missing shard out of files, when set
	PointVersions func(p patch.Region) uint64                // of points, when set; patch.Uncertain while being written
	Asked         int                                        // for versions, so many times
}

func (r *Replica) Versions(_ context.Context, _ cluster.Shard, points []patch.Region) (patch.PointVersions, error) {
	if r.PointVersions == nil {
		return patch.PointVersions{}, entropy.ErrNoVersions
	}
	if len(points) > 0 {
		r.Change(func() { r.Asked++ })
	}
	out := patch.PointVersions{Versions: make([]uint64, len(points)), Failed: make([]uint64, len(points))}
	for i, p := range points {
		out.Versions[i] = r.PointVersions(p)
	}
	return out, nil
}

func (r *Replica) Fill(
	ctx context.Context, sh cluster.Shard, _ entropy.Source, progress func(done, total int64),
) error {
	if r.Files == nil {
		return entropy.ErrNoFiles
	}
	progress(1, 4)
	return r.Files(ctx, sh.ID)
}

func (r *Replica) lock() (func(), error) {
	r.mu.Lock()
	if r.down != nil {
		r.mu.Unlock()
		return nil, r.down
	}
	return r.mu.Unlock, nil
}

// SetDown makes every call fail, until it is called with nil.
func (r *Replica) SetDown(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

// Change runs fn, which changes what no method does.
func (r *Replica) Change(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// Write puts a value, creating the shard.
func (r *Replica) Write(id uint64, series, field string, t int64, v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(id, Field{series, field}, t, v)
}

func (r *Replica) put(id uint64, k Field, t int64, v any) {
	sh := r.Shards[id]
	if sh == nil {
		sh = &Shard{Fields: make(map[Field]map[int64]any)}
		r.Shards[id] = sh
	}
	sh.modified = time.Now().UnixNano()
	if v == nil {
		return
	}
	if sh.Fields[k] == nil {
		sh.Fields[k] = make(map[int64]any)
	}
	sh.Fields[k][t] = v
}

// Dump is all that a shard holds.
func (r *Replica) Dump(id uint64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Shards[id] == nil {
		return "missing"
	}
	return fmt.Sprint(r.Shards[id].Fields)
}

func (r *Replica) States(_ context.Context, ids []uint64) (map[uint64]entropy.ShardState, error) {
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make(map[uint64]entropy.ShardState)
	for _, id := range ids {
		out[id] = entropy.ShardState{}
		if sh := r.Shards[id]; sh != nil {
			out[id] = entropy.ShardState{
				Version: entropy.Version{Exists: true, LastModified: sh.modified}, Hints: sh.Hints, Beginning: sh.Began,
				Deletes: sh.Deletes, Lack: sh.Lack,
			}
		}
	}
	return out, nil
}

func (r *Replica) Discard(_ context.Context, id, _ uint64) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	delete(r.Shards, id)
	return nil
}

func (r *Replica) Whole(_ context.Context, id, _ uint64) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if r.Deaf {
		return ErrAway
	}
	r.Told++
	if sh := r.Shards[id]; sh != nil {
		sh.Began = copystate.FoundEqual
	}
	return nil
}

func (r *Replica) Root(ctx context.Context, sh cluster.Shard, until int64) (root digest.Sum, err error) {
	err = r.Digests(ctx, sh, until, func(f *digest.SeriesField) error {
		for _, s := range f.Windows {
			root.Add(s)
		}
		return nil
	})
	return root, err
}

func typeOf(v any) digest.Type {
	switch v.(type) {
	case float64:
		return digest.Float
	case int64:
		return digest.Integer
	}
	return digest.String
}

func (r *Replica) Summarize(ctx context.Context, sh cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
	return reconcile.NewSpool(ctx, "", key, func(ctx context.Context, fn func(*digest.SeriesField) error) error {
		return r.Digests(ctx, sh, until, fn)
	})
}

func (r *Replica) Digests(_ context.Context, sh cluster.Shard, until int64, fn func(*digest.SeriesField) error) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	if r.Unreadable {
		unlock()
		return errors.New("input/output error")
	}
	rng := digest.Range{Start: sh.Start, End: sh.End}
	var out []digest.SeriesField
	if s := r.Shards[sh.ID]; s != nil {
		for k, points := range s.Fields {
			f := digest.SeriesField{Series: []byte(k[0]), Field: k[1]}
			n := 0
			for t, v := range points {
				w := rng.Window(t)
				if _, hi := rng.Bounds(w); until != entropy.Everything && hi >= until {
					continue
				}
				h := fnv.New64a()
				fmt.Fprint(h, k, t, v, typeOf(v))
				f.Type = typeOf(v)
				f.Windows[w].Add(digest.Sum{Count: 1, Lo: h.Sum64()})
				n++
			}
			if n > 0 {
				out = append(out, f)
			}
		}
	}
	unlock()
	slices.SortFunc(out, func(a, b digest.SeriesField) int {
		return cmp.Or(bytes.Compare(a.Series, b.Series), cmp.Compare(a.Field, b.Field))
	})
	for i := range out {
		if err := fn(&out[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replica) Fetch(
	ctx context.Context, sh cluster.Shard, regions []patch.Region, limits patch.Limits, fn func(patch.Block) error,
) error {
	if pace.Of(ctx) != nil {
		r.Paced.Store(true)
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	block := r.Block
	var out []patch.Block
	for _, g := range regions {
		var vs tsm1.Values
		if s := r.Shards[sh.ID]; s != nil {
			for t, v := range s.Fields[Field{string(g.Series), g.Field}] {
				if t >= g.Min && t <= g.Max {
					vs = append(vs, tsm1.NewValue(t, v))
				}
			}
		}
		if len(vs) == 0 {
			continue
		}
		slices.SortFunc(vs, func(a, b tsm1.Value) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
		data, err := vs.Encode(nil)
		if err != nil {
			unlock()
			return err
		}
		out = append(out, patch.Block{Series: g.Series, Field: g.Field, Data: data})
	}
	unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var bytes, points int
	for _, b := range out {
		if err := fn(b); err != nil {
			return err
		}
		n, err := tsm1.BlockCount(b.Data)
		if err != nil {
			return err
		}
		if bytes, points = bytes+len(b.Data), points+n; limits.Reached(bytes, points) {
			break
		}
	}
	return nil
}

// points calls fn with each point of regions as patch.Symbols counts it.
func (r *Replica) points(
	sh cluster.Shard, regions []patch.Region, key uint64, fn func(region int, t int64, e riblt.Element),
) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s := r.Shards[sh.ID]
	if s == nil {
		return nil
	}
	for i, g := range regions {
		for t, v := range s.Fields[Field{string(g.Series), g.Field}] {
			if t < g.Min || t > g.Max || typeOf(v) != g.Type {
				continue
			}
			var bits uint64
			switch v := v.(type) {
			case float64:
				bits = math.Float64bits(v)
			case int64:
				bits = uint64(v)
			case string:
				bits = patch.HashString(key, v)
			}
			fn(i, t, patch.Element(i, uint64(t-g.Min), bits))
		}
	}
	return nil
}

func (r *Replica) Symbols(
	_ context.Context, sh cluster.Shard, regions []patch.Region, key uint64, from, to int,
) ([]riblt.Symbol, error) {
	return riblt.Encode(key, from, to, func(add func(riblt.Element)) error {
		return r.points(sh, regions, key, func(_ int, _ int64, e riblt.Element) { add(e) })
	})
}

func (r *Replica) Slices(
	_ context.Context, sh cluster.Shard, regions []patch.Region, key uint64,
) ([][patch.Slices]patch.Slice, error) {
	out := make([][patch.Slices]patch.Slice, len(regions))
	err := r.points(sh, regions, key, func(i int, t int64, e riblt.Element) {
		for j := range patch.Slices {
			if part, ok := regions[i].Slice(j, j); ok && part.Min <= t && t <= part.Max {
				out[i][j].Count++
				out[i][j].Sum += xxh3.HashStringSeed(fmt.Sprint(t, e), key)
			}
		}
	})
	return out, err
}

func (r *Replica) SetAside(context.Context, uint64) error {
	return errors.New("no copy is damaged")
}
func (r *Replica) Healed(context.Context, uint64) error { return errors.New("no copy is damaged") }

func (r *Replica) Apply(
	_ context.Context, sh cluster.Shard, read entropy.ReadAt, blocks []patch.Block,
) (patch.Applied, error) {
	unlock, err := r.lock()
	if err != nil {
		return patch.Applied{}, err
	}
	defer unlock()
	if r.Overtake != nil && len(blocks) > 0 {
		r.Overtake()
		r.Overtake = nil
	}
	if have := r.Shards[sh.ID]; have != nil && len(blocks) > 0 && have.Deletes != read.Deletes {
		return patch.Applied{}, entropy.ErrOvertaken
	}
	r.put(sh.ID, Field{}, 0, nil)
	var out patch.Applied
	for i, b := range blocks {
		vs, err := tsm1.DecodeBlock(b.Data, nil)
		if err != nil {
			return out, err
		}
		if have := r.typeOf(sh.ID, b); have != 0 && have != typeOf(vs[0].Value()) {
			out.Refused = append(out.Refused, patch.Refused{
				Block: i, Points: len(vs), Type: have, Reason: "field type conflict",
			})
			continue
		}
		for _, v := range vs {
			r.put(sh.ID, Field{string(b.Series), b.Field}, v.UnixNano(), v.Value())
			out.Points++
		}
	}
	return out, nil
}

// typeOf is the type that a block's field has in its measurement; 0 when there is none.
func (r *Replica) typeOf(id uint64, b patch.Block) digest.Type {
	for k, points := range r.Shards[id].Fields {
		if k[1] == b.Field && bytes.Equal(models.ParseName([]byte(k[0])), models.ParseName(b.Series)) {
			for _, v := range points {
				return typeOf(v)
			}
		}
	}
	return 0
}

// ErrAway is what a node answers that is away.
var ErrAway = errors.New("connection refused")

// FieldType and Retype are for none of these nodes.
func (r *Replica) FieldType(context.Context, uint64, string, string) (digest.Type, bool, error) {
	return 0, false, errors.New("not in memory")
}

func (r *Replica) Retype(context.Context, uint64, retype.Field) (retype.Kept, error) {
	return retype.Kept{}, errors.New("not in memory")
}

// Scrub finds no damage.
func (r *Replica) Scrub(context.Context, uint64) ([]*tsmfile.Damage, error) { return nil, nil }

// Damaged is empty.
func (r *Replica) Damaged() (map[uint64]string, error) { return nil, nil }

// Sound has nothing to forget.
func (r *Replica) Sound(uint64) error { return nil }
