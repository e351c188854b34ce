//go:build bench

package transport

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy"
)

// table is what TestEntropyTable prints.
type table struct {
	t    *testing.T
	rows [][4]string
}

func (b *table) row(what, measured, target string, ok bool) {
	verdict := "ok"
	if !ok {
		verdict = "MISSED"
	}
	b.rows = append(b.rows, [4]string{what, measured, target, verdict})
	b.t.Logf("%s: %s (%s): %s", what, measured, target, verdict)
}

func (b *table) print() {
	b.rows = slices.Insert(b.rows, 0, [4]string{"What", "Measured", "Target", ""},
		[4]string{"---", "---", "---", "---"})
	fmt.Println()
	for _, r := range b.rows {
		fmt.Printf("| %s | %s | %s | %s |\n", r[0], r[1], r[2], r[3])
	}
	fmt.Println()
}

// files writes one TSM file of a shard for each owner before the stores open: series times points random floats, one
// each ten seconds, of which lacks leaves blocks out.
func files(
	t testing.TB, dirs []string, id uint64, start time.Time, series, points int,
	value func(rng *rand.Rand, i int) float64,
	lacks func(owner, series, block int) bool,
) {
	t.Helper()
	for owner, dir := range dirs {
		rng := rand.New(rand.NewPCG(3, id)) // the same for each owner
		path := filepath.Join(dir, fmt.Sprint("db", id), "autogen", fmt.Sprint(id))
		if err := os.MkdirAll(path, 0o750); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(path, "000000001-000000001.tsm"))
		if err != nil {
			t.Fatal(err)
		}
		w, err := tsm1.NewTSMWriter(f)
		if err != nil {
			t.Fatal(err)
		}
		for s := range series {
			key := fmt.Appendf(nil, "cpu,host=server-%05d,region=eu-west#!~#usage_idle", s)
			for b := 0; b < points/1000; b++ {
				values := make(tsm1.Values, 1000)
				for i := range values {
					values[i] = tsm1.NewValue(start.UnixNano()+int64(b*1000+i)*1e10, value(rng, i))
				}
				if lacks(owner, s, b) {
					continue
				}
				if err := w.Write(key, values); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.WriteIndex(); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// thermometer has values as sensors send them.
func thermometer(rng *rand.Rand, i int) float64 {
	return math.Round(100*(20+8*math.Sin(float64(i)/700)+rng.Float64())) / 100
}

// decode reads all blocks of a shard and decodes them, and does nothing with the points.
func decode(t testing.TB, sh *tsdb.Shard) (points int) {
	e, err := sh.Engine()
	if err != nil {
		t.Fatal(err)
	}
	var vals tsdb.FloatArray
	for _, f := range e.(*tsm1.Engine).FileStore.Files() {
		r, err := e.(*tsm1.Engine).FileStore.TSMReader(f.Path())
		if err != nil {
			t.Fatal(err)
		}
		var entries []tsm1.IndexEntry
		for i := range r.KeyCount() {
			key, _ := r.KeyAt(i)
			entries = r.ReadEntries(key, &entries)
			for j := range entries {
				_, b, err := r.ReadBytes(&entries[j], nil)
				if err == nil {
					err = tsm1.DecodeFloatArrayBlock(b, &vals)
				}
				if err != nil {
					t.Fatal(err)
				}
				points += vals.Len()
			}
		}
		r.Unref()
	}
	return points
}

// walk reads all points of a shard through the engine's cursors, and does nothing with them.
func walk(t testing.TB, sh *tsdb.Shard, series int) (points int) {
	cursors, err := sh.CreateCursorIterator(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for s := range series {
		tags := models.NewTags(map[string]string{"host": fmt.Sprintf("server-%05d", s), "region": "eu-west"})
		cur, err := cursors.Next(t.Context(), &tsdb.CursorRequest{
			Name: []byte("cpu"), Tags: tags, Field: "usage_idle", Ascending: true, StartTime: models.MinNanoTime,
			EndTime: models.MaxNanoTime,
		})
		if err != nil || cur == nil {
			t.Fatal(cur, err)
		}
		for a := cur.(tsdb.FloatArrayCursor).Next(); a.Len() > 0; a = cur.(tsdb.FloatArrayCursor).Next() {
			points += a.Len()
		}
		cur.Close()
	}
	return points
}

// highWater samples the heap until stop.
func highWater() (stop func() uint64) {
	var most atomic.Uint64
	done, ended := make(chan struct{}), make(chan struct{})
	runtime.GC()
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapInuse))
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 { close(done); <-ended; return most.Load() }
}

// send copies a file over a loopback connection, and fsyncs it, as a copy of a shard does at best.
func send(t testing.TB, from, to string) (took time.Duration, size int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	start := time.Now()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if f, err := os.Open(from); err == nil {
			io.Copy(c, f)
			f.Close()
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	size, err = io.Copy(f, c)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(start), size
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// TestEntropyTable measures what docs/benchmarks.md has, in one run.
func TestEntropyTable(t *testing.T) {
	b := &table{t: t}
	defer b.print()
	b.digests()
	b.windows()
	b.points()
	b.large()
}

// digests are the rows about 10 million points.
func (b *table) digests() {
	o := newOwnersWith(b.t, 2, 1, func(o *owners, dirs []string) {
		files(b.t, dirs, 1, o.start, 1000, 10_000, thermometer, func(int, int, int) bool { return false })
	})
	const points = 10e6
	var raw, decoded, digested time.Duration
	for range 5 { // in turns
		start := time.Now()
		if n := decode(b.t, o.stores[0].Shard(1)); n != points {
			b.t.Fatal(n)
		}
		raw += time.Since(start)
		start = time.Now()
		if n := walk(b.t, o.stores[0].Shard(1), 1000); n != points {
			b.t.Fatal(n)
		}
		decoded += time.Since(start)
		start = time.Now()
		o.root(0, 1)
		digested += time.Since(start)
	}
	rate := func(took time.Duration) float64 { return 5 * points / took.Seconds() / 1e6 }
	share := float64(decoded) / float64(digested)
	b.row("digest of float points, beside the bare decode of the same blocks by the engine's cursors",
		fmt.Sprintf("%.0f of %.0f million points a second: %.0f %%", rate(digested), rate(decoded), 100*share),
		"at least 70 %", share >= 0.7)
	b.row("the same, beside a loop over the blocks that nothing is merged with",
		fmt.Sprintf("%.0f of %.0f million points a second: %.0f %%",
			rate(digested), rate(raw), 100*float64(raw)/float64(digested)),
		"100 million points a second", rate(digested) >= 100)

	check := func() time.Duration {
		start := time.Now()
		if err := o.service.CheckNow(b.t.Context()); err != nil {
			b.t.Fatal(err)
		}
		return time.Since(start)
	}
	first := check()
	o.sent.of()
	second := check()
	b.t.Logf("calls: %v", o.sent.bytes)
	calls := o.sent.count()
	b.row("check of an unchanged shard of 10 million points",
		fmt.Sprintf("%v after %v, %d call", second.Round(10*time.Microsecond), first.Round(time.Millisecond), calls),
		"one round trip", calls == 1)

	start := time.Now()
	if _, err := o.copies[0].Root(b.t.Context(), o.shard(1), math.MaxInt64); err != nil {
		b.t.Fatal(err)
	}
	root := time.Since(start)
	b.row("root of that shard out of the cache",
		root.Round(time.Microsecond).String(), "no block is read", root < time.Duration(float64(digested)/5/20))
	o.write(0, 1, o.point("cpu,host=server-00007,region=eu-west", "usage_idle", o.at(time.Hour)+1, 1.0))
	start = time.Now()
	if _, err := o.copies[0].Root(b.t.Context(), o.shard(1), math.MaxInt64); err != nil {
		b.t.Fatal(err)
	}
	root = time.Since(start)
	b.row("the same after a write to one series",
		root.Round(time.Microsecond).String(), "a tenth of a digest at most", root < time.Duration(float64(digested)/5/10))
}

func (b *table) windows() {
	const n, differ = 1_000_000 / 64 * 64, 1000
	_, wire := compareOver(b.t, n, randomWindows(n, differ, 0, 1, 2))
	b.row("a million windows of which a thousand differ",
		fmt.Sprintf("%d kB both ways", wire/1000), "120 kB at most", wire <= 120_000)
}

func (b *table) points() {
	o := newOwners(b.t, 2, 2)
	gap := 3*24*time.Hour + 7*time.Hour + 10*time.Second
	o.series(1, randomFloat, func(owner int, at time.Duration) bool { return owner == 1 && at == gap })
	bytes, _ := o.repaired(1)
	b.row("one missing point, isolated", fmt.Sprintf("%d bytes in messages", bytes), "256 bytes at most", bytes <= 256)
	from, to := 30*time.Hour, 60*time.Hour
	o.series(2, randomFloat, func(owner int, at time.Duration) bool { return owner == 1 && at >= from && at < to })
	size := o.blockBytes(0, 2, from, to)
	bytes, _ = o.repaired(2)
	ratio := float64(bytes) / float64(size)
	b.row("missing blocks, beside their compressed size",
		fmt.Sprintf("%.3f times", ratio), "1.1 times at most", ratio <= 1.1)
}

// large is the row about a shard of 1 GB of which an owner lacks 1 %.
func (b *table) large() {
	const series, points = 2000, 60_000
	o := newOwnersWith(b.t, 2, 1, func(o *owners, dirs []string) {
		files(b.t, dirs, 1, o.start, series, points, func(rng *rand.Rand, _ int) float64 { return rng.NormFloat64() },
			func(owner, s, block int) bool {
				return owner == 1 && s%5 == 0 && (block == 31 || block == 32 || block == 33)
			})
	})
	cfg := o.config
	cfg.MaxRate = entropy.NewConfig().MaxRate
	o.service.SetConfig(cfg)
	path := filepath.Join(o.stores[0].Shard(1).Path(), "000000001-000000001.tsm")
	copied, size := send(b.t, path, filepath.Join(b.t.TempDir(), "copy"))
	for i := range o.stores { // the checks before have the digests in the cache
		if _, err := o.copies[i].Root(b.t.Context(), o.shard(1), math.MaxInt64); err != nil {
			b.t.Fatal(err)
		}
	}
	o.sent.of()
	stop := highWater()
	before := o.wire[1].bytes.Load()
	start := time.Now()
	r := o.repair(1)
	took := time.Since(start)
	most := stop()
	wire := o.wire[1].bytes.Load() - before
	if r.State != entropy.Done || r.Points != series/5*3000 {
		b.t.Fatalf("%+v", r)
	}
	b.row(fmt.Sprintf("repair of a shard of %s with %.1f %% missing: bytes",
		mib(size), 100*float64(r.Points)/series/points),
		fmt.Sprintf("%s, %.0f times less than the shard", mib(wire), float64(size)/float64(wire)), "20 times less",
		wire*20 <= size)
	limit := float64(size) / (48 << 20)
	b.row("the same: time, beside a copy of the shard at the default max-rate of 48 MB/s",
		fmt.Sprintf("%v beside %.1fs, %.1f times less", took.Round(time.Millisecond), limit, limit/took.Seconds()),
		"20 times less", took.Seconds()*20 <= limit)
	b.row("the same, beside a bare copy of the file over loopback with fsync, at no limit",
		fmt.Sprintf("%v beside %v, %.1f times less",
			took.Round(time.Millisecond), copied.Round(time.Millisecond), copied.Seconds()/took.Seconds()),
		"20 times less", took*20 <= copied)
	b.row("heap of both owners during it", mib(int64(most)), "256 MiB at most", most <= 256<<20)
}
