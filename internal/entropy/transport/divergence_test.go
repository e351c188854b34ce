package transport

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
)

var (
	divergences = flag.Int("divergences", 40, "shards of TestDivergence, for each number of owners")
	divergeSeed = flag.Uint64("diverge.seed", 0, "of TestDivergence; 0 is a new one")
)

type fieldName struct{ series, field string }

// naive is a shard as a map.
type naive map[fieldName]map[int64]any

func (n naive) set(f fieldName, at int64, v any) {
	if n[f] == nil {
		n[f] = make(map[int64]any)
	}
	n[f][at] = v
}

// fieldTypes: each field has one type everywhere.
var fieldTypes = map[string]digest.Type{"f": digest.Float, "i": digest.Integer, "b": digest.Boolean, "s": digest.String}

func randomValue(rng *rand.Rand, field string) any {
	switch field {
	case "f":
		return []float64{0, math.Copysign(0, -1), 1.5, rng.NormFloat64(), math.MaxFloat64}[rng.IntN(5)]
	case "i":
		return rng.Int64N(5) - 2
	case "b":
		return rng.IntN(2) == 0
	}
	return []string{"", "a", "ü, \"x\"", strings.Repeat("long ", rng.IntN(30))}[rng.IntN(4)]
}

// rank orders values as the fixed order of a tie does.
func rank(v any) string {
	switch x := v.(type) {
	case float64:
		return fmt.Sprintf("%020d", math.Float64bits(x))
	case int64:
		return fmt.Sprintf("%020d", uint64(x))
	case bool:
		return fmt.Sprint(x) // "false" < "true"
	}
	return v.(string)
}

func same(a, b any) bool { return rank(a) == rank(b) }

// different names the first point in which two copies differ.
func different(want, got map[int64]any) string {
	times := slices.AppendSeq(slices.Collect(maps.Keys(want)), maps.Keys(got))
	slices.Sort(times)
	for _, at := range times {
		if w, g := want[at], got[at]; w == nil || g == nil || !same(w, g) {
			return fmt.Sprintf("at %d %v, want %v", at, g, w)
		}
	}
	return ""
}

// merged is what a repair makes of copies: the union, by majority, and by rank on a tie.
func merged(copies []naive) naive {
	out := make(naive)
	for _, c := range copies {
		for f, points := range c {
			for at := range points {
				if _, done := out[f][at]; done {
					continue
				}
				votes := make(map[string]int)
				value := make(map[string]any)
				for _, o := range copies {
					if v, ok := o[f][at]; ok {
						votes[rank(v)]++
						value[rank(v)] = v
					}
				}
				best := ""
				for r, n := range votes {
					if value[best] == nil || n > votes[best] || n == votes[best] && r > best {
						best = r
					}
				}
				out.set(f, at, value[best])
			}
		}
	}
	return out
}

// diverge draws a shard that all owners have, and what happened to it on some.
func diverge(rng *rand.Rand, o *owners, n int) []naive {
	base := make(naive)
	step := []time.Duration{time.Second, 10 * time.Second, 10 * time.Minute}[rng.IntN(3)]
	for range 1 + rng.IntN(6) {
		f := fieldName{fmt.Sprintf("m%d,host=%d", rng.IntN(2), rng.IntN(5)), []string{"f", "i", "b", "s"}[rng.IntN(4)]}
		from := time.Duration(rng.Int64N(int64(shardDays * 24 * time.Hour)))
		for j := range 1 + rng.IntN([]int{3, 300, 3000}[rng.IntN(3)]) {
			if at := from + time.Duration(j)*step; at < shardDays*24*time.Hour {
				base.set(f, o.at(at), randomValue(rng, f.field))
			}
		}
	}
	copies := make([]naive, n)
	for i := range copies {
		copies[i] = make(naive)
		for f, points := range base {
			copies[i][f] = maps.Clone(points)
		}
	}
	names := slices.SortedFunc(maps.Keys(base), func(a, b fieldName) int {
		return strings.Compare(a.series+a.field, b.series+b.field)
	})
	for range rng.IntN(6) {
		c := copies[rng.IntN(n)]
		f := names[rng.IntN(len(names))]
		times := slices.Sorted(maps.Keys(c[f]))
		switch kind := rng.IntN(8); {
		case kind == 0: // a new field or series
			g := fieldName{fmt.Sprintf("new,host=%d", rng.IntN(3)), "f"}
			for range 1 + rng.IntN(50) {
				c.set(g, o.at(time.Duration(rng.Int64N(int64(shardDays*24*time.Hour)))), randomValue(rng, "f"))
			}
		case kind == 1: // all of it
			clear(c)
		case len(times) == 0:
		case kind == 2:
			delete(c, f)
		case kind == 3: // a point
			delete(c[f], times[rng.IntN(len(times))])
		case kind == 4: // a run
			from := rng.IntN(len(times))
			for _, at := range times[from : from+rng.IntN(len(times)-from)] {
				delete(c[f], at)
			}
		case kind == 5: // scattered points
			for _, at := range times {
				if rng.IntN(10) == 0 {
					delete(c[f], at)
				}
			}
		case kind == 6: // another value
			c[f][times[rng.IntN(len(times))]] = randomValue(rng, f.field)
		default: // another time
			c[f][times[rng.IntN(len(times))]+1] = randomValue(rng, f.field)
		}
	}
	return copies
}

