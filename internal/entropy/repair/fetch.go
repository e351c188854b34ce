package repair

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/copies"
	"concord/internal/entropy/patch"
)

const (
	batchBytes  = 1 << 20 // after which a Fetch gives no more blocks
	batchPoints = 1 << 18 // the same
)

// completeUntil is how far the points of regions are complete.
type completeUntil struct {
	region int
	time   int64
}

func (c completeUntil) before(o completeUntil) bool {
	return c.region < o.region || c.region == o.region && c.time < o.time
}

// fetch reads regions, those that have to be merged from the source of each group, a bounded number of points at a
// time.
func (f *finder) fetch(ctx context.Context, regions []region, fn func(piece) error) error {
	var whole, mixed []region
	for _, r := range regions {
		if r.mixed() {
			mixed = append(mixed, r)
		} else {
			whole = append(whole, r)
		}
	}
	if err := f.forward(ctx, whole, fn); err != nil {
		return err
	}
	for len(mixed) > 0 {
		got, end, err := f.fetchSome(ctx, mixed)
		if err != nil {
			return err
		}
		for i, r := range mixed[:min(end.region+1, len(mixed))] {
			owners, any := upTo(r, got, i, end)
			if !any {
				continue
			}
			if err := fn(piece{region: r, owners: owners}); err != nil {
				return fmt.Errorf("%q field %q of shard %d: %w", r.Series, r.Field, f.set.Shard.ID, err)
			}
		}
		if mixed = mixed[end.region:]; len(mixed) == 0 {
			return nil
		}
		if end.time >= mixed[0].Max {
			mixed = mixed[1:]
		} else {
			mixed[0].Min = end.time + 1
		}
	}
	return nil
}

// fetchSome reads points of regions, by copy and by region, and returns how far those of all copies are complete.
func (f *finder) fetchSome(ctx context.Context, regions []region) (
	got []map[int]tsm1.Values, end completeUntil, err error) {
	end = completeUntil{len(regions), 0}
	got = make([]map[int]tsm1.Values, len(f.set.Copies))
	for k, c := range f.set.Copies {
		asked, ask := askFor(regions, func(i int) bool { return regions[i].source(k) && i <= end.region })
		if len(asked) == 0 {
			continue
		}
		values, last, err := f.points(ctx, c, ask, patch.Limits{Bytes: batchBytes, Points: batchPoints})
		if err != nil {
			return nil, completeUntil{}, err
		}
		got[k] = make(map[int]tsm1.Values)
		for i, v := range values {
			got[k][asked[i]] = v
		}
		if last.region < len(asked) {
			if m := (completeUntil{asked[last.region], last.time}); m.before(end) {
				end = m
			}
		}
	}
	return got, end, nil
}

// upTo returns the points of region i up to end, by copy, and whether there are any.
func upTo(r region, got []map[int]tsm1.Values, i int, end completeUntil) (owners []tsm1.Values, any bool) {
	owners = make([]tsm1.Values, len(got))
	for k, g := range r.groups {
		if g == 0 {
			continue
		}
		v := got[g-1][i]
		if i == end.region {
			n, _ := slices.BinarySearchFunc(v, end.time+1, func(v tsm1.Value, t int64) int {
				return cmp.Compare(v.UnixNano(), t)
			})
			v = v[:n]
		}
		owners[k] = v
		any = any || len(v) > 0
	}
	return owners, any
}

// forward reads regions that the copies with a group hold alike and the others have nothing in, from the source
// of the group. Their blocks need no merge, and go on as they are.
func (f *finder) forward(ctx context.Context, regions []region, fn func(piece) error) error {
	var spans patch.Spans
	for k, c := range f.set.Copies {
		places, ask := askFor(regions, func(i int) bool { return regions[i].source(k) })
		if len(ask) == 0 {
			continue
		}
		at := &cursor{regions: ask}
		err := c.Replica.Fetch(ctx, f.set.Shard, ask, patch.Limits{}, func(b patch.Block) error {
			span, err := spans.Of(b)
			if err != nil {
				return err
			}
			i, err := at.place(b, span.First, span.Last)
			if err != nil {
				return err
			}
			if err := f.read(ctx, c, len(b.Data)); err != nil {
				return err
			}
			return fn(piece{region: regions[places[i]], whole: b, count: span.Points})
		})
		if err != nil {
			return notFetched(f.set.Shard, c, err)
		}
	}
	return nil
}

// points returns the points of regions from one copy, and how far they are complete: to the end, or until limits.
func (f *finder) points(ctx context.Context, c copies.Copy, regions []patch.Region, limits patch.Limits) (
	[]tsm1.Values, completeUntil, error) {
	values := make([]tsm1.Values, len(regions))
	if len(regions) == 0 {
		return values, completeUntil{}, nil
	}
	at, size, points := &cursor{regions: regions}, 0, 0
	err := c.Replica.Fetch(ctx, f.set.Shard, regions, limits, func(b patch.Block) error {
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
		return f.read(ctx, c, len(b.Data))
	})
	if err != nil {
		return nil, completeUntil{}, notFetched(f.set.Shard, c, err)
	}
	if limits.Reached(size, points) {
		v := values[at.at]
		return values, completeUntil{at.at, v[len(v)-1].UnixNano()}, nil
	}
	return values, completeUntil{len(regions), 0}, nil
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
