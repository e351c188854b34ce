//go:build bench

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/test/process"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(plainEnv); dir != "" {
		if err := servePlain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	process.Main(m)
}

// TestForeground measures writes beside repairs at the default rate, on separate processes: two data nodes that own
// everything, the second one without half of the blocks of some shards. What a write costs drifts with the machine:
// repairs and pauses of the same length take turns.
func TestForeground(t *testing.T) {
	const shards, series, blocks = 2, 1000, 40
	c := process.Start(t, process.Options{Meta: 1, Data: 2, Settings: map[string]map[string]any{
		"hinted-handoff": {"enabled": false},
		"anti-entropy":   {"settle": "1s", "check-interval": "1h"},
	}})
	query := func(q string) [][]any {
		t.Helper()
		rows, err := c.Data[0].Client().Query(t.Context(), "bulk", q)
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	query(`CREATE DATABASE "bulk" WITH DURATION INF REPLICATION 2 SHARD DURATION 7d NAME "autogen"`)
	query(`CREATE DATABASE "live" WITH DURATION INF REPLICATION 2 SHARD DURATION 7d NAME "autogen"`)
	begin := start.AddDate(0, 0, -7*shards-7).Truncate(7 * 24 * time.Hour)
	for i := range shards { // so that they exist, and their series
		var b []byte
		for s := range series {
			b = fmt.Appendf(b, "cpu,host=server-%05d,region=eu-west usage_idle=1 %d\n", s, begin.AddDate(0, 0, 7*i).UnixNano())
		}
		if err := c.Data[0].Client().Write(t.Context(), "bulk", "all", b); err != nil {
			t.Fatal(err)
		}
	}
	for owner, n := range c.Data {
		n.Stop(syscall.SIGTERM)
		dirs, err := filepath.Glob(filepath.Join(n.Dir, "data", "bulk", "autogen", "*"))
		if err != nil || len(dirs) != shards {
			t.Fatal(dirs, err)
		}
		slices.Sort(dirs)
		for i, dir := range dirs {
			fill(t, filepath.Join(dir, "000000100-000000001.tsm"), begin.AddDate(0, 0, 7*i).Add(time.Hour), series, blocks,
				func(block int) bool { return owner == 1 && block%2 == 1 })
		}
	}
	for _, n := range c.Data {
		n.Start()
		n.AwaitUp()
	}

	ids := make([]string, 0, shards)
	status := func() (listed, queued int) {
		s, _, err := c.Data[0].Client().EntropyStatus(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		ids = ids[:0]
		for _, sh := range s.Shards {
			ids = append(ids, sh.ID)
		}
		return len(s.Shards), len(s.Queued) + len(s.Processing)
	}
	for _, n := range c.Data {
		n.AwaitUp()
	}
	if out, err := c.TryCtl("entropy", "check"); err != nil {
		t.Fatal(out, err)
	}
	c.Await("all shards are listed", func() bool { n, _ := status(); return n == shards })
	todo := slices.Clone(ids)

	sent := 0
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	write := func() time.Duration {
		<-tick.C
		var b []byte
		for i := range 50 {
			sent++
			b = fmt.Appendf(b, "w,host=%d v=%d %d\n", i, sent, start.Add(time.Duration(sent)*time.Millisecond).UnixNano())
		}
		begun := time.Now()
		if err := c.Data[1].Client().Write(context.Background(), "live", "all", b); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	for range 1000 { // warm up
		write()
	}
	var alone, beside []time.Duration
	var repairing time.Duration
	for _, id := range todo {
		begun := time.Now()
		if err := c.Data[0].Client().Repair(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		for {
			for range 50 {
				beside = append(beside, write())
			}
			if _, queued := status(); queued == 0 {
				break
			}
		}
		took := time.Since(begun)
		repairing += took
		for begun := time.Now(); time.Since(begun) < took; {
			for range 50 {
				alone = append(alone, write())
			}
			status()
		}
	}
	if n, _ := status(); n > 0 {
		t.Errorf("%d shards still differ", n)
	}
	p99 := func(l []time.Duration) time.Duration {
		slices.Sort(l)
		return l[len(l)*99/100]
	}
	b, a := p99(beside), p99(alone)
	verdict := "ok"
	if b.Seconds() > 1.1*a.Seconds() {
		verdict = "MISSED"
	}
	fmt.Printf("\n| What | Measured | Target |  |\n| --- | --- | --- | --- |\n")
	fmt.Printf("| p99 of %d writes to both owners (separate processes, %d CPUs) beside %d repairs of %.1fs at the "+
		"default rate, and of %d between them | %v beside %v: %+.0f %%; the medians %v and %v | at most 10 %% more | "+
		"%s |\n\n",
		len(beside), runtime.NumCPU(), shards, repairing.Seconds()/shards, len(alone), b.Round(10*time.Microsecond),
		a.Round(10*time.Microsecond), 100*(b.Seconds()/a.Seconds()-1), beside[len(beside)/2].Round(10*time.Microsecond),
		alone[len(alone)/2].Round(10*time.Microsecond), verdict)
	fmt.Println(c.Ctl("entropy", "repairs"))
}

// fill writes a file of the engine: a thousand random floats a block, one each ten seconds, and no blocks that lacks
// leaves out.
func fill(t testing.TB, path string, from time.Time, series, blocks int, lacks func(block int) bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, uint64(from.UnixNano()))) // the same for each owner
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := tsm1.NewTSMWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	for s := range series {
		key := fmt.Appendf(nil, "cpu,host=server-%05d,region=eu-west#!~#usage_idle", s)
		for b := range blocks {
			values := make(tsm1.Values, 1000)
			for i := range values {
				values[i] = tsm1.NewValue(from.UnixNano()+int64(b*1000+i)*1e10, rng.NormFloat64())
			}
			if lacks(b) {
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