// write makes a copy real, in a random order, with files and a cache.
func (c naive) write(rng *rand.Rand, o *owners, owner int, id uint64) {
	var points []models.Point
	for f, values := range c {
		for at, v := range values {
			points = append(points, o.point(f.series, f.field, at, v))
		}
	}
	if len(points) == 0 && rng.IntN(2) == 0 {
		return // no shard
	}
	o.create(owner, id)
	rng.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	for len(points) > 0 {
		n := 1 + rng.IntN(len(points))
		o.write(owner, id, points[:n]...)
		points = points[n:]
		if rng.IntN(3) == 0 {
			o.snapshot(owner, id)
		}
		if n < 10 {
			o.write(owner, id, points...)
			return
		}
	}
}

// Whatever happened to the owners' copies, a repair makes of them what a naive model says.
func TestDivergence(t *testing.T) {
	t.Parallel()
	seed := *divergeSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	shards := *divergences
	if testing.Short() {
		shards = min(shards, 10)
	}
	for _, n := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(n, " owners"), func(t *testing.T) {
			t.Parallel()
			o := newOwners(t, n, shards)
			for i := range n { // files on some, the write path on others
				o.copies[i].FilePoints = []int{1, 500, patch.DefaultFilePoints}[i%3]
			}
			for id := uint64(1); id <= uint64(shards); id++ {
				rng := rand.New(rand.NewPCG(seed, id))
				copies := diverge(rng, o, n)
				for i, c := range copies {
					c.write(rng, o, i, id)
				}
				want := merged(copies)
				r := o.repair(id)
				if r.State != entropy.Done {
					t.Fatalf("seed %d, shard %d: %+v", seed, id, r)
				}
				for i := range n {
					for f, points := range want {
						got := o.read(i, id, f.series, f.field, fieldTypes[f.field])
						if !maps.EqualFunc(points, got, same) {
							t.Fatalf("seed %d, shard %d, owner %d, %v: %d points, want %d: %s",
								seed, id, i+1, f, len(got), len(points), different(points, got))
						}
					}
					if a, b := o.root(0, id), o.root(i, id); a != b {
						t.Fatalf("seed %d, shard %d: owner %d has root %v, the first %v", seed, id, i+1, b, a)
					}
				}
			}
		})
	}
}

// Values that no line protocol can write (and the engine can store: NaN is none) are compared, sent and written by
// their bits.
func TestOddFloatsAreRepaired(t *testing.T) {
	t.Parallel()
	o := newOwners(t, 2, 1)
	want := []uint64{
		1, math.Float64bits(math.Inf(1)), math.Float64bits(math.Inf(-1)), math.Float64bits(math.Copysign(0, -1)),
	}
	var values tsm1.Values
	for i, bits := range want {
		values = append(values, tsm1.NewValue(o.at(time.Duration(i)*time.Hour), math.Float64frombits(bits)))
	}
	b, err := patch.NewBlock([]byte("m,host=a"), "f", values)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := o.copies[0].Apply(t.Context(), o.shard(1), entropy.ReadAt{}, []patch.Block{b}); err != nil ||
		n.Points != len(want) {
		t.Fatal(n, err)
	}
	o.create(1, 1)
	if r := o.repair(1); r.State != entropy.Done {
		t.Fatalf("%+v", r)
	}
	for i := range 2 {
		got := o.read(i, 1, "m,host=a", "f", digest.Float)
		for j, bits := range want {
			v, ok := got[o.at(time.Duration(j)*time.Hour)].(float64)
			if !ok || math.Float64bits(v) != bits {
				t.Errorf("owner %d has %x, want %x", i+1, math.Float64bits(v), bits)
			}
		}
	}
}

// Whichever owner's disk is full, a repair refuses to write there, says so, and goes on when there is space.
func TestFullDiskRefuses(t *testing.T) {
	t.Parallel()
	for owner := range 2 {
		t.Run(fmt.Sprint("owner ", owner+1), func(t *testing.T) {
			t.Parallel()
			o := newOwners(t, 2, 1)
			var full atomic.Bool
			full.Store(true)
			o.copies[owner].Disk.Free = func(string) (uint64, uint64, error) {
				if full.Load() {
					return 49_000, 1_000_000, nil
				}
				return 100_000, 1_000_000, nil
			}
			o.create(1-owner, 1)
			o.write(1-owner, 1, o.point("m", "f", o.at(time.Hour), 1.0))
			if err := o.service.Repair(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			r := o.failed(1)
			if !strings.Contains(r.Error, "less than 5 % of the disk of "+o.stores[owner].Path()) ||
				strings.Contains(r.Error, "rpc error") {
				t.Errorf("%q", r.Error)
			}
			if got := o.read(owner, 1, "m", "f", digest.Float); len(got) > 0 {
				t.Errorf("wrote %v to a full disk", got)
			}
			full.Store(false)
			if r := o.repair(1); r.State != entropy.Done || len(o.read(owner, 1, "m", "f", digest.Float)) != 1 {
				t.Errorf("%+v", r)
			}
		})
	}
}
