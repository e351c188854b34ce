package scan_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"

	"concord/internal/enginetest"
	"concord/internal/entropy/scan"
	"concord/internal/entropy/tsmfile"
)

// shard is shard 1 of a store, and what it holds of the series m: field, time, value.
type shard struct {
	store *tsdb.Store
	holds map[string]map[int64]any
}

func newShard(t testing.TB) *shard {
	t.Helper()
	s := &shard{store: enginetest.New(t.TempDir(), tsdb.InmemIndexName), holds: make(map[string]map[int64]any)}
	s.store.EngineOptions.CompactionDisabled = true
	enginetest.Shard(t, enginetest.Open(t, s.store), 1)
	return s
}

func (s *shard) Shard() *tsdb.Shard { return s.store.Shard(1) }

func (s *shard) engine(t enginetest.T) *tsm1.Engine { return enginetest.Engine(t, s.Shard()) }

func (s *shard) write(t enginetest.T, field string, values map[int64]any) {
	t.Helper()
	var points []models.Point
	for at, v := range values {
		points = append(points, models.MustNewPoint("m", nil, models.Fields{field: v}, time.Unix(0, at)))
	}
	enginetest.WritePoints(t, s.store, 1, points...)
	if s.holds[field] == nil {
		s.holds[field] = make(map[int64]any)
	}
	maps.Copy(s.holds[field], values)
}

func (s *shard) flush(t enginetest.T) {
	t.Helper()
	if err := s.engine(t).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
}

func (s *shard) delete(t enginetest.T, min, max int64) {
	t.Helper()
	cond := influxql.MustParseExpr(fmt.Sprintf("time >= %d AND time <= %d", min, max))
	if err := s.store.DeleteSeries("db", []influxql.Source{&influxql.Measurement{Name: "m"}}, cond); err != nil {
		t.Fatal(err)
	}
	for _, h := range s.holds {
		maps.DeleteFunc(h, func(at int64, _ any) bool { return at >= min && at <= max })
	}
}

// read returns the points of a field as lines, and fails unless they ascend.
func read[V scan.Value](t enginetest.T, r *scan.Reader, field string, min, max int64) (out []string, err error) {
	t.Helper()
	if _, err := r.Seek([]byte("m"), field); err != nil {
		return nil, err
	}
	last, any := int64(0), false
	err = scan.Each(r, min, max, func(times []int64, values []V) error {
		if len(times) == 0 || len(times) != len(values) {
			t.Fatal(len(times), " times of ", len(values), " values")
		}
		for i, at := range times {
			if any && at <= last {
				t.Fatal(at, " comes after ", last)
			}
			last, any = at, true
			out = append(out, fmt.Sprint(at, " ", values[i]))
		}
		return nil
	})
	if err == nil {
		edges[V](t, r, min, max, out)
	}
	return out, err
}

// edges fails unless First and Last return the first and the last of the points.
func edges[V scan.Value](t enginetest.T, r *scan.Reader, min, max int64, points []string) {
	t.Helper()
	for name, edge := range map[string]func(*scan.Reader, int64, int64) (int64, V, bool, error){
		"first": scan.First[V], "last": scan.Last[V],
	} {
		at, v, ok, err := edge(r, min, max)
		if err != nil || ok != (len(points) > 0) {
			t.Fatal(name, " of ", len(points), " points: ", ok, err)
		}
		if !ok {
			continue
		}
		want := points[0]
		if name == "last" {
			want = points[len(points)-1]
		}
		if got := fmt.Sprint(at, " ", v); got != want {
			t.Fatal(name, " is ", got, ", want ", want)
		}
	}
}

// same fails unless a reader returns what the shard holds in [min, max].
func (s *shard) same(t enginetest.T, r *scan.Reader, field string, min, max int64) {
	t.Helper()
	var want []string
	for _, at := range slices.Sorted(maps.Keys(s.holds[field])) {
		if at >= min && at <= max {
			want = append(want, fmt.Sprint(at, " ", s.holds[field][at]))
		}
	}
	var got []string
	var err error
	switch field {
	case "f":
		got, err = read[float64](t, r, field, min, max)
	case "i":
		got, err = read[int64](t, r, field, min, max)
	case "u":
		got, err = read[uint64](t, r, field, min, max)
	case "b":
		got, err = read[bool](t, r, field, min, max)
	case "s":
		got, err = read[string](t, r, field, min, max)
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatal("field ", field, " in ", min, " to ", max, ":\n", strings.Join(got, "\n"), "\nwant\n",
			strings.Join(want, "\n"), err)
	}
}

