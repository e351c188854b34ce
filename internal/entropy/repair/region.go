package repair

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/cluster"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

const (
	batchRegions = 64   // that are worked on at once, approximately
	maxRegions   = 2048 // that one question is about
)

// region is a part of a differing series-field.
type region struct {
	patch.Region
	groups []uint8 // by copy, as reconcile.GroupsOf
	points int     // that a copy has in it, approximately; -1 is not known
}

// source reports whether the points of copy i are those of its group.
func (r region) source(i int) bool { return int(r.groups[i]) == i+1 }

// mixed reports whether two copies have points in it, and not the same.
func (r region) mixed() bool {
	var group uint8
	for _, g := range r.groups {
		if g != 0 && group != 0 && g != group {
			return true
		}
		group = max(group, g)
	}
	return false
}

// nextBatch returns the regions of as many differences as are worked on at once, one at least.
func nextBatch(rng digest.Range, diffs []reconcile.Difference, copies int) (n int, regions []region) {
	for i, d := range diffs {
		if i > 0 && len(regions)+bits.OnesCount64(d.Windows) > batchRegions {
			break
		}
		typ := slices.Max(d.Types)
		groups, last := d.Groups, -2
		for set := d.Windows; set != 0; set &= set - 1 {
			w := bits.TrailingZeros64(set)
			g := groups[:copies]
			groups = groups[copies:]
			lo, hi := rng.Bounds(w)
			if last == w-1 && slices.Equal(g, regions[len(regions)-1].groups) {
				regions[len(regions)-1].Max = hi
			} else {
				of := patch.Region{Series: d.Series, Field: d.Field, Type: typ, Min: lo, Max: hi}
				regions = append(regions, region{of, g, -1})
			}
			last = w
		}
		n = i + 1
	}
	return n, regions
}

// askFor returns the regions that a question to a copy is about, and their places among all.
func askFor(regions []region, wanted func(i int) bool) (places []int, ask []patch.Region) {
	for i, r := range regions {
		if wanted(i) {
			places, ask = append(places, i), append(ask, r.Region)
		}
	}
	return places, ask
}

// piece is points of one series-field.
type piece struct {
	region
	owners []tsm1.Values // by copy: what it has
	// whole, when set, is what copies with a group have and the others have nothing of; owners is nil then.
	whole patch.Block
	count int // of its points

	clocks []uint64 // by copy: from before it was read, as patch.PointVersions.Clock
}

// notFetched is the error of a copy that does not tell its points.
func notFetched(sh cluster.Shard, c copies.Copy, err error) error {
	return fmt.Errorf("fetch points of shard %d from %s: %w", sh.ID, c.TCPAddr, err)
}
