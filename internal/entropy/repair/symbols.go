package repair

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/copies"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile/riblt"
)

const (
	maxSymbols   = 4096 // for the points of a batch
	symbolPoints = 32   // points that cost as much as a symbol, encoded
	maxUnasked   = 16   // batches
)

// symbolTries says when to ask a copy for symbols again. Symbols fail where too much differs, and then they most likely
// fail for the regions that follow. So the next batch is fetched without asking. Each further failure in a row doubles
// how many batches are, up to maxUnasked.
type symbolTries struct{ wait, next int }

// due reports whether the next batch is worth a try.
func (t *symbolTries) due() bool {
	if t.wait == 0 {
		return true
	}
	t.wait--
	return false
}

func (t *symbolTries) tried(inVain bool) {
	if inVain {
		t.next = min(max(1, 2*t.next), maxUnasked)
		t.wait = t.next
	} else {
		*t = symbolTries{}
	}
}

var errFetchIsCheaper = errors.New("fetching the points is cheaper")

// unshared is the points of a region that a copy does not share with this node, by copy; nil for a point that is not
// there. At 0 are those of this node.
type unshared []map[int64]tsm1.Value

// bySymbols asks for coded symbols of regions that this node and others have in part. It returns the differing points
// of regions that it found out about, and the other regions.
func (f *finder) bySymbols(ctx context.Context, regions []region) (known []piece, rest []region, err error) {
	if !f.set.Copies[0].Own {
		return nil, regions, nil
	}
	found := make(map[int]unshared) // by region
	costly := make(map[int]bool)
	for k, c := range f.set.Copies {
		asked, ask := askFor(regions, func(i int) bool {
			return k > 0 && regions[i].mixed() && regions[i].groups[0] != 0 && regions[i].source(k) && !costly[i]
		})
		if len(asked) == 0 {
			continue
		}
		err := errFetchIsCheaper
		if f.symbols[k].due() {
			q := symbolQuestion{
				finder: f, copy: c, at: k, key: rand.Uint64(), regions: regions, places: asked, ask: ask,
			}
			err = q.run(ctx, found)
			f.symbols[k].tried(errors.Is(err, errFetchIsCheaper))
		}
		if errors.Is(err, errFetchIsCheaper) {
			for _, i := range asked {
				costly[i] = true
			}
		} else if err != nil {
			return nil, nil, notFetched(f.set.Shard, c, err)
		}
	}
	for i, r := range regions {
		if found[i] == nil || costly[i] {
			rest = append(rest, r)
			continue
		}
		known = append(known, piece{region: r, owners: byCopy(r, found[i])})
	}
	return known, rest, nil
}

// byCopy returns the points by copy. Where a copy is not known to differ, it holds the same as this node.
func byCopy(r region, found unshared) []tsm1.Values {
	out := make([]tsm1.Values, len(r.groups))
	for _, t := range slices.Sorted(maps.Keys(found[0])) {
		for k, g := range r.groups {
			if g == 0 {
				continue
			}
			v := found[0][t]
			if theirs, ok := found[g-1][t]; ok {
				v = theirs
			}
			if v != nil {
				out[k] = append(out[k], v)
			}
		}
	}
	return out
}

// symbolQuestion finds the points that a copy and this node do not share in some regions.
type symbolQuestion struct {
	*finder
	copy    copies.Copy
	at      int // the copy's place in the set
	key     uint64
	regions []region
	places  []int          // in regions, of those that it is about
	ask     []patch.Region // these
}

// place is where a point is.
type place struct {
	region int
	time   int64
}

// run adds the points to found.
func (q *symbolQuestion) run(ctx context.Context, found map[int]unshared) error {
	d, err := q.decode(ctx)
	if err != nil {
		return err
	}
	points, err := q.verify(ctx, d)
	if err != nil {
		return err
	}
	for _, at := range q.places {
		if found[at] == nil {
			found[at] = make(unshared, len(q.set.Copies))
			for k := range found[at] {
				found[at][k] = make(map[int64]tsm1.Value)
			}
		}
	}
	for p, pair := range points {
		found[p.region][0][p.time] = pair.ours
		found[p.region][q.at][p.time] = pair.theirs
	}
	return nil
}

// decode asks for symbols until they say which points are not shared.
func (q *symbolQuestion) decode(ctx context.Context) (*riblt.Decoder, error) {
	d := riblt.NewDecoder(q.key)
	next, limit := len(q.ask), 0
	for !d.Done() {
		from := d.Len()
		remote, err := q.copy.Replica.Symbols(ctx, q.set.Shard, q.ask, q.key, from, next)
		if err != nil {
			return nil, err
		}
		if err := q.read(ctx, q.copy, len(riblt.AppendSymbols(nil, remote))); err != nil {
			return nil, err
		}
		local, err := q.set.Copies[0].Replica.Symbols(ctx, q.set.Shard, q.ask, q.key, from, next)
		if err != nil {
			return nil, err
		}
		if d.Add(remote, local) != nil {
			return nil, errFetchIsCheaper // they are those of no set
		}
		more := 0
		if from == 0 {
			a, b := int(remote[0].Count), int(local[0].Count)
			for _, i := range q.places {
				q.regions[i].points = max(a, b) / len(q.places)
			}
			limit = min(max(8, 2*len(q.ask), b/symbolPoints), maxSymbols)
			more = max(a-b, b-a)
		}
		if !d.Done() && (next >= limit || more > limit/2) {
			return nil, errFetchIsCheaper
		}
		next = min(max(4, 2*next, 3*more/2), limit)
	}
	return d, nil
}

