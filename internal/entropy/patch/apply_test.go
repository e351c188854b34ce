package patch_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
)

const shardID = 7

// node is a store with one shard.
type node struct {
	t     testing.TB
	store *tsdb.Store
	dir   string

	index     string
	tagValues int
}

func newNode(t testing.TB) *node { return newNodeWith(t, "tsi1", 0) }

// newNodeWith has an index, which with inmem takes so many values of a tag; 0 is no limit.
func newNodeWith(t testing.TB, index string, tagValues int) *node {
	n := &node{t: t, dir: t.TempDir(), index: index, tagValues: tagValues}
	n.open()
	t.Cleanup(func() { n.store.Close() })
	return n
}

func (n *node) open() {
	n.store = enginetest.New(n.dir, n.index)
	n.store.EngineOptions.Config.MaxValuesPerTag = n.tagValues
	if err := n.store.Open(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) reopen() {
	if err := n.store.Close(); err != nil {
		n.t.Fatal(err)
	}
	n.open()
}

func (n *node) engine() *tsm1.Engine {
	return enginetest.Engine(n.t, n.store.Shard(shardID))
}

// write takes lines "m,host=a f=1 10" through the engine's write path.
func (n *node) write(lines ...string) {
	if n.store.Shard(shardID) == nil {
		enginetest.Shard(n.t, n.store, shardID)
	}
	enginetest.Write(n.t, n.store, shardID, lines...)
}

// flush makes the write cache a file.
func (n *node) flush() {
	if err := n.engine().WriteSnapshot(); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) apply(filePoints int, blocks ...patch.Block) (int, error) {
	out, err := patch.Apply(context.Background(), n.store, "db", "rp", shardID, blocks, filePoints)
	if err == nil && len(out.Refused) > 0 {
		err = fmt.Errorf("refused: %+v", out.Refused)
	}
	return out.Points, err
}

// floats are the points of a series-field as the engine's queries see them.
func (n *node) floats(series, field string) map[int64]float64 {
	out := make(map[int64]float64)
	region := patch.Region{
		Series: []byte(series), Field: field, Type: digest.Float, Min: math.MinInt64 + 2, Max: math.MaxInt64 - 1,
	}
	err := patch.Read(context.Background(), n.store.Shard(shardID), []patch.Region{region}, patch.Limits{}, func(b patch.Block) error {
		vs, err := b.Decode()
		for _, v := range vs {
			out[v.UnixNano()] = v.Value().(float64)
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// of is a block of the points from, from+1, ... with the value v.
func of(t testing.TB, series, field string, from int64, count int, v any) patch.Block {
	var vs tsm1.Values
	for i := range count {
		vs = append(vs, tsm1.NewValue(from+int64(i), v))
	}
	b, err := patch.NewBlock([]byte(series), field, vs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func values(from int64, count int, v float64) map[int64]float64 {
	out := make(map[int64]float64, count)
	for i := range count {
		out[from+int64(i)] = v
	}
	return out
}

func TestManyPointsBecomeAFileThatOutlivesARestart(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write("m,host=a f=1 1") // f of host=a exists; the rest is new
	n.flush()
	blocks := []patch.Block{
		of(t, "m,host=b", "g", 500, 1000, 3.0), of(t, "m,host=a", "f", 2000, 1000, 2.0),
		of(t, "m,host=a", "f", 100, 1000, 2.0), of(t, "new,host=c", "s", 1, 10, "text"),
	}
	files := n.engine().FileStore.Count()
	for again := range 2 {
		got, err := n.apply(100, blocks...)
		if err != nil || got != 3010 {
			t.Fatalf("applied %d points: %v", got, err)
		}
		if size := n.engine().Cache.Size(); again == 0 && size > 2000 {
			t.Errorf("%d bytes went through the write cache", size)
		}
	}
	if got := n.engine().FileStore.Count(); got != files+2 {
		t.Errorf("%d files, want %d", got, files+2)
	}
	for _, restarted := range []bool{false, true} {
		if restarted {
			n.reopen()
		}
		want := values(100, 1000, 2)
		want[1] = 1
		for at, v := range values(2000, 1000, 2) {
			want[at] = v
		}
		if d := cmp.Diff(want, n.floats("m,host=a", "f")); d != "" {
			t.Errorf("restarted: %v\n%s", restarted, d)
		}
		if d := cmp.Diff(values(500, 1000, 3), n.floats("m,host=b", "g")); d != "" {
			t.Errorf("restarted: %v\n%s", restarted, d)
		}
		if got := n.store.Shard(shardID).SeriesN(); got != 3 {
			t.Errorf("restarted: %v: %d series, want 3", restarted, got)
		}
		if f := n.store.Shard(shardID).MeasurementFields([]byte("new")).Field("s"); f == nil ||
			f.Type.String() != "string" {
			t.Errorf("restarted: %v: field s of new is %v", restarted, f)
		}
	}
}

// What is applied replaces what the shard has, wherever that is.
func TestAppliedValuesWin(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*node){
		"a file":          func(n *node) { n.flush() },
		"the write cache": func(*node) {},
		"a snapshot of the write cache": func(n *node) {
			if _, err := n.engine().Cache.Snapshot(); err != nil {
				t.Fatal(err)
			}
		},
		"a file and the write cache": func(n *node) { n.flush(); n.write("m f=0 105") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.write("m f=0 105", "m f=9 5", "m f=9 5000")
			prepare(n)
			if got, err := n.apply(100, of(t, "m", "f", 100, 1000, 1.0)); err != nil || got != 1000 {
				t.Fatal(got, err)
			}
			want := values(100, 1000, 1)
			want[5], want[5000] = 9, 9
			if d := cmp.Diff(want, n.floats("m", "f")); d != "" {
				t.Error(d)
			}
			n.write("m f=7 105") // a later write wins against the file
			want[105] = 7
			if d := cmp.Diff(want, n.floats("m", "f")); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestBlocksThatOverlapAreApplied(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	got, err := n.apply(100, of(t, "m", "f", 1, 200, 1.0), of(t, "m", "f", 100, 200, 2.0), of(t, "o", "f", 1, 200, 1.0))
	if err != nil || got != 600 {
		t.Fatal(got, err)
	}
	want := values(1, 99, 1)
	for at, v := range values(100, 200, 2) {
		want[at] = v
	}
	if d := cmp.Diff(want, n.floats("m", "f")); d != "" {
		t.Error(d)
	}
}

// A block that does not decode is an error, and nothing is applied: it may come whole the next time.
func TestApplyFailsOnAMalformedBlock(t *testing.T) {
	t.Parallel()
	bad := of(t, "m", "g", 1, 200, 1.0)
	bad.Data = bad.Data[:len(bad.Data)/2]
	for name, tt := range map[string]struct {
		block patch.Block
		want  string
	}{
		"torn":     {bad, "malformed"},
		"no field": {of(t, "m", "", 1, 200, 1.0), "no field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.write("m f=1 1")
			n.flush()
			files := n.engine().FileStore.Count()
			_, err := n.apply(100, of(t, "m", "f", 1000, 200, 1.0), tt.block)
			if !errors.Is(err, patch.ErrMalformed) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want ErrMalformed and %q", err, tt.want)
			}
			if got := n.engine().FileStore.Count(); got != files {
				t.Errorf("%d files, want %d", got, files)
			}
		})
	}
}

// What the engine refuses is told, and everything else is written, as a file and through the write path.
func TestApplyWritesAllThatTheEngineTakes(t *testing.T) {
	t.Parallel()
	good := []patch.Block{
		of(t, "m,host=a", "f", 1000, 200, 1.0), of(t, "m,host=z", "f", 1000, 200, 1.0),
		of(t, "o", "f", 1, 50, int64(1)),
	}
	typed := func(points int) patch.Refused {
		return patch.Refused{
			Points: points, Type: digest.Float,
			Reason: `field type conflict: input field "f" on measurement "m" is type integer, already exists as type float`,
		}
	}
	for _, tt := range []struct {
		name  string
		index string
		block patch.Block
		want  patch.Refused
	}{
		{"a field of another type", "tsi1", of(t, "m,host=a", "f", 1, 200, int64(1)), typed(200)},
		{
			"a field that another series has in another type", "tsi1", of(t, "m,host=b", "f", 1, 200, int64(1)),
			typed(200),
		},
		{"a field called time", "tsi1", of(t, "m,host=a", "time", 1, 200, 1.0), patch.Refused{
			Points: 200, Reason: `invalid field name: input field "time" on measurement "m" is invalid`,
		}},
		{"a tag called time", "tsi1", of(t, "m,time=a", "f", 1, 200, 1.0), patch.Refused{
			Points: 200, Reason: `invalid tag key: input tag "time" on measurement "m" is invalid`,
		}},
		{"a tag with too many values", "inmem", of(t, "m,host=c", "f", 1, 6000, 1.0), patch.Refused{
			Points: 6000, Reason: `max-values-per-tag limit exceeded (2/2): measurement="m" tag="host" value="c"`,
		}},
		{"what is no key of a series", "tsi1", of(t, "m,a=,b=1", "g", 1, 200, 1.0), patch.Refused{
			Points: 200, Reason: `"m,a=,b=1" is not the key of a series`,
		}},
	} {
		for path, filePoints := range map[string]int{"file": 100, "write path": 1 << 30} {
			t.Run(tt.name+" through the "+path, func(t *testing.T) {
				t.Parallel()
				n := newNodeWith(t, tt.index, 2)
				n.write("m,host=a f=1 1", "m,host=z f=1 1")
				n.flush()
				// the last one is of the other type, too
				blocks := []patch.Block{good[0], tt.block, good[1], good[2], of(t, "o", "f", 60, 10, 1.0)}
				refused := tt.want
				refused.Block = 1
				want := patch.Applied{Points: 450, Refused: []patch.Refused{refused, {
					Block: 4, Points: 10, Type: digest.Integer,
					Reason: `field type conflict: input field "f" on measurement "o" is type float, already exists as type integer`,
				}}}
				for range 2 { // it is idempotent
					got, err := patch.Apply(t.Context(), n.store, "db", "rp", shardID, blocks, filePoints)
					if err != nil {
						t.Fatal(err)
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Error(d)
					}
				}
				for range 2 { // and lasts
					have := values(1000, 200, 1)
					have[1] = 1
					if d := cmp.Diff(have, n.floats("m,host=a", "f")); d != "" {
						t.Error(d)
					}
					if got := n.floats("m,host=z", "f"); len(got) != 201 {
						t.Errorf("%d points of m,host=z", len(got))
					}
					if got := n.store.Shard(shardID).SeriesN(); got != 3 {
						t.Errorf("%d series, want 3", got)
					}
					n.reopen()
				}
			})
		}
	}
}

func BenchmarkApply(b *testing.B) {
	for name, filePoints := range map[string]int{"file": 1, "write path": 1 << 30} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b)
			var blocks []patch.Block
			for s := range 100 {
				n.write(fmt.Sprintf("cpu,host=%d f=1 0", s))
				blocks = append(blocks, of(b, fmt.Sprintf("cpu,host=%d", s), "f", 1, 1000, float64(s)))
			}
			n.flush()
			b.ResetTimer()
			for range b.N {
				if _, err := n.apply(filePoints, blocks...); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "points/s")
		})
	}
}

// overtaken is a store that has a newer value right after it was asked for newer ones.
type overtaken struct {
	*tsdb.Store
	write func()
}

func (o overtaken) Newer(uint64, []byte, string, func() []int64) (map[int]bool, error) {
	o.write()
	return nil, nil
}

func (o overtaken) WriteVersion(ctx tsdb.WriteContext, shard, _ uint64, points []models.Point) error {
	return o.WriteToShard(ctx, shard, points)
}

// What is written while a repair makes a file is newer than the file, also when it is a file itself by then.
func TestWriteBesideAFileStays(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.write("m,host=a f=1 1")
	n.flush()
	store := overtaken{n.store, func() { n.write("m,host=a f=2 1"); n.flush() }}
	out, err := patch.Apply(t.Context(), store, "db", "rp", shardID, []patch.Block{of(t, "m,host=a", "f", 1, 10, 1.0)}, 1)
	if err != nil || out.Points != 10 {
		t.Fatalf("applied %d points: %v", out.Points, err)
	}
	if got := n.floats("m,host=a", "f")[1]; got != 2 {
		t.Errorf("the point is %v, want the newer 2", got)
	}
}
