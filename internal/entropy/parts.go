package entropy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/cluster"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile/riblt"
)

const (
	maxSplits    = 4    // times that a region is cut into slices
	splitPoints  = 256  // of a region that is worth cutting
	maxParts     = 2048 // regions of a batch after cutting
	maxSymbols   = 4096 // for the points of a batch
	symbolPoints = 32   // points that cost as much as a symbol, encoded
)

// parts finds the points of regions that copies do not share. Three ways lead there, from the
// cheapest: coded symbols tell of a few points in regions that are the same otherwise;
// sums over slices leave out what is the same before and after a gap; the rest is fetched, once for
// each group of copies that hold the same.
type parts struct {
	s      *Service
	st     *cluster.State
	sh     cluster.Shard
	copies []copyOf
	out    *outcome
}

// told is a region of which all differing points are known.
type told struct {
	region
	owners []tsm1.Values // by copy
}

var errDearer = errors.New("fetching the points is cheaper")

// spent counts what was read from a copy, and waits for it to be allowed.
func (p *parts) spent(ctx context.Context, c copyOf, n int) error {
	if c.owner != p.s.deps.Meta.NodeID() {
		p.s.stats.bytesRx.Add(int64(n))
		p.out.change(func() { p.out.rx += int64(n) })
	}
	return p.s.Throttle(ctx, n)
}

func (p *parts) fail(c copyOf, err error) error {
	return fmt.Errorf("fetch points of shard %d from %s: %w", p.sh.ID, addr(p.st, c.owner), err)
}

