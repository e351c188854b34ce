package transport

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
)

// pointMethods are those that find out which points differ, and carry them.
var pointMethods = []string{"Symbols", "Slices", "Fetch", "Versions", "Apply"}

const (
	wireSeries = "cpu,host=server-017,region=eu-west"
	wireField  = "usage_idle"
)

// series writes a field's points every ten seconds of four days to all owners, but for those that lacks says.
func (o *owners) series(id uint64, value func(rng *rand.Rand) any, lacks func(owner int, at time.Duration) bool) {
	for i := range o.stores {
		rng := rand.New(rand.NewPCG(5, id))
		o.create(i, id)
		var points []models.Point
		for at := 24 * time.Hour; at < 5*24*time.Hour; at += 10 * time.Second {
			v := value(rng)
			if !lacks(i, at) {
				points = append(points, o.point(wireSeries, wireField, o.at(at), v))
			}
		}
		o.write(i, id, points...)
		o.snapshot(i, id)
	}
}

func randomFloat(rng *rand.Rand) any { return 50 + float64(int(rng.NormFloat64()*1000))/100 }

// repaired repairs a shard and returns what the messages about points took.
func (o *owners) repaired(id uint64) (bytes int64, r entropy.RepairRecord) {
	o.t.Helper()
	o.sent.of()
	r = o.repair(id)
	if bytes = o.sent.of(pointMethods...); r.State != entropy.Done {
		o.t.Fatalf("%+v", r)
	}
	for i := range o.stores {
		if o.root(i, id) != o.root(0, id) {
			o.t.Fatalf("owner %d differs", i+1)
		}
	}
	return bytes, r
}

func TestAnIsolatedPointCostsLittle(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it counts bytes of many points")
	}
	o := newOwners(t, 2, 10)
	text := func(rng *rand.Rand) any { return fmt.Sprint("state ", rng.IntN(1000)) }
	for id, tt := range []struct {
		name  string
		value func(*rand.Rand) any
		lacks int // the owner
		bound int64
	}{
		{"there", randomFloat, 1, 256},
		{"here", randomFloat, 0, 256},
		{"a string there", text, 1, 256},
		{"a string here", text, 0, 400}, // it is fetched
	} {
		gap := 3*24*time.Hour + 7*time.Hour + 10*time.Second
		o.series(uint64(id+1), tt.value, func(owner int, at time.Duration) bool {
			return owner == tt.lacks && at == gap
		})
		bytes, r := o.repaired(uint64(id + 1))
		t.Logf("a point is missing %s: %d bytes", tt.name, bytes)
		if bytes > tt.bound || r.Points != 1 {
			t.Errorf("a point is missing %s: %d bytes and %d points, want %d bytes at most", tt.name, bytes, r.Points,
				tt.bound)
		}
	}
}

// blockBytes is the size of a field's points on an owner, encoded by the engine.
func (o *owners) blockBytes(owner int, id uint64, from, to time.Duration) (n int64) {
	r := patch.Region{
		Series: []byte(wireSeries), Field: wireField, Type: digest.Float, Min: o.at(from), Max: o.at(to) - 1,
	}
	err := patch.Read(o.t.Context(), o.stores[owner].Shard(id), []patch.Region{r}, patch.Limits{}, func(b patch.Block) error {
		n += int64(len(b.Data))
		return nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return n
}

func TestMissingBlocksCostTheirSize(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it counts bytes of many points")
	}
	o := newOwners(t, 3, 10)
	from, to := 30*time.Hour, 60*time.Hour
	for id, tt := range []struct {
		name  string
		lacks []int
		hops  int64 // each sends the points once
	}{
		{"on one other owner", []int{1}, 1},
		{"on both others", []int{1, 2}, 2},
		{"here", []int{0}, 1},
		{"here and there", []int{0, 2}, 2},
	} {
		lacking := func(i int) bool {
			for _, l := range tt.lacks {
				if l == i {
					return true
				}
			}
			return false
		}
		o.series(uint64(id+1), randomFloat, func(owner int, at time.Duration) bool {
			return lacking(owner) && at >= from &&
				at < to
		})
		has := 0
		for lacking(has) {
			has++
		}
		size := o.blockBytes(has, uint64(id+1), from, to)
		bytes, r := o.repaired(uint64(id + 1))
		ratio := float64(bytes) / float64(size*tt.hops)
		t.Logf("blocks are missing %s: %d bytes for %d in %d hops, %.3f; record says %d received, %d sent",
			tt.name, bytes, size, tt.hops, ratio, r.BytesRx, r.BytesTx)
		if ratio > 1.1 {
			t.Errorf("blocks are missing %s: %d bytes for %d in %d hops, %.2f times", tt.name, bytes, size, tt.hops,
				ratio)
		}
	}
}

// Half of the blocks of several series are missing, every other one, and no block ends with a window: what both have of
// such windows is left out, however many of them are worked on at once.
func TestScatteredGapsCostLittle(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it counts bytes of many points")
	}
	o := newOwners(t, 2, 1)
	const series, blocks = 6, 40
	sizes := make([]int64, 2)
	for owner := range o.stores {
		o.create(owner, 1)
		rng := rand.New(rand.NewPCG(5, 1))
		for s := range series {
			name := fmt.Sprintf("cpu,host=server-%03d", s)
			var points []models.Point
			for i := range blocks * 1000 {
				v := rng.NormFloat64()
				if owner == 0 || i/1000%2 == 0 {
					points = append(points, o.point(name, wireField, o.at(time.Hour+time.Duration(i)*10*time.Second), v))
				}
			}
			o.write(owner, 1, points...)
			whole := patch.Region{
				Series: []byte(name), Field: wireField, Type: digest.Float, Min: models.MinNanoTime,
				Max: models.MaxNanoTime,
			}
			err := patch.Read(t.Context(), o.stores[owner].Shard(1), []patch.Region{whole}, patch.Limits{}, func(b patch.Block) error {
				sizes[owner] += int64(len(b.Data))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		o.snapshot(owner, 1)
	}
	bytes, r := o.repaired(1)
	ratio := float64(bytes) / float64(sizes[0]-sizes[1])
	t.Logf("%d bytes for %d that are missing: %.3f", bytes, sizes[0]-sizes[1], ratio)
	if r.Points != series*blocks/2*1000 || ratio > 1.2 {
		t.Errorf("%d points for %.2f times the size of what was missing, want 1.2 times at most", r.Points, ratio)
	}
}