// What a reader returns is what a map says, whatever lies in how many files, in the write cache and in tombstones;
// one reader lives through all of it.
func TestReaderReturnsWhatTheShardHolds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		s := newShard(t)
		defer s.store.Close()
		r, err := scan.NewReader(t.Context(), s.Shard())
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Close()
		field := rapid.SampledFrom([]string{"f", "i", "u", "b", "s"}).Draw(rt, "field")
		for n := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"write", "write", "write", "flush", "flush", "delete", "compact", "look"}).Draw(rt, "step") {
			case "write":
				values := make(map[int64]any)
				from, step := rapid.Int64Range(0, 50).Draw(rt, "from"), rapid.Int64Range(1, 4).Draw(rt, "step")
				for i := range rapid.Int64Range(1, 20).Draw(rt, "points") {
					values[from+i*step] = map[string]any{"f": float64(n), "i": int64(n), "u": uint64(n), "b": n%2 == 0, "s": fmt.Sprint("v", n)}[field]
				}
				s.write(rt, field, values)
			case "flush":
				s.flush(rt)
			case "delete":
				from := rapid.Int64Range(0, 100).Draw(rt, "from")
				s.delete(rt, from, from+rapid.Int64Range(0, 30).Draw(rt, "width"))
			case "compact":
				if err := s.engine(rt).ScheduleFullCompaction(); err != nil {
					rt.Fatal(err)
				}
			case "look":
				from := rapid.Int64Range(-5, 120).Draw(rt, "from")
				s.same(rt, r, field, from, from+rapid.Int64Range(0, 120).Draw(rt, "width"))
			}
		}
		s.same(rt, r, field, models.MinNanoTime, models.MaxNanoTime)
	})
}