// tell asks for coded symbols of regions that this node and others have in part, and
// returns the regions that it did not find out about.
func (p *parts) tell(ctx context.Context, regions []region) (known []told, rest []region, err error) {
	mine, ok := p.copies[0].replica.(PointTeller)
	if !ok || p.copies[0].owner != p.s.deps.Meta.NodeID() {
		return nil, regions, nil
	}
	found := make(map[int][]map[int64]tsm1.Value) // by region, by copy: the points that a copy does not share with this node
	dearer := make(map[int]bool)
	for k, c := range p.copies {
		theirs, ok := c.replica.(PointTeller)
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
		if ok {
			err = p.symbols(ctx, c, mine, theirs, regions, asked, found)
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
func (p *parts) symbols(ctx context.Context, c copyOf, mine, theirs PointTeller, regions []region, asked []int, found map[int][]map[int64]tsm1.Value) error {
	key := rand.Uint64()
	ask := make([]patch.Region, len(asked))
	for i, at := range asked {
		ask[i] = regions[at].Region
	}
	d := riblt.NewDecoder(key)
	next, limit := len(ask), 0
	for !d.Done() {
		from := d.Len()
		remote, err := theirs.Symbols(ctx, p.sh, ask, key, from, next)
		if err != nil {
			return err
		}
		if err := p.spent(ctx, c, len(riblt.AppendSymbols(nil, remote))); err != nil {
			return err
		}
		local, err := mine.Symbols(ctx, p.sh, ask, key, from, next)
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

// within cuts regions that copies have in part at the ends of the shard, outside of which there
// are no points but foreign ones: slices are to be of what is inside.
func (p *parts) within(regions []region) (out []region) {
	for _, r := range regions {
		if r.mixed() {
			if r.Min < p.sh.Start && p.sh.Start <= r.Max {
				before := r
				before.Max, r.Min = p.sh.Start-1, p.sh.Start
				out = append(out, before)
			}
			if r.Min < p.sh.End && p.sh.End <= r.Max {
				inside := r
				inside.Max, r.Min = p.sh.End-1, p.sh.End
				out = append(out, inside)
			}
		}
		out = append(out, r)
	}
	return out
}

// split cuts regions that copies have in part, and leaves out the slices that all have.
func (p *parts) split(ctx context.Context, regions []region) ([]region, error) {
	regions = p.within(regions)
	for range maxSplits {
		big := make([]bool, len(regions))
		n := 0
		for i, r := range regions {
			if big[i] = r.mixed() && (r.points < 0 || r.points > splitPoints) && r.Max > r.Min; big[i] {
				n++
			}
		}
		if n == 0 || len(regions)+n*patch.Slices > maxParts {
			break
		}
		sums, err := p.slices(ctx, regions, big)
		if err != nil {
			return nil, err
		}
		if sums == nil {
			break
		}
		var parts []region
		for i, r := range regions {
			if big[i] {
				parts = appendSlices(parts, r, sums[i])
			} else {
				parts = append(parts, r)
			}
		}
		regions = parts
	}
	return regions, nil
}

// slices returns what each copy that is the source of a group has in the slices of the marked regions; nil
// when one cannot tell.
func (p *parts) slices(ctx context.Context, regions []region, marked []bool) ([][][patch.Slices]patch.Slice, error) {
	key := rand.Uint64()
	out := make([][][patch.Slices]patch.Slice, len(regions))
	for k, c := range p.copies {
		var asked []int
		var ask []patch.Region
		for i, r := range regions {
			if marked[i] && r.source(k) {
				asked, ask = append(asked, i), append(ask, r.Region)
			}
		}
		if len(asked) == 0 {
			continue
		}
		teller, ok := c.replica.(PointTeller)
		if !ok {
			return nil, nil
		}
		sums, err := teller.Slices(ctx, p.sh, ask, key)
		if err != nil {
			return nil, p.fail(c, err)
		}
		if err := p.spent(ctx, c, len(sums)*patch.Slices*10); err != nil { // about
			return nil, err
		}
		for i, at := range asked {
			if out[at] == nil {
				out[at] = make([][patch.Slices]patch.Slice, len(p.copies))
			}
			out[at][k] = sums[i]
		}
	}
	return out, nil
}

// appendSlices appends the slices of r that copies do not share; sums are by copy, for the sources of groups.
func appendSlices(parts []region, r region, sums [][patch.Slices]patch.Slice) []region {
	first := len(parts)
	for j := range patch.Slices {
		piece, ok := r.Slice(j, j)
		if !ok {
			break
		}
		groups := make([]uint8, len(r.groups))
		held := make([]patch.Slice, len(r.groups))
		points, differ := 0, false
		for k, g := range r.groups {
			if g != 0 {
				held[k] = sums[g-1][j]
			}
			if held[k].Count > 0 {
				groups[k] = uint8(1 + slices.Index(held[:k+1], held[k]))
			}
			points = max(points, int(min(held[k].Count, math.MaxInt32)))
			differ = differ || groups[k] != groups[0]
		}
		if !differ {
			continue
		}
		if n := len(parts); n > first && parts[n-1].Max == piece.Min-1 && slices.Equal(parts[n-1].groups, groups) && !parts[n-1].mixed() {
			parts[n-1].Max = piece.Max
			parts[n-1].points += points
			continue
		}
		parts = append(parts, region{piece, groups, points})
	}
	return parts
}

// mark is how far the points of regions are complete.
type mark struct {
	region int
	time   int64
}

// piece is points of one series-field.
type piece struct {
	region
	owners []tsm1.Values // by copy: what it has
	// whole, when set, is what copies with a group have and the others have nothing of; owners is nil then.
	whole patch.Block
	count int // of its points
}

// forward reads regions that the copies with a group hold alike and the others have nothing in, from the source
// of the group. Their blocks need no merge, and go on as they are.
func (p *parts) forward(ctx context.Context, regions []region, fn func(piece) error) error {
	var spans patch.Spans
	for k, c := range p.copies {
		var of []region
		var ask []patch.Region
		for _, r := range regions {
			if r.source(k) {
				of, ask = append(of, r), append(ask, r.Region)
			}
		}
		if len(ask) == 0 {
			continue
		}
		at := &cursor{regions: ask}
		err := c.replica.Fetch(ctx, p.sh, ask, patch.Limits{}, func(b patch.Block) error {
			span, err := spans.Of(b)
			if err != nil {
				return err
			}
			i, err := at.place(b, span.First, span.Last)
			if err != nil {
				return err
			}
			if err := p.spent(ctx, c, len(b.Data)); err != nil {
				return err
			}
			return fn(piece{region: of[i], whole: b, count: span.Points})
		})
		if err != nil {
			return p.fail(c, err)
		}
	}
	return nil
}

// cursor finds the regions that blocks belong to, which come in their order.
type cursor struct {
	regions []patch.Region
	at      int
	last    int64 // time of the region's last point
	any     bool  // there is one
}

func (c *cursor) place(b patch.Block, first, last int64) (int, error) {
	for at := c.at; at < len(c.regions); at++ {
		r := &c.regions[at]
		if b.Field != r.Field || !bytes.Equal(b.Series, r.Series) || first < r.Min || last > r.Max {
			continue
		}
		if at == c.at && c.any && c.last >= first {
			return 0, fmt.Errorf("points of %q field %q are out of order", b.Series, b.Field)
		}
		c.at, c.last, c.any = at, last, true
		return at, nil
	}
	return 0, fmt.Errorf("got points of %q field %q, which were not asked for", b.Series, b.Field)
}

// fetch reads regions, those that have to be merged from the source of each group, a bounded number of points at a time.
func (p *parts) fetch(ctx context.Context, regions []region, fn func(piece) error) error {
	var whole, mixed []region
	for _, r := range regions {
		if r.mixed() {
			mixed = append(mixed, r)
		} else {
			whole = append(whole, r)
		}
	}
	if err := p.forward(ctx, whole, fn); err != nil {
		return err
	}
	regions = mixed
	for len(regions) > 0 {
		end := mark{len(regions), 0}
		got := make([]map[int]tsm1.Values, len(p.copies)) // by copy, by region
		for k, c := range p.copies {
			var asked []int
			var ask []patch.Region
			for i, r := range regions {
				if r.source(k) && i <= end.region {
					asked, ask = append(asked, i), append(ask, r.Region)
				}
			}
			if len(asked) == 0 {
				continue
			}
			values, last, err := p.read(ctx, c, ask, patch.Limits{Bytes: batchBytes, Points: batchPoints})
			if err != nil {
				return err
			}
			got[k] = make(map[int]tsm1.Values)
			for i, v := range values {
				got[k][asked[i]] = v
			}
			if last.region < len(asked) {
				m := mark{asked[last.region], last.time}
				if m.region < end.region || m.region == end.region && m.time < end.time {
					end = m
				}
			}
		}
		for i, r := range regions[:min(end.region+1, len(regions))] {
			owners := make([]tsm1.Values, len(p.copies))
			any := false
			for k, g := range r.groups {
				if g == 0 {
					continue
				}
				v := got[g-1][i]
				if i == end.region {
					n, _ := slices.BinarySearchFunc(v, end.time+1, func(v tsm1.Value, t int64) int { return cmp.Compare(v.UnixNano(), t) })
					v = v[:n]
				}
				owners[k] = v
				any = any || len(v) > 0
			}
			if !any {
				continue
			}
			if err := fn(piece{region: r, owners: owners}); err != nil {
				return fmt.Errorf("%q field %q of shard %d: %w", r.Series, r.Field, p.sh.ID, err)
			}
		}
		regions = regions[end.region:]
		if len(regions) > 0 {
			if end.time >= regions[0].Max {
				regions = regions[1:]
			} else {
				regions[0].Min = end.time + 1
			}
		}
	}
	return nil
}

// read returns the points of regions from one copy, and how far they are complete: to the end, or until limits.
func (p *parts) read(ctx context.Context, c copyOf, regions []patch.Region, limits patch.Limits) ([]tsm1.Values, mark, error) {
	values := make([]tsm1.Values, len(regions))
	if len(regions) == 0 {
		return values, mark{}, nil
	}
	at, size, points := &cursor{regions: regions}, 0, 0
	err := c.replica.Fetch(ctx, p.sh, regions, limits, func(b patch.Block) error {
		if limits.Reached(size, points) {
			return errors.New("got more points than were asked for")
		}
		v, err := b.Decode()
		if err != nil {
			return err
		}
		i, err := at.place(b, v[0].UnixNano(), v[len(v)-1].UnixNano())
		if err != nil {
			return err
		}
		values[i] = append(values[i], v...)
		size, points = size+len(b.Data), points+len(v)
		return p.spent(ctx, c, len(b.Data))
	})
	if err != nil {
		return nil, mark{}, p.fail(c, err)
	}
	if limits.Reached(size, points) {
		v := values[at.at]
		return values, mark{at.at, v[len(v)-1].UnixNano()}, nil
	}
	return values, mark{len(regions), 0}, nil
}
