package entropy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile/riblt"
)

// told is a region of which all differing points are known.
type told struct {
	region
	owners []tsm1.Values // by copy
}

// untold is how symbols fared with a copy. Where they were in vain, because too much differs, they most likely are for
// the regions that follow: those are not asked about, in twice as many batches each time.
type untold struct{ wait, next int }

const maxUntold = 16 // batches

func (u *untold) asks() bool {
	if u.wait == 0 {
		return true
	}
	u.wait--
	return false
}

func (u *untold) met(dearer bool) {
	if dearer {
		u.next = min(max(1, 2*u.next), maxUntold)
		u.wait = u.next
	} else {
		*u = untold{}
	}
}

var errDearer = errors.New("fetching the points is cheaper")

// tell asks for coded symbols of regions that this node and others have in part, and
// returns the regions that it did not find out about.
func (p *parts) tell(ctx context.Context, regions []region) (known []told, rest []region, err error) {
	if p.copies[0].owner != p.s.deps.Meta.NodeID() {
		return nil, regions, nil
	}
	found := make(map[int][]map[int64]tsm1.Value) // by region, by copy: the points that a copy does not share with this node
	dearer := make(map[int]bool)
	for k, c := range p.copies {
		var asked []int
		for i, r := range regions {
			if k > 0 && r.mixed() && r.groups[0] != 0 && r.source(k) && !dearer[i] {
				asked = append(asked, i)
			}
		}
		if len(asked) == 0 {
			continue
		}
		err := errDearer
		if p.untold[k].asks() {
			err = p.symbols(ctx, c, regions, asked, found)
			p.untold[k].met(errors.Is(err, errDearer))
		}
		if errors.Is(err, errDearer) {
			for _, i := range asked {
				dearer[i] = true
			}
		} else if err != nil {
			return nil, nil, p.fail(c, err)
		}
	}
	for i, r := range regions {
		if found[i] == nil || dearer[i] {
			rest = append(rest, r)
			continue
		}
		known = append(known, told{r, spread(r, found[i])})
	}
	return known, rest, nil
}

// spread returns the points by copy: what a copy is not known to hold otherwise it holds as this node does.
func spread(r region, found []map[int64]tsm1.Value) []tsm1.Values {
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

// symbols finds the points that a copy and this node do not share in the asked regions. It
// adds them to found, nil for a point that is not there: those of this node at 0.
func (p *parts) symbols(ctx context.Context, c copyOf, regions []region, asked []int, found map[int][]map[int64]tsm1.Value) error {
	key := rand.Uint64()
	ask := make([]patch.Region, len(asked))
	for i, at := range asked {
		ask[i] = regions[at].Region
	}
	d := riblt.NewDecoder(key)
	next, limit := len(ask), 0
	for !d.Done() {
		from := d.Len()
		remote, err := c.replica.Symbols(ctx, p.sh, ask, key, from, next)
		if err != nil {
			return err
		}
		if err := p.spent(ctx, c, len(riblt.AppendSymbols(nil, remote))); err != nil {
			return err
		}
		local, err := p.copies[0].replica.Symbols(ctx, p.sh, ask, key, from, next)
		if err != nil {
			return err
		}
		if d.Add(remote, local) != nil {
			return errDearer // they are those of no set
		}
		more := 0
		if from == 0 {
			a, b := int(remote[0].Count), int(local[0].Count)
			for _, i := range asked {
				regions[i].points = max(a, b) / len(asked)
			}
			limit = min(max(8, 2*len(ask), b/symbolPoints), maxSymbols)
			more = max(a-b, b-a)
		}
		if !d.Done() && (next >= limit || more > limit/2) {
			return errDearer
		}
		next = min(max(4, 2*next, 3*more/2), limit)
	}
	return p.points(ctx, c, d, regions, asked, key, found)
}

// points turns what was decoded into points. It trusts neither the decoder nor the peer: this
// node's points are read, strings are fetched, and both have to be what was decoded.
func (p *parts) points(ctx context.Context, c copyOf, d *riblt.Decoder, regions []region, asked []int, key uint64, found map[int][]map[int64]tsm1.Value) error {
	remote, local := d.Found()
	type place struct {
		region int
		time   int64
	}
	theirs, ours := make(map[place]uint64), make(map[place]uint64)
	for _, side := range []struct {
		elements []riblt.Element
		values   map[place]uint64
	}{{remote, theirs}, {local, ours}} {
		for _, e := range side.elements {
			if e[0] >= uint64(len(asked)) || e[1] > uint64(regions[asked[e[0]]].Max-regions[asked[e[0]]].Min) {
				return errDearer
			}
			at := asked[e[0]]
			pl := place{at, regions[at].Min + int64(e[1])}
			if _, twice := side.values[pl]; twice {
				return errDearer
			}
			side.values[pl] = e[2]
		}
	}
	places := slices.Collect(maps.Keys(theirs))
	for pl := range ours {
		if _, ok := theirs[pl]; !ok {
			places = append(places, pl)
		}
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Or(cmp.Compare(a.region, b.region), cmp.Compare(a.time, b.time)) })
	read := func(c copyOf, places []place) (map[place]tsm1.Value, error) {
		out := make(map[place]tsm1.Value)
		for part := range slices.Chunk(places, maxParts) {
			ask := make([]patch.Region, len(part))
			for i, pl := range part {
				ask[i] = regions[pl.region].Region
				ask[i].Min, ask[i].Max = pl.time, pl.time
			}
			values, _, err := p.read(ctx, c, ask, patch.Limits{})
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
	have, err := read(p.copies[0], places)
	if err != nil {
		return err
	}
	var texts []place
	for _, pl := range places {
		if _, ok := theirs[pl]; ok && regions[pl.region].Type == digest.String {
			texts = append(texts, pl)
		}
	}
	fetched, err := read(c, texts)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(p.copies, func(o copyOf) bool { return o.owner == c.owner })
	add := make(map[place][2]tsm1.Value, len(places))
	for _, pl := range places {
		var pair [2]tsm1.Value
		bits, ok := ours[pl]
		if v := have[pl]; ok != (v != nil) || ok && valueBits(key, v) != bits {
			return errDearer // the point was written or deleted since
		} else if ok {
			pair[0] = v
		}
		if bits, ok := theirs[pl]; ok {
			v := fetched[pl]
			if regions[pl.region].Type != digest.String {
				v = valueOf(regions[pl.region].Type, pl.time, bits)
			}
			if v == nil || valueBits(key, v) != bits {
				return errDearer
			}
			pair[1] = v
		}
		add[pl] = pair
	}
	for _, at := range asked {
		if found[at] == nil {
			found[at] = make([]map[int64]tsm1.Value, len(p.copies))
			for k := range found[at] {
				found[at][k] = make(map[int64]tsm1.Value)
			}
		}
	}
	for pl, pair := range add {
		found[pl.region][0][pl.time] = pair[0]
		found[pl.region][n][pl.time] = pair[1]
	}
	return nil
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
