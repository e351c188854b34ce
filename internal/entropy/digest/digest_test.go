package digest_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sort"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
)

const key = 42

var shardRange = digest.Range{Start: 0, End: 64_000}

// openStore returns an engine's store that closes with the test.
func openStore(t testing.TB) *tsdb.Store {
	t.Helper()
	s := enginetest.New(t.TempDir(), tsdb.InmemIndexName)
	s.EngineOptions.MonitorDisabled = true // it disables the snapshots of a shard that it finds idle
	return enginetest.Open(t, s)
}

// id names a point: what a model keeps of it but its value.
type id struct {
	series, field string
	t             int64
}

// model is what a shard should hold.
type model map[id]any

func (m model) seriesFields() map[[2]string]int {
	out := make(map[[2]string]int)
	for p := range m {
		out[[2]string{p.series, p.field}]++
	}
	return out
}

// fields have one type each, as in a shard.
var fields = []string{"b", "f", "i", "s"}

func value(field string, n int) any {
	switch field {
	case "b":
		return n%2 == 0
	case "f":
		return []float64{0, math.Copysign(0, -1), 1.5, -2.25, math.MaxFloat64}[n%5]
	case "i":
		return int64(n) - 2
	default:
		return []string{"", "a", "b,c = \"d\"", "ü"}[n%4]
	}
}

func write(t interface{ Fatal(...any) }, s *tsdb.Store, shard uint64, series, field string, at int64, v any) {
	name, tags := models.ParseKeyBytes([]byte(series))
	p, err := models.NewPoint(string(name), tags, models.Fields{field: v}, time.Unix(0, at))
	if err != nil {
		t.Fatal(err)
	}
	err = s.WriteToShard(tsdb.WriteContext{}, shard, []models.Point{p})
	if err != nil {
		t.Fatal(err)
	}
}

// all returns the digests of a shard by series and field, checking their order.
func all(t interface {
	Fatal(...any)
	Errorf(string, ...any)
}, s *tsdb.Store, shard uint64) (map[[2]string]digest.SeriesField, digest.Sum) {
	out := make(map[[2]string]digest.SeriesField)
	var last []byte
	err := digest.Compute(context.Background(), s.Shard(shard), key, shardRange, math.MaxInt64, func(f *digest.SeriesField) error {
		now := append(append(bytes.Clone(f.Series), 0), f.Field...)
		if last != nil && bytes.Compare(last, now) >= 0 {
			t.Errorf("%q comes after %q", now, last)
		}
		last = now
		out[[2]string{string(f.Series), f.Field}] = *f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	root, err := digest.Root(context.Background(), s.Shard(shard), key, shardRange, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	return out, root
}

// names sort differently by measurement than by whole key: + is less than the comma.
var names = []string{"cpu,host=a", "cpu,host=b", "cpu+x,host=a", "mem"}

// TestUnequalShardsAreHealed draws writes, overwrites and deletes, applies
// them to one shard as they come, with flushes and compactions in between, and to
// another only as their outcome, in another order. Both have equal digests; after another
// point on one of them they have not, until reconcile, merge and apply made them equal.
func TestUnequalShardsAreHealed(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it digests many shards")
	}
	dirty, clean := openStore(t), openStore(t)
	var shard uint64
	rapid.Check(t, func(t *rapid.T) {
		shard++
		for _, s := range []*tsdb.Store{dirty, clean} {
			if err := s.CreateShard(fmt.Sprint("db", shard), "rp", shard, true); err != nil {
				t.Fatal(err)
			}
		}
		m := make(model)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 12).Draw(t, "step") {
			default:
				p := id{
					rapid.SampledFrom(names).Draw(t, "series"), rapid.SampledFrom(fields).Draw(t, "field"),
					int64(rapid.IntRange(-10, 64_010).Draw(t, "time")),
				}
				if rapid.Bool().Draw(t, "again") && len(m) > 0 { // overwrite
					p = rapid.SampledFrom(sorted(m)).Draw(t, "point")
				}
				v := value(p.field, rapid.IntRange(0, 9).Draw(t, "value"))
				write(t, dirty, shard, p.series, p.field, p.t, v)
				m[p] = v
			case 10:
				from := int64(rapid.IntRange(0, 64_000).Draw(t, "from"))
				to := from + int64(rapid.IntRange(0, 20_000).Draw(t, "length"))
				cond := influxql.MustParseExpr(fmt.Sprintf("time >= %d AND time <= %d", from, to))
				if err := dirty.DeleteSeries(fmt.Sprint("db", shard),
					[]influxql.Source{&influxql.Measurement{Name: "cpu"}},
					cond); err != nil {
					t.Fatal(err)
				}
				for p := range m {
					if name, _ := models.ParseKeyBytes([]byte(p.series)); string(name) == "cpu" && p.t >= from &&
						p.t <= to {
						delete(m, p)
					}
				}
			case 11:
				enginetest.Flush(t, dirty.Shard(shard))
			case 12:
				if err := enginetest.Engine(t, dirty.Shard(shard)).ScheduleFullCompaction(); err != nil {
					t.Fatal(err)
				}
			}
		}
		points := rapid.Permutation(sorted(m)).Draw(t, "order")
		for _, p := range points {
			write(t, clean, shard, p.series, p.field, p.t, m[p])
		}

		a, rootA := all(t, dirty, shard)
		b, rootB := all(t, clean, shard)
		if d := cmp.Diff(b, a); d != "" || rootA != rootB {
			t.Fatalf("equal data, other digests:\n%s", d)
		}
		counts := make(map[[2]string]int)
		for k, f := range a {
			counts[k] = int(f.Sum().Count)
		}
		if d := cmp.Diff(m.seriesFields(), counts); d != "" {
			t.Fatalf("not the points of the model:\n%s", d)
		}
		if len(points) > 0 {
			p := points[0]
			write(t, dirty, shard, p.series, p.field, p.t+1_000_000_007, value(p.field, 3))
			if _, root := all(t, dirty, shard); root == rootA {
				t.Fatal("one more point, the same root")
			}
			heal(t, shard, dirty, clean)
			_, rootA = all(t, dirty, shard)
			if _, rootB = all(t, clean, shard); rootA != rootB {
				t.Fatal("reconcile, merge and apply did not make the shards equal")
			}
		}
	})
}

