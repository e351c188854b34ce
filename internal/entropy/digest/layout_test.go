package digest_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
)

var (
	layouts = flag.Int("layouts", defaultLayouts,
		"random layouts of equal data that TestEqualDataHasEqualDigests compares with the model")
	layoutTime = flag.Duration("layouts-for", 0, "stop TestEqualDataHasEqualDigests after this time; 0 is never")
)

// layoutsPerData is how many layouts one data set gets in one check.
const layoutsPerData = 8

// TestEqualDataHasEqualDigests draws data sets and brings each into shards of the real engine in many ways:
// by writes, by files with blocks of any size, in any order, with overwrites, with points that are deleted again,
// with flushes, compactions and restarts in between, and with a rest in the write cache. Whatever the way, the shard
// must have the digests that the points alone give, by Compute and out of the cache. One arrangement of one data set is
// one layout.
func TestEqualDataHasEqualDigests(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it digests many layouts")
	}
	shards := newArranged(t)
	// A file costs the engine two buffers of a megabyte.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	done, start := 0, time.Now()
	for done < *layouts && (*layoutTime == 0 || time.Since(start) < *layoutTime) {
		rapid.Check(t, func(rt *rapid.T) {
			data := drawData(rt)
			want := data.lines()
			for range layoutsPerData {
				s := shards.next(rt)
				s.arrange(rt, data)
				s.compare(rt, want)
				done++
			}
			s := shards.last
			if p, v, ok := s.change(rt); ok {
				data = maps(data, p, v)
				changed := data.lines()
				if slices.Equal(changed, want) {
					rt.Fatalf("%v is changed to %v, and the digests are the same", p, v)
				}
				s.compare(rt, changed)
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d layouts in %v", done, time.Since(start).Round(time.Millisecond))
}

// The catalogue of what data sets are made of. Each field has one type. In n there are NaNs, too.
var (
	layoutSeries = []string{"cpu,host=a", "cpu,host=b", "cpu+x,host=a", "mem", "m\\ m,a\\ b=c\\,d"}
	layoutFields = []string{"b", "f", "i", "n", "s", "u"}
	layoutTypes  = map[string]digest.Type{
		"b": digest.Boolean, "f": digest.Float, "i": digest.Integer, "n": digest.Float, "s": digest.String,
		"u": digest.Unsigned,
	}
	layoutValues = map[string][]any{
		"b": {true, false},
		"f": {
			0.0, math.Copysign(0, -1), 1.5, -2.25, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1),
			math.Inf(-1),
		},
		"i": {int64(0), int64(1), int64(-1), int64(math.MinInt64), int64(math.MaxInt64), int64(1 << 40)},
		"n": {
			0.0, math.Copysign(0, -1), 7.5, math.Float64frombits(0x7ff8000000000002),
			math.Float64frombits(0xfff8000000000001),
			math.Float64frombits(0x7ff0000000000001), math.Float64frombits(0x7fffffffffffffff), math.Inf(-1),
		},
		"s": {"", "a", "b,c = \"d\"", "ü", strings.Repeat("long ", 60), "a\nb"},
		"u": {uint64(0), uint64(1), uint64(math.MaxUint64), uint64(1 << 63)},
	}
)

func drawValue(t *rapid.T, field string) any {
	return rapid.SampledFrom(layoutValues[field]).Draw(t, "value")
}

func drawPoint(t *rapid.T) id {
	p := id{rapid.SampledFrom(layoutSeries).Draw(t, "series"), rapid.SampledFrom(layoutFields).Draw(t, "field"), 0}
	if rapid.IntRange(0, 9).Draw(t, "far") == 0 {
		p.t = rapid.SampledFrom([]int64{
			-10, -1, 0, 999, 1000, 1001, 63_999, 64_000, 64_010, models.MinNanoTime, models.MaxNanoTime,
		}).Draw(t, "time")
	} else {
		p.t = 500 * rapid.Int64Range(0, 100).Draw(t, "time")
	}
	return p
}

func drawData(t *rapid.T) model {
	m := make(model)
	for range rapid.IntRange(0, 25).Draw(t, "runs") {
		p := drawPoint(t)
		for range rapid.IntRange(1, 8).Draw(t, "points") {
			if p.t <= models.MaxNanoTime {
				m[p] = drawValue(t, p.field)
			}
			p.t += 100
		}
	}
	return m
}

func equalValues(a, b any) bool {
	x, ok := a.(float64)
	if y, both := b.(float64); ok && both {
		return math.Float64bits(x) == math.Float64bits(y)
	}
	return a == b
}

// lines are the digests of the points.
func (m model) lines() []line {
	byField := make(map[[2]string]*line)
	for p, v := range m {
		l := byField[[2]string{p.series, p.field}]
		if l == nil {
			l = &line{Series: p.series, Field: p.field, Type: layoutTypes[p.field]}
			byField[[2]string{p.series, p.field}] = l
		}
		l.Windows[shardRange.Window(p.t)].Add(digest.PointSum(key, p.series, p.field, l.Type, p.t, v))
	}
	out := make([]line, 0, len(byField))
	for _, l := range byField {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b line) int {
		return cmp.Or(strings.Compare(a.Series, b.Series), strings.Compare(a.Field, b.Field))
	})
	return out
}

func (m model) ids() []id {
	out := make([]id, 0, len(m))
	for p := range m {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b id) int {
		return cmp.Or(strings.Compare(a.series, b.series), strings.Compare(a.field, b.field), cmp.Compare(a.t, b.t))
	})
	return out
}