// From 13 blocks on of which each overlaps others, the engine returns values that were overwritten; a Reader does
// not. When this fails for the engine's sake, it does no longer, and this test can go.
func TestReaderIsRightWhereTheEngineIsNot(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	for i, b := range [][2]int64{{2, 4}, {14, 14}, {4, 12}, {1, 5}, {6, 18}, {3, 6}, {16, 18}, {12, 19}, {2, 15}, {4, 14}, {9, 12}, {2, 17}, {0, 10}} {
		values := make(map[int64]any)
		for at := b[0]; at <= b[1]; at++ {
			values[at] = float64(i)
		}
		s.write(t, "f", values)
		s.flush(t)
	}
	r, err := scan.NewReader(t.Context(), s.Shard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.same(t, r, "f", models.MinNanoTime, models.MaxNanoTime)

	cursors, err := s.Shard().CreateCursorIterator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cur, err := cursors.Next(t.Context(), &tsdb.CursorRequest{
		Name: []byte("m"), Field: "f", Ascending: true, StartTime: models.MinNanoTime, EndTime: models.MaxNanoTime,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cur.Close()
	wrong := 0
	for a := cur.(tsdb.FloatArrayCursor).Next(); a.Len() > 0; a = cur.(tsdb.FloatArrayCursor).Next() {
		for i, at := range a.Timestamps {
			if a.Values[i] != s.holds["f"][at] {
				wrong++
			}
		}
	}
	if wrong == 0 {
		t.Error("the engine returns the newest values")
	}
}

// filled is a shard with n files of 2500 points each, one after the other.
func filled(t testing.TB, n int) *shard {
	s := newShard(t)
	for i := range n {
		values := make(map[int64]any)
		for at := range int64(2500) {
			values[int64(i)*2500+at] = float64(at)
		}
		s.write(t, "f", values)
		s.flush(t)
	}
	return s
}

func change(t testing.TB, path string, fn func(*os.File) error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		err = errors.Join(fn(f), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A block that is read is checked, and the others are not.
func TestDamageIsMet(t *testing.T) {
	t.Parallel()
	s := filled(t, 2)
	names, err := filepath.Glob(filepath.Join(s.Shard().Path(), "*.tsm"))
	if err != nil || len(names) != 2 {
		t.Fatal(names, err)
	}
	slices.Sort(names)
	r, err := scan.NewReader(t.Context(), s.Shard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	change(t, names[0], func(f *os.File) error {
		_, err := f.WriteAt([]byte{0xff, 0, 0xff, 0}, 100)
		return err
	})
	var d *tsmfile.Damage
	if got, err := read[float64](t, r, "f", 500, 4000); !errors.As(err, &d) || d.Key != "m#!~#f" || d.Offset != 5 ||
		d.File != filepath.Base(names[0]) || len(got) > 0 {
		t.Errorf("a damaged block: %d points, %v", len(got), err)
	}
	s.same(t, r, "f", 1000, 4000)
	change(t, names[1], func(f *os.File) error { return f.Truncate(0) })
	if _, err := read[float64](t, r, "f", 1000, 4000); !errors.As(err, &d) || d.File != filepath.Base(names[1]) {
		t.Errorf("a file that has become shorter: %v", err)
	}
}

// A field of one type has no block of another one that anything is left of.
func TestBlockOfAnotherType(t *testing.T) {
	t.Parallel()
	s := filled(t, 1)
	r, err := scan.NewReader(t.Context(), s.Shard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := read[int64](t, r, "f", 0, 10); err == nil ||
		!strings.Contains(err.Error(), `the block of "m#!~#f" at byte 5 has values of type 0, and the field has type 1`) {
		t.Error(err)
	}
	s.write(t, "f", map[int64]any{9999: 1.0})
	if _, err := read[int64](t, r, "f", 9999, 9999); err == nil ||
		!strings.Contains(err.Error(), "the write cache has values of another type") {
		t.Error(err)
	}
	s.delete(t, models.MinNanoTime, 700)
	s.delete(t, 701, models.MaxNanoTime)
	if got, err := read[int64](t, r, "f", models.MinNanoTime, models.MaxNanoTime); err != nil || len(got) > 0 {
		t.Error("what is deleted: ", got, err)
	}
}

// A shard that was closed, and one that was opened anew, are no empty ones. (Closing waits for those who read its
// files; here it has none.)
func TestShardIsClosedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newShard(t)
	s.write(t, "f", map[int64]any{1: 1.0})
	r, err := scan.NewReader(t.Context(), s.Shard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.same(t, r, "f", 0, 5000)
	if err := s.Shard().Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := read[float64](t, r, "f", 0, 5000); err == nil && r.End() == nil {
		t.Error(len(got), " points of a closed shard")
	}
	if _, err := scan.NewReader(t.Context(), s.Shard()); err == nil {
		t.Error("a reader of a closed shard")
	}
	if err := s.Shard().Open(); err != nil {
		t.Fatal(err)
	}
	if err := r.End(); err == nil {
		t.Error("it was opened anew, and passes for the one of before")
	}
}

// since is what came to a series-field after it had a fingerprint.
func since(t testing.TB, r *scan.Reader, print uint64) (now uint64, known bool, blocks [][2]int64) {
	t.Helper()
	_, err := r.Seek([]byte("m"), "f")
	if err == nil {
		now, known, err = r.Since(print, func(min, max int64) { blocks = append(blocks, [2]int64{min, max}) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return now, known, blocks
}

func stateOf(t testing.TB, r *scan.Reader) uint64 {
	t.Helper()
	state, err := r.State()
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func TestFingerprintTellsWhatIsNew(t *testing.T) {
	t.Parallel()
	s := filled(t, 1)
	r, err := scan.NewReader(t.Context(), s.Shard())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first, known, blocks := since(t, r, scan.Unknown)
	if known || len(blocks) > 0 {
		t.Error("at first: ", known, blocks)
	}
	if now, known, blocks := since(t, r, first); now != first || !known || len(blocks) > 0 {
		t.Error("unchanged: ", known, blocks)
	}
	if _, known, blocks := since(t, r, 0); !known || len(blocks) != 3 {
		t.Error("since there was no file: ", known, blocks)
	}
	s.write(t, "f", map[int64]any{5: 1.5, 9000: 2.5})
	if now, known, blocks := since(t, r, first); now != first || !known || len(blocks) > 0 {
		t.Error("a write: ", known, blocks)
	}
	var cached []int64
	r.Cached(func(at int64) { cached = append(cached, at) })
	if !slices.Equal(cached, []int64{5, 9000}) || r.Flushed() {
		t.Error("in the write cache: ", cached)
	}
	s.flush(t)
	second, known, blocks := since(t, r, first)
	if second == first || !known || !slices.Equal(blocks, [][2]int64{{5, 9000}}) || !r.Flushed() {
		t.Error("flushed: ", known, blocks)
	}
	state := stateOf(t, r)
	s.delete(t, 7, 7)
	if now, known, _ := since(t, r, second); now == second || known || stateOf(t, r) == state {
		t.Error("a delete is not seen")
	}
	if err := s.engine(t).ScheduleFullCompaction(); err != nil {
		t.Fatal(err)
	}
	if _, known, _ := since(t, r, second); known {
		t.Error("a compaction is taken for what was there before")
	}
	s.same(t, r, "f", math.MinInt64, math.MaxInt64)
}
