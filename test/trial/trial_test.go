//go:build trial

package trial

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"concord/internal/entropy/api"
	"concord/test/process"
)

var (
	pointsFlag = flag.Int("points", 50_000_000, "points that are loaded")
	shardsFlag = flag.Int("shards", 20, "shards, of a day each")
	missFlag   = flag.Float64("miss", 0.02, "share of the points that are written while a node is away")
)

const (
	batch    = 10_000
	writers  = 4
	series   = 1000
	database = "trial"
)

func TestMain(m *testing.M) { process.Main(m) }

type trial struct {
	*testing.T
	c     *process.Cluster
	begin time.Time
	each  int // points of a series in a shard
}

// TestTrial is the whole story, with figures.
func TestTrial(t *testing.T) {
	c := &trial{
		T: t, each: *pointsFlag / *shardsFlag / series,
		begin: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -*shardsFlag-1),
	}
	if c.each < 1 {
		t.Fatalf("%d points in %d shards are fewer than one of each of %d series", *pointsFlag, *shardsFlag, series)
	}
	c.c = process.Start(t, process.Options{Meta: 1, Data: 3, Settings: map[string]map[string]any{
		"hinted-handoff": {"enabled": false},
		"anti-entropy":   {"settle": "5s", "check-interval": "10s", "auto-repair-missing": true},
	}})
	if _, err := c.c.Data[0].Client().Query(t.Context(), "", fmt.Sprintf(
		`CREATE DATABASE %q WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`, database,
	)); err != nil {
		t.Fatal(err)
	}
	away := max(int(float64(c.each)**missFlag), 1)
	loaded := c.load(0, c.each-away, c.c.Data, "all")
	c.say("loaded %d points in %d shards", loaded, *shardsFlag)

	c.c.Data[2].Stop(syscall.SIGTERM)
	missed := c.load(c.each-away, c.each, c.c.Data[:2], "one")
	c.say("data3 was away for %d points", missed)
	c.c.Data[2].Start()
	c.c.Data[2].AwaitUp()

	start := time.Now()
	var status api.Status
	if !process.Poll(10*time.Minute, func() bool {
		var err error
		status, _, err = c.c.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && len(status.Shards) == *shardsFlag
	}) {
		t.Fatalf("after ten minutes the check lists %d of %d shards", len(status.Shards), *shardsFlag)
	}
	c.say("all %d shards are listed as diff %v after data3 came back",
		len(status.Shards), time.Since(start).Round(time.Second))

	disk := c.diskOf(2)
	start = time.Now()
	for _, sh := range status.Shards {
		if out, err := c.c.TryCtl("entropy", "repair", sh.ID); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	stop := c.memory()
	lines := c.watch()
	most := stop()
	c.say("repaired in %v; entropy watch printed %d lines, the last of them:\n%s",
		time.Since(start).Round(100*time.Millisecond), len(lines), strings.Join(lines[max(0, len(lines)-8):], "\n"))
	for i, n := range c.c.Data {
		c.say("%s: at most %d MiB resident during the repairs", n.Name, most[i]>>20)
	}
	c.say("data3 has %d MiB on disk, %d MiB before", c.diskOf(2)>>20, disk>>20)
	fmt.Println(c.c.Ctl("entropy", "repairs"))
	c.Await("nothing differs", func() bool {
		s, _, err := c.c.Data[0].Client().EntropyStatus(t.Context())
		return err == nil && s.Clean()
	})
	c.compare(loaded + missed)
}

func (c *trial) Await(what string, ok func() bool) {
	c.Helper()
	if !process.Poll(10*time.Minute, ok) {
		c.Fatalf("never: %s", what)
	}
}

func (c *trial) say(format string, args ...any) {
	fmt.Printf(time.Now().UTC().Format("15:04:05 ")+format+"\n", args...)
}

// load writes the points [from, to) of each series in each shard, and returns how many that is.
func (c *trial) load(from, to int, nodes []*process.Node, level string) int {
	start := time.Now()
	type job struct{ shard, first int }
	jobs := make(chan job)
	var wg sync.WaitGroup
	var written atomic.Int64
	step := 24 * time.Hour / time.Duration(c.each)
	for w := range writers {
		wg.Go(func() {
			cl := nodes[w%len(nodes)].Client()
			var lines []byte
			for j := range jobs {
				lines = lines[:0]
				n := 0
				for i := j.first; i < min(j.first+batch/series, to); i++ {
					at := c.begin.AddDate(0, 0, j.shard).Add(time.Duration(i) * step).UnixNano()
					for s := range series {
						lines = append(lines, "cpu,host=server-"...)
						lines = strconv.AppendInt(lines, int64(s), 10)
						lines = append(lines, " usage="...)
						lines = strconv.AppendFloat(lines, float64((i*7919+s*31)%10000)/100, 'f', 2, 64)
						lines = append(lines, ' ')
						lines = strconv.AppendInt(lines, at, 10)
						lines = append(lines, '\n')
						n++
					}
				}
				for try := 0; ; try++ {
					err := cl.Write(context.Background(), database, level, lines)
					if err == nil {
						break
					}
					if try == 20 {
						c.Errorf("write: %v", err)
						return
					}
					time.Sleep(time.Second) // a full queue or cache
				}
				written.Add(int64(n))
			}
		})
	}
	for shard := range *shardsFlag {
		for i := from; i < to; i += batch / series {
			jobs <- job{shard, i}
		}
	}
	close(jobs)
	wg.Wait()
	n := int(written.Load())
	c.say("%d points in %v: %.0f a second",
		n, time.Since(start).Round(time.Second), float64(n)/time.Since(start).Seconds())
	return n
}

// watch runs entropy watch to its end, and returns what it prints.
func (c *trial) watch() []string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.c.Bin("influxd-ctl"), "-bind", c.c.Meta[0].HTTP, "entropy", "watch")
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.Fatalf("entropy watch: %v\n%s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// memory samples the resident memory of the data nodes until stop, which returns the most of each.
func (c *trial) memory() (stop func() []int64) {
	most := make([]int64, len(c.c.Data))
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			for i, n := range c.c.Data {
				most[i] = max(most[i], resident(n.PID()))
			}
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() []int64 { close(done); <-ended; return most }
}

// resident is a process's memory in bytes, where the system tells.
func resident(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// diskOf is the size of a node's data.
func (c *trial) diskOf(node int) (n int64) {
	err := filepath.WalkDir(filepath.Join(c.c.Data[node].Dir, "data"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.Error(err)
	}
	return n
}

// compare asks each node alone: the others are stopped.
func (c *trial) compare(points int) {
	const q = "SELECT count(usage), mean(usage), sum(usage), max(usage) FROM cpu"
	var answers []string
	for i, n := range c.c.Data {
		for j, o := range c.c.Data {
			if i != j {
				o.Stop(syscall.SIGTERM)
			}
		}
		var rows [][]any
		c.Await("an answer of "+n.Name+" alone", func() (ok bool) {
			var err error
			rows, err = n.Client().Query(context.Background(), database, q)
			return err == nil && len(rows) > 0
		})
		answers = append(answers, fmt.Sprint(rows))
		for j, o := range c.c.Data {
			if i != j {
				o.Start()
			}
		}
		for _, o := range c.c.Data {
			o.AwaitUp()
		}
	}
	c.say("alone they answer %v", answers)
	if len(slices.Compact(answers)) != 1 || !strings.Contains(answers[0], fmt.Sprint(points)) {
		c.Errorf("want the same of all, and %d points", points)
	}
}