// heal reconciles the copies of a shard and gives each what it lacks.
func heal(t interface{ Fatal(...any) }, shard uint64, stores ...*tsdb.Store) {
	ctx := context.Background()
	owners := make([]reconcile.Owner, len(stores))
	for i, s := range stores {
		owners[i].List = func(ctx context.Context, fn func(*digest.SeriesField) error) error {
			return digest.Compute(ctx, s.Shard(shard), key, shardRange, math.MaxInt64, fn)
		}
	}
	var diffs []reconcile.Difference
	err := reconcile.Flat{}.Differences(ctx, owners, func(d reconcile.Difference) error {
		diffs = append(diffs, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range diffs {
		var regions []patch.Region
		for w := range digest.Windows {
			if d.Windows&(1<<w) != 0 {
				min, max := shardRange.Bounds(w)
				regions = append(regions, patch.Region{Series: d.Series, Field: d.Field, Type: d.Types[0], Min: min, Max: max})
			}
		}
		owners := make([][]patch.Block, len(stores))
		for i, s := range stores {
			if err := patch.Read(ctx, s.Shard(shard), regions, patch.Limits{}, func(b patch.Block) error {
				owners[i] = append(owners[i], b)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		m, err := patch.Merge(owners, patch.Rules{})
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range stores {
			if _, err := patch.Apply(ctx, s, s.Shard(shard).Database(), "rp", shard, m.Lacking[i],
				[]int{1, patch.DefaultFilePoints}[i%2]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func sorted(m model) []id {
	out := make([]id, 0, len(m))
	for p := range m {
		out = append(out, p)
	}
	sort.Slice(out, func(i, j int) bool { return fmt.Sprint(out[i]) < fmt.Sprint(out[j]) })
	return out
}

func TestAnyChangeOfAPointChangesTheRoot(t *testing.T) {
	t.Parallel()
	s := openStore(t)
	base := id{"m,host=a", "f", 1000}
	seen := make(map[digest.Sum]string)
	for i, tt := range []struct {
		name string
		p    id
		v    any
	}{
		{"base", base, 1.0},
		{"value", base, 2.0},
		{"negative zero", base, math.Copysign(0, -1)},
		{"zero", base, 0.0},
		{"type", base, int64(1)},
		{"bool", base, true},
		{"text", base, "1"},
		{"time", id{base.series, base.field, 1001}, 1.0},
		{"field", id{base.series, "g", 1000}, 1.0},
		{"tag", id{"m,host=b", base.field, 1000}, 1.0},
	} {
		shard := uint64(i + 1)
		if err := s.CreateShard(fmt.Sprint("db", i), "rp", shard, true); err != nil {
			t.Fatal(err)
		}
		write(t, s, shard, tt.p.series, tt.p.field, tt.p.t, tt.v)
		_, root := all(t, s, shard)
		if other, ok := seen[root]; ok {
			t.Errorf("%s and %s have the same root", tt.name, other)
		}
		seen[root] = tt.name
	}
}

func TestWindowsCoverAllTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(-1<<60, 1<<60).Draw(t, "start")
		r := digest.Range{Start: start, End: start + rapid.Int64Range(1, 1<<58).Draw(t, "length")}
		at := rapid.Int64Range(models.MinNanoTime, models.MaxNanoTime).Draw(t, "time")
		w := r.Window(at)
		if min, max := r.Bounds(w); at < min || at > max {
			t.Fatalf("%d is in window %d, which is [%d, %d]", at, w, min, max)
		}
		for i := 1; i < digest.Windows; i++ {
			_, before := r.Bounds(i - 1)
			if min, _ := r.Bounds(i); min != before+1 {
				t.Fatalf("window %d begins at %d, the one before ends at %d", i, min, before)
			}
		}
	})
}
