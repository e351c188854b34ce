package entropy

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"concord/internal/cluster"
	"concord/internal/entropy/patch"
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
	untold []untold // by copy
}

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

// narrow cuts regions that copies have in part into slices, cut times so far, leaves out the slices that all have, and fetches
// the rest. Regions that would become too many are worked on in halves.
func (p *parts) narrow(ctx context.Context, regions []region, cut int, fn func(piece) error) error {
	big := make([]bool, len(regions))
	n := 0
	for i, r := range regions {
		if big[i] = cut < maxSplits && r.mixed() && (r.points < 0 || r.points > splitPoints) && r.Max > r.Min; big[i] {
			n++
		}
	}
	if n == 0 {
		return p.fetch(ctx, regions, fn)
	}
	if half := len(regions) / 2; len(regions)+n*patch.Slices > maxParts && half > 0 {
		if err := p.narrow(ctx, regions[:half], cut, fn); err != nil {
			return err
		}
		return p.narrow(ctx, regions[half:], cut, fn)
	}
	sums, err := p.slices(ctx, regions, big)
	if err != nil {
		return err
	}
	var parts []region
	for i, r := range regions {
		if big[i] {
			parts = appendSlices(parts, r, sums[i])
		} else {
			parts = append(parts, r)
		}
	}
	return p.narrow(ctx, parts, cut+1, fn)
}

// slices returns what each copy that is the source of a group has in the slices of the marked regions.
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
		sums, err := c.replica.Slices(ctx, p.sh, ask, key)
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