// memDir is a folder in memory where there is one: the engine waits for the disk with every file.
func memDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "digest")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// shardLayouts is how many layouts a shard gets before it is made anew.
const shardLayouts = 500

// arrangedShards are shards that are used in turn, with either index.
type arrangedShards struct {
	t      *testing.T
	stores []*tsdb.Store
	cache  *digest.Cache
	shards []*arranged
	at     int
	made   uint64
	last   *arranged
}

func newArranged(t *testing.T) *arrangedShards {
	t.Helper()
	a := &arrangedShards{t: t, shards: make([]*arranged, 2)}
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		s := enginetest.New(memDir(t), index)
		// Compactions are those of the test alone, and nobody switches them off.
		s.EngineOptions.MonitorDisabled = true
		s.EngineOptions.CompactionPlannerCreator = func(tsdb.Config) interface{} { return idlePlanner{} }
		a.stores = append(a.stores, enginetest.Open(t, s))
	}
	var err error
	if a.cache, err = digest.OpenCache(memDir(t)); err != nil {
		t.Fatal(err)
	}
	return a
}

// next returns an empty shard.
func (a *arrangedShards) next(t *rapid.T) *arranged {
	a.at++
	i := a.at % len(a.shards)
	s := a.shards[i]
	if s != nil && s.layouts >= shardLayouts {
		if err := s.store.DeleteDatabase(s.db); err != nil {
			t.Fatal(err)
		}
		s = nil
	}
	if s == nil {
		a.made++
		s = &arranged{store: a.stores[i], cache: a.cache, shard: a.made, db: fmt.Sprint("db", a.made)}
		if err := s.store.CreateShard(s.db, "rp", s.shard, true); err != nil {
			t.Fatal(err)
		}
		a.shards[i] = s
	}
	a.last = s
	s.layouts++
	s.clear(t)
	return s
}

// idlePlanner plans no compaction.
type idlePlanner struct{}