// pair is a point of which this node and the copy have different values, nil for none.
type pair struct{ ours, theirs tsm1.Value }

// verify turns what was decoded into points. It trusts neither the decoder nor the peer: this
// node's points are read, strings are fetched, and both have to be what was decoded.
func (q *symbolQuestion) verify(ctx context.Context, d *riblt.Decoder) (map[place]pair, error) {
	remote, local := d.Found()
	theirs, err := q.values(remote)
	if err != nil {
		return nil, err
	}
	ours, err := q.values(local)
	if err != nil {
		return nil, err
	}
	places, texts := q.placesOf(theirs, ours)
	have, err := q.fetch(ctx, q.set.Copies[0], places)
	if err != nil {
		return nil, err
	}
	fetched, err := q.fetch(ctx, q.copy, texts)
	if err != nil {
		return nil, err
	}
	out := make(map[place]pair, len(places))
	for _, p := range places {
		var found pair
		bits, ok := ours[p]
		if v := have[p]; ok != (v != nil) || ok && valueBits(q.key, v) != bits {
			return nil, errFetchIsCheaper // the point was written or deleted since
		} else if ok {
			found.ours = v
		}
		if bits, ok := theirs[p]; ok {
			v := fetched[p]
			if typ := q.regions[p.region].Type; typ != digest.String {
				v = valueOf(typ, p.time, bits)
			}
			if v == nil || valueBits(q.key, v) != bits {
				return nil, errFetchIsCheaper
			}
			found.theirs = v
		}
		out[p] = found
	}
	return out, nil
}

// placesOf are the places of all points, in order, and those of strings that the other copy has.
func (q *symbolQuestion) placesOf(theirs, ours map[place]uint64) (all, texts []place) {
	all = slices.Collect(maps.Keys(theirs))
	for p := range ours {
		if _, ok := theirs[p]; !ok {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.time, b.time))
	})
	for _, p := range all {
		if _, ok := theirs[p]; ok && q.regions[p.region].Type == digest.String {
			texts = append(texts, p)
		}
	}
	return all, texts
}

// values are the decoded elements as patch.Element makes them: the bits of values by place.
func (q *symbolQuestion) values(elements []riblt.Element) (map[place]uint64, error) {
	out := make(map[place]uint64)
	for _, e := range elements {
		if e[0] >= uint64(len(q.places)) {
			return nil, errFetchIsCheaper
		}
		at := q.places[e[0]]
		if e[1] > uint64(q.regions[at].Max-q.regions[at].Min) {
			return nil, errFetchIsCheaper
		}
		p := place{at, q.regions[at].Min + int64(e[1])}
		if _, twice := out[p]; twice {
			return nil, errFetchIsCheaper
		}
		out[p] = e[2]
	}
	return out, nil
}

// fetch reads single points of a copy.
func (q *symbolQuestion) fetch(ctx context.Context, c copies.Copy, places []place) (map[place]tsm1.Value, error) {
	out := make(map[place]tsm1.Value)
	for part := range slices.Chunk(places, maxRegions) {
		ask := make([]patch.Region, len(part))
		for i, p := range part {
			ask[i] = q.regions[p.region].Region
			ask[i].Min, ask[i].Max = p.time, p.time
		}
		values, _, err := q.points(ctx, c, ask, patch.Limits{})
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			if len(v) > 0 {
				out[part[i]] = v[0]
			}
		}
	}
	return out, nil
}

// valueBits is what a value is in a patch.Element.
func valueBits(key uint64, v tsm1.Value) uint64 {
	switch x := v.Value().(type) {
	case float64:
		return math.Float64bits(x)
	case int64:
		return uint64(x)
	case uint64:
		return x
	case bool:
		if x {
			return 1
		}
		return 0
	case string:
		return patch.HashString(key, x)
	}
	return 0
}

func valueOf(typ digest.Type, t int64, bits uint64) tsm1.Value {
	switch typ {
	case digest.Float:
		return tsm1.NewValue(t, math.Float64frombits(bits))
	case digest.Integer:
		return tsm1.NewValue(t, int64(bits))
	case digest.Unsigned:
		return tsm1.NewValue(t, bits)
	case digest.Boolean:
		return tsm1.NewValue(t, bits == 1)
	}
	return nil
}
