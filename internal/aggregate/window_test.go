package aggregate

import (
	"cmp"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/influxdata/influxdb/query"
	"pgregory.net/rapid"
)

// Windows are found again in whatever order they are asked for, and come out in the order of time.
func TestWindowsAreFoundInAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		starts := rapid.SliceOf(rapid.Int64Range(0, 40)).Draw(t, "starts")
		var s windows[int64]
		want := make(map[int64]int64)
		for _, start := range starts {
			w := s.find(start)
			if w.start != start || w.n != want[start] {
				t.Fatalf("window %d: %+v", start, w)
			}
			w.n++
			want[start]++
		}
		got := s.sorted()
		if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b window[int64]) int { return cmp.Compare(a.start, b.start) }) {
			t.Fatalf("%d windows, want %d: %+v", len(got), len(want), got)
		}
	})
}

// A frame moves to the window that the engine has for a time.
func TestFramesAreTheEnginesWindows(t *testing.T) {
	t.Parallel()
	newYork, err := time.LoadLocation("America/New_York")
	if err != nil {
		t.Skip(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		opt := query.IteratorOptions{
			Interval: query.Interval{
				Duration: time.Duration(rapid.Int64Range(1, int64(48*time.Hour)).Draw(t, "every")),
				Offset:   time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "offset")),
			},
			StartTime: math.MinInt64 + 2, EndTime: math.MaxInt64 - 1,
		}
		if rapid.Bool().Draw(t, "zone") {
			opt.Location, opt.Interval.Duration = newYork, 24*time.Hour
		}
		f := frame{opt: opt}
		at := rapid.Int64Range(math.MinInt64+2, math.MaxInt64-1).Draw(t, "from")
		for range 20 {
			f.to(at)
			if start, end := opt.Window(at); f.start != start || f.end != end {
				t.Fatalf("%d is in [%d, %d), want [%d, %d)", at, f.start, f.end, start, end)
			}
			step := rapid.Int64Range(0, int64(72*time.Hour)).Draw(t, "step")
			if at > math.MaxInt64-1-step {
				break
			}
			at += step
		}
	})
}

// The sum of integers is exact, also where 64 bits do not hold it.
func TestSumsOfIntegersAreExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		signed := rapid.SliceOf(rapid.Int64()).Draw(t, "integers")
		unsigned := rapid.SliceOf(rapid.Uint64()).Draw(t, "unsigned")
		a, b := new(big.Int), new(big.Int)
		for _, v := range signed {
			a.Add(a, big.NewInt(v))
		}
		for _, v := range unsigned {
			b.Add(b, new(big.Int).SetUint64(v))
		}
		for _, tt := range []struct {
			got  wide
			want *big.Int
		}{{totalIntegers(wide{}, signed), a}, {totalUnsigneds(wide{}, unsigned), b}} {
			want, _ := new(big.Float).SetInt(tt.want).Float64()
			if got := tt.got.float(); math.Abs(got-want) > 1e-15*math.Abs(want) {
				t.Fatalf("%v is %g, want %g", tt.want, got, want)
			}
		}
	})
}

// Series are cut into the same tasks on every node, each series is in one of them, and groups stay in order.
func TestTasksHoldEachSeriesOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &Scan{plan: &plan{ranges: []timeRange{{}}}}
		for _, n := range rapid.SliceOf(rapid.IntRange(1, 300)).Draw(t, "groups") {
			s.groups = append(s.groups, group{keys: make([]string, n)})
			s.series += n
		}
		next := span{}
		for spans := range s.tasks() {
			for _, sp := range spans {
				if sp.group != next.group || sp.from != next.from || sp.to <= sp.from {
					t.Fatalf("%+v comes where %+v should begin", sp, next)
				}
				if next.from = sp.to; sp.to == len(s.groups[sp.group].keys) {
					next = span{group: sp.group + 1}
				}
			}
		}
		if next.group != len(s.groups) {
			t.Fatalf("the tasks end at group %d of %d", next.group, len(s.groups))
		}
	})
}

// Ranges cover the time of a statement without gaps, begin where windows do, and are not too many.
func TestRangesCoverTheTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := &plan{columns: []*column{{}}, opt: query.IteratorOptions{
			Interval:  query.Interval{Duration: time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "every"))},
			StartTime: rapid.Int64Range(-1e15, 1e15).Draw(t, "start"), Ascending: rapid.Bool().Draw(t, "ascending"),
		}}
		p.opt.EndTime = p.opt.StartTime + rapid.Int64Range(0, 1e15).Draw(t, "length")
		list := cut(p, timeRange{p.opt.StartTime, p.opt.EndTime})
		if len(list) > maxRanges+1 {
			t.Fatal(len(list), " ranges")
		}
		if !p.opt.Ascending {
			slices.Reverse(list)
		}
		next := p.opt.StartTime
		for i, r := range list {
			if start, _ := p.opt.Window(r.min); r.min != next || r.max < r.min || i > 0 && start != r.min {
				t.Fatalf("range %d is %+v, and should begin at %d", i, r, next)
			}
			next = r.max + 1
		}
		if next != p.opt.EndTime+1 {
			t.Fatalf("the ranges end at %d, want %d", next-1, p.opt.EndTime)
		}
	})
}

// A decoded string is a piece of its block, which must not stay in memory for it.
func TestStringsThatAreKeptAreCountedAndOwned(t *testing.T) {
	t.Parallel()
	block := strings.Repeat("x", 1000)
	keep := texts.newKept(Keep{Name: "distinct"})
	var w window[string]
	for i, want := range []int64{sizeOfKept + 500, 0} {
		if got := keep.add(selected[string]{int64(i), block[:500]}); got != want {
			t.Errorf("%d bytes are counted, want %d", got, want)
		}
		texts.take(needFirst|needLast, &w, []int64{int64(i)}, []string{block[:500]})
	}
	if got := texts.sizeOf(&w); got != 1000 {
		t.Errorf("the strings of a window have %d bytes", got)
	}
	for kept := range keep.first {
		for _, s := range []string{kept, w.first.value, w.last.value} {
			if s != block[:500] || unsafe.StringData(s) == unsafe.StringData(block) {
				t.Errorf("%d letters are in memory of their block", len(s))
			}
		}
	}
}