func (idlePlanner) FindGenerations() tsm1.TsmGenerations { return nil }
func (idlePlanner) Plan(tsm1.TsmGenerations, time.Time) ([]tsm1.CompactionGroup, int64) {
	return nil, 0
}
func (idlePlanner) PlanLevel(tsm1.TsmGenerations, int) ([]tsm1.CompactionGroup, int64) {
	return nil, 0
}
func (idlePlanner) PlanOptimize(tsm1.TsmGenerations, time.Time) ([]tsm1.CompactionGroup, int64, int64) {
	return nil, 0, 0
}
func (idlePlanner) Release([]tsm1.CompactionGroup)            {}
func (idlePlanner) FullyCompacted() (bool, string)            { return true, "" }
func (idlePlanner) ForceFull()                                {}
func (idlePlanner) SetFileStore(*tsm1.FileStore)              {}
func (idlePlanner) SetAggressiveCompactionPointsPerBlock(int) {}
func (idlePlanner) GetAggressiveCompactionPointsPerBlock() int {
	return tsdb.DefaultAggressiveMaxPointsPerBlock
}

// arranged is a shard in which one layout comes after the other.
type arranged struct {
	store   *tsdb.Store
	cache   *digest.Cache
	shard   uint64
	db      string
	layouts int

	holds  model       // the points that it has
	cached map[id]bool // of them those in the write cache: no file is newer
	unsafe bool        // the write cache has what no client can write, and the WAL lacks it
	stamp  digest.Stamp
}

func (s *arranged) engine(t enginetest.T) *tsm1.Engine {
	return enginetest.Engine(t, s.store.Shard(s.shard))
}

// files are the shard's files, the oldest first.
func (s *arranged) files(t enginetest.T) []string {
	var out []string
	for _, f := range s.engine(t).FileStore.Files() {
		out = append(out, f.Path())
	}
	return out
}

func (s *arranged) clear(t enginetest.T) {
	s.flush(t)
	if err := s.engine(t).FileStore.Replace(s.files(t), nil); err != nil {
		t.Fatal(err)
	}
	s.holds, s.cached = make(model), make(map[id]bool)
	s.stamp.LastModified++
	s.stamp.Deletes++
}

func (s *arranged) flush(t enginetest.T) {
	if err := s.engine(t).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
	s.cached, s.unsafe = make(map[id]bool), false
}

// arrange brings the data set into the shard, in a way that is drawn.
func (s *arranged) arrange(t *rapid.T, data model) {
	ids := data.ids()
	// What is not to stay: other values of the points, and other points.
	for range rapid.IntRange(0, 5).Draw(t, "steps") {
		switch rapid.IntRange(0, 7).Draw(t, "step") {
		case 0:
			s.delete(t, rapid.SampledFrom(layoutSeries).Draw(t, "series"), 500*rapid.Int64Range(0, 100).Draw(t, "from"),
				rapid.Int64Range(0, 20_000).Draw(t, "length"))
		case 1, 2, 3:
			s.rewrite(t)
		default:
			m := make(model)
			for range rapid.IntRange(0, 10).Draw(t, "points") {
				var p id
				if len(ids) > 0 && rapid.IntRange(0, 3).Draw(t, "which") > 0 {
					p = rapid.SampledFrom(ids).Draw(t, "point")
				} else {
					p = drawPoint(t)
				}
				m[p] = drawValue(t, p.field)
			}
			s.put(t, m)
		}
	}
	// What is missing, in any order and in pieces; and deletes of what is too much, which may take more.
	for round := 0; ; round++ {
		var extra []id
		lacking := make(model)
		for p := range s.holds {
			if _, ok := data[p]; !ok {
				extra = append(extra, p)
			}
		}
		for _, p := range ids {
			if v, ok := s.holds[p]; !ok || !equalValues(v, data[p]) {
				lacking[p] = data[p]
			}
		}
		if len(extra)+len(lacking) == 0 {
			break
		}
		if rapid.IntRange(0, 3).Draw(t, "pause") == 0 {
			s.rewrite(t)
		}
		if len(extra) > 0 && (len(lacking) == 0 || rapid.Bool().Draw(t, "delete first")) {
			p := slices.MinFunc(extra, func(a, b id) int {
				return cmp.Or(strings.Compare(a.series, b.series), cmp.Compare(a.t, b.t))
			})
			length := int64(0)
			if round < 6 {
				length = rapid.Int64Range(0, 5_000).Draw(t, "length")
			}
			s.delete(t, p.series, p.t, length)
			continue
		}
		piece := lacking
		if round < 6 && rapid.Bool().Draw(t, "in pieces") {
			piece = make(model)
			part := rapid.IntRange(1, 9).Draw(t, "part")
			for i, p := range lacking.ids() {
				if (i*7919+part)%10 <= part {
					piece[p] = lacking[p]
				}
			}
		}
		s.put(t, piece)
	}
	for range rapid.IntRange(0, 2).Draw(t, "last steps") {
		s.rewrite(t)
	}
}

// put writes points as a client does, or as a file.
func (s *arranged) put(t *rapid.T, m model) {
	written, filed := make(model), make(model)
	asFile := rapid.IntRange(0, 2).Draw(t, "as a file") == 0
	for p, v := range m {
		if f, ok := v.(float64); asFile || ok && math.IsNaN(f) { // no NaN gets into the write cache
			filed[p] = v
		} else {
			written[p] = v
		}
	}
	// The write cache is newer than any file.
	for p := range filed {
		if s.cached[p] {
			s.flush(t)
			break
		}
	}
	if len(filed) > 0 {
		s.file(t, filed)
	}
	if len(written) > 0 {
		s.write(t, written)
	}
}

func (s *arranged) write(t *rapid.T, m model) {
	var points []models.Point
	odd := make(map[string][]tsm1.Value)
	for _, p := range m.ids() {
		v := m[p]
		s.holds[p], s.cached[p] = v, true
		if f, ok := v.(float64); ok && math.IsInf(f, 0) {
			s.register(t, p)
			k := p.series + keyFieldSeparator + p.field
			odd[k] = append(odd[k], tsm1.NewValue(p.t, v))
			continue
		}
		name, tags := models.ParseKeyBytes([]byte(p.series))
		pt, err := models.NewPoint(string(name), tags, models.Fields{p.field: v}, time.Unix(0, p.t))
		if err != nil {
			t.Fatal(err)
		}
		points = append(points, pt)
	}
	enginetest.WritePoints(t, s.store, s.shard, points...)
	if len(odd) > 0 {
		s.unsafe = true
		if err := s.engine(t).Cache.WriteMulti(odd); err != nil {
			t.Fatal(err)
		}
	}
	s.stamp.LastModified++
}

// register makes a series and its field known.
func (s *arranged) register(t enginetest.T, p id) {
	e := s.engine(t)
	name, tags := models.ParseKeyBytes([]byte(p.series))
	if err := e.CreateSeriesIfNotExists([]byte(p.series), name, tags, tsdb.NoopStatsTracker()); err != nil {
		t.Fatal(err)
	}
	typ := map[digest.Type]influxql.DataType{
		digest.Float: influxql.Float, digest.Integer: influxql.Integer, digest.Boolean: influxql.Boolean,
		digest.String: influxql.String, digest.Unsigned: influxql.Unsigned,
	}[layoutTypes[p.field]]
	known := e.MeasurementFieldSet().CreateFieldsIfNotExists(name)
	if _, _, err := known.CreateFieldIfNotExists(p.field, typ); err != nil {
		t.Fatal(err)
	}
}

// file adds a file, the newest, with blocks of a drawn size.
func (s *arranged) file(t *rapid.T, m model) {
	e := s.engine(t)
	size := rapid.SampledFrom([]int{1, 2, 3, 7, 1000}).Draw(t, "block size")
	for try := 1; ; try++ {
		path := filepath.Join(e.Path(),
			tsm1.DefaultFormatFileName(e.FileStore.NextGeneration(), 1)+"."+tsm1.TSMFileExtension+"."+tsm1.TmpTSMFileExtension)
		err := s.writeFile(t, path, m, size)
		if err == nil {
			err = e.FileStore.Replace(nil, []string{path})
		}
		if err == nil {
			break
		}
		// The engine may be about to remove a file of this name: one that was in use when it was taken out of the shard,
		// before the shard was opened anew.
		if try == 10 || !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	s.stamp.LastModified++
}

// writeFile writes points to a new file at path, up to size in a block.
func (s *arranged) writeFile(t *rapid.T, path string, m model, size int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	w, err := tsm1.NewTSMWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	ids := m.ids()
	for len(ids) > 0 {
		n := 1
		for n < len(ids) && n < size && ids[n].series == ids[0].series && ids[n].field == ids[0].field {
			n++
		}
		values := make(tsm1.Values, n)
		for i, p := range ids[:n] {
			values[i] = tsm1.NewValue(p.t, m[p])
			s.holds[p] = m[p]
		}
		s.register(t, ids[0])
		if err := w.WriteBlock([]byte(ids[0].series+keyFieldSeparator+ids[0].field), ids[0].t, ids[n-1].t,
			encodeBlock(t, values)); err != nil {
			t.Fatal(err)
		}
		ids = ids[n:]
	}
	if err := w.WriteIndex(); err != nil {
		t.Fatal(err)
	}
	return w.Close()
}

const keyFieldSeparator = "#!~#"

// encodeBlock encodes NaNs, too, which the engine reads and does not write.
func encodeBlock(t enginetest.T, values tsm1.Values) []byte {
	b, err := values.Encode(nil)
	if err == nil {
		return b
	}
	zeros := make(tsm1.Values, len(values))
	for i, v := range values {
		zeros[i] = tsm1.NewValue(v.UnixNano(), 0.0)
	}
	if b, err = zeros.Encode(nil); err != nil {
		t.Fatal(err)
	}
	n, width := binary.Uvarint(b[1:])
	w := bitWriter{b: append(bytes.Clone(b[:1+width+int(n)]), 1<<4)}
	var last uint64
	for i, v := range append(slices.Clone(values), tsm1.NewValue(0, math.Float64frombits(0x7ff8000000000001))) { // the end
		now := math.Float64bits(v.Value().(float64))
		switch x := now ^ last; {
		case i == 0:
			w.write(now, 64)
		case x == 0:
			w.write(0, 1)
		default:
			leading := min(bits.LeadingZeros64(x), 31)
			w.write(3, 2)
			w.write(uint64(leading), 5)
			w.write(uint64(64-leading)%64, 6)
			w.write(x, 64-leading)
		}
		last = now
	}
	return w.b
}

type bitWriter struct {
	b    []byte
	free int // bits of the last byte
}

func (w *bitWriter) write(v uint64, n int) {
	for ; n > 0; n-- {
		if w.free == 0 {
			w.b, w.free = append(w.b, 0), 8
		}
		w.free--
		w.b[len(w.b)-1] |= byte(v>>(n-1)&1) << w.free
	}
}

// delete removes a series' points in [from, from+length].
func (s *arranged) delete(t *rapid.T, series string, from, length int64) {
	name, tags := models.ParseKeyBytes([]byte(series))
	s.stamp.Deletes++
	if err := s.engine(t).DeleteSeriesRange(&oneSeries{name: name, tags: tags}, from, from+length); err != nil {
		t.Fatal(err)
	}
	for p := range s.holds {
		if p.series == series && p.t >= from && p.t <= from+length {
			delete(s.holds, p)
			delete(s.cached, p)
		}
	}
}

type oneSeries struct {
	name []byte
	tags models.Tags
	done bool
}

func (s *oneSeries) Close() error        { return nil }
func (s *oneSeries) Name() []byte        { return s.name }
func (s *oneSeries) Tags() models.Tags   { return s.tags }
func (s *oneSeries) Deleted() bool       { return false }
func (s *oneSeries) Expr() influxql.Expr { return nil }
func (s *oneSeries) Next() (tsdb.SeriesElem, error) {
	if s.done {
		return nil, nil
	}
	s.done = true
	return s, nil
}

// rewrite changes how the points lie, and none of them.
func (s *arranged) rewrite(t *rapid.T) {
	switch rapid.IntRange(0, 60).Draw(t, "rewrite") {
	case 17: // not 0, which is drawn more often, as a restart takes long
		s.reopen(t)
	default:
		if rapid.Bool().Draw(t, "flush") {
			s.flush(t)
		} else {
			s.compact(t)
		}
	}
	s.stamp.LastModified++
}

func (s *arranged) reopen(t *rapid.T) {
	if s.unsafe {
		s.flush(t)
	}
	sh := s.store.Shard(s.shard)
	if err := s.engine(t).MeasurementFieldSet().WriteToFile(); err != nil {
		t.Fatal(err)
	}
	if err := sh.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sh.Open(); err != nil {
		t.Fatal(err)
	}
	sh.SetEnabled(true)
}

// compact makes files that follow each other one.
func (s *arranged) compact(t *rapid.T) {
	e, files := s.engine(t), s.files(t)
	if len(files) == 0 {
		return
	}
	from := rapid.IntRange(0, len(files)-1).Draw(t, "from")
	files = files[from : from+rapid.IntRange(1, len(files)-from).Draw(t, "files")]
	compact := e.Compactor.CompactFull
	if rapid.Bool().Draw(t, "fast") {
		compact = e.Compactor.CompactFast
	}
	made, err := compact(files, zap.NewNop(), rapid.SampledFrom([]int{1, 2, 5, 1000}).Draw(t, "block size"))
	if err != nil && strings.Contains(err.Error(), "unsupported value: NaN") {
		return // it lets the files be
	}
	if err == nil {
		err = e.FileStore.Replace(files, made)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// change makes the shard hold another data set: one point more, less, or another value.
func (s *arranged) change(t *rapid.T) (p id, v any, ok bool) {
	ids := s.holds.ids()
	if len(ids) > 0 {
		p = rapid.SampledFrom(ids).Draw(t, "point")
	} else {
		p = drawPoint(t)
	}
	switch rapid.IntRange(0, 2).Draw(t, "change") {
	case 0: // another value
		v = drawValue(t, p.field)
		if old, ok := s.holds[p]; ok && equalValues(old, v) {
			return p, nil, false
		}
	case 1: // one more
		p.t += rapid.SampledFrom([]int64{-1, 1}).Draw(t, "beside")
		if _, ok := s.holds[p]; ok || p.t < models.MinNanoTime || p.t > models.MaxNanoTime {
			return p, nil, false
		}
		v = drawValue(t, p.field)
	case 2: // one less, when no other field has the same time
		if len(ids) == 0 || slices.ContainsFunc(ids, func(o id) bool {
			return o.series == p.series && o.t == p.t &&
				o != p
		}) {
			return p, nil, false
		}
		s.delete(t, p.series, p.t, 0)
		return p, nil, true
	}
	s.put(t, model{p: v})
	return p, v, true
}

// maps returns a copy of m in which p is v, or is not.
func maps(m model, p id, v any) model {
	out := make(model, len(m)+1)
	for k, o := range m {
		out[k] = o
	}
	if delete(out, p); v != nil {
		out[p] = v
	}
	return out
}

// compare fails unless the shard has the digests, and the cache has them, too.
func (s *arranged) compare(t *rapid.T, want []line) {
	sh := s.store.Shard(s.shard)
	var got []line
	if err := digest.Compute(context.Background(), sh, key, shardRange, math.MaxInt64, lines(&got)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("equal data, other digests:\n%s", gocmp.Diff(want, got))
	}
	v, err := s.cache.View(context.Background(), sh, key, shardRange, func() (digest.Stamp, error) {
		return s.stamp, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	got = got[:0]
	if err := v.Each(context.Background(), math.MaxInt64, lines(&got)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("equal data, other digests in the cache:\n%s", gocmp.Diff(want, got))
	}
	var root digest.Sum
	for _, l := range want {
		for _, w := range l.Windows {
			root.Add(w)
		}
	}
	if r := v.Root(math.MaxInt64); r != root {
		t.Fatalf("root %v, want %v", r, root)
	}
}
