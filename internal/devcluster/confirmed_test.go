package devcluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/compare"
	"concord/test/compare/plain"
)

// late is how far the metadata of the second node is behind, for what its long poll brings.
const late = time.Second

// mustStartLate returns a cluster of three data nodes with one that is late.
// It ends after four minutes, and a second more for each of seconds.
func mustStartLate(
	t *testing.T, seconds int, config func(*datanode.Config),
) (context.Context, *devcluster.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute+time.Duration(seconds)*time.Second)
	t.Cleanup(cancel)
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 3,
		DataConfig: func(cfg *datanode.Config) {
			cfg.Cluster.WriteTimeout = itoml.Duration(30 * time.Second) // a busy machine is not a node that is away
			if config != nil {
				config(cfg)
			}
		},
		Late: func(ctx context.Context, node int) {
			if node != 1 {
				return
			}
			select {
			case <-time.After(late):
			case <-ctx.Done():
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return ctx, c
}

var (
	corpusRounds = flag.Int("corpus", 3,
		"how many times TestNodesAnswerOneAfterTheOtherAsOneServer sends its statements, with each index")
	recreations = flag.Int("recreations", 30,
		"how many times TestDatabaseIsCreatedRightAfterItWasDroppedElsewhere drops and creates it")
)

// What is done at one node is true at the next one at once, also at one that hears of changes a second late: the
// answers are those of a single server.
func TestNodesAnswerOneAfterTheOtherAsOneServer(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, index := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			ctx, c := mustStartLate(t, *corpusRounds*20, func(cfg *datanode.Config) {
				cfg.HTTPD.AuthEnabled = true
				cfg.Data.Index = index
				cfg.ContinuousQuery.Enabled = false // the single server runs none, either
			})
			answersAsOneServer(ctx, t, c, index)
		})
	}
}

// answersAsOneServer sends the corpus to one node after the other, and to a single server.
func answersAsOneServer(ctx context.Context, t *testing.T, c *devcluster.Cluster, index string) {
	single, err := plain.Start(plain.Options{Dir: t.TempDir(), Index: index, Auth: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { single.Close() })
	round, turn := 0, 0
	both := func(s step) {
		t.Helper()
		node := turn % len(c.Data)
		turn++
		only := false
		if s.text, only = strings.CutPrefix(s.text, tsdb.TSI1IndexName+" "); only && index != tsdb.TSI1IndexName {
			return
		}
		want, err := s.run(ctx, single.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.run(ctx, c.Data[node].HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		// The single server has no permissions but reading, writing, and all.
		want = strings.ReplaceAll(want, "'DROP DATABASE e', requires admin privilege",
			"'DROP DATABASE e', requires DropDatabase")
		if !compare.Same(want, got) {
			t.Errorf("round %d, node %d: %s: %q as %q:\n%s\nwant\n%s", round, node+1, s.db, s.text, s.user, got, want)
		}
	}
	both(step{text: `CREATE USER root WITH PASSWORD 'secret' WITH ALL PRIVILEGES`})
	// From each node in turn, so that each statement is sent to each of them.
	for round = range *corpusRounds {
		turn = round
		for _, s := range corpus {
			both(s)
		}
		if (round+1)%10 == 0 {
			t.Logf("%d rounds of %d steps", round+1, len(corpus))
		}
	}
}

// A database that was dropped through one node takes no writes at another one, and is there when it is created again
// at once through a third.
func TestDatabaseIsCreatedRightAfterItWasDroppedElsewhere(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartLate(t, 2**recreations, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	w := startWriters(ctx, t, c)
	slow, wasSlow := 0, false
	for i := range *recreations {
		dropped := time.Now()
		err := w.recreate(ctx, t, i, dropped)
		took := time.Since(dropped)
		// A node that was late in the round before is not waited for until it is heard.
		blame := took < stalls && !wasSlow
		wasSlow = took >= stalls
		if err != nil {
			if blame {
				t.Fatalf("round %d: %v", i, err)
			}
			slow++
			t.Logf("round %d, after %v: %v", i, took, err)
			mustWait(ctx, t, c, "all nodes have the database after a slow round", func() bool {
				_, err := c.Client(0).Query(ctx, "", `CREATE DATABASE db`)
				for k := range c.Data {
					err = errors.Join(err, c.Client(k).Write(ctx, "db", "all", []byte("m v=0 1700000000000000000")))
				}
				return err == nil
			})
		}
		if t.Failed() {
			t.Fatalf("round %d", i)
		}
	}
	if slow > *recreations/2 {
		t.Errorf("%d of %d rounds failed, and took longer than %v", slow, *recreations, stalls)
	}
}

// stalls is for how long a round may take before the machine, and not a node, is to blame: a change is confirmed after
// two seconds also when a node has not heard of it.
const stalls = 1500 * time.Millisecond

// recreate drops the database and creates it again, and returns what a node answers otherwise than a single server.
func (w *writers) recreate(ctx context.Context, t *testing.T, i int, dropped time.Time) error {
	t.Helper()
	node := func(k int) devcluster.Client { return w.c.Client((i + k) % 3) }
	if _, err := node(0).Query(ctx, "", `DROP DATABASE db`); err != nil {
		return err
	}
	line := fmt.Appendf(nil, "m v=%d 1700000000000000000", i)
	err := node(1).Write(ctx, "db", "one", line)
	if err == nil || !strings.Contains(err.Error(), "database not found") {
		return fmt.Errorf("a write into the dropped database: %v", err)
	}
	if _, err := node(2).Query(ctx, "", `CREATE DATABASE db`); err != nil {
		return err
	}
	created := time.Now()
	if err := node(0).Write(ctx, "db", "all", line); err != nil {
		return err
	}
	rows, err := node(1).Query(ctx, "db", `SELECT v FROM m`)
	if err != nil || len(rows) != 1 || fmt.Sprint(rows[0][1]) != fmt.Sprint(i) {
		return fmt.Errorf("the rows are %v, and the error %v", rows, err)
	}
	w.check(ctx, t, (i+2)%3, dropped, created)
	return nil
}

// writers write points to all nodes, each with a number of its own, while the database goes and comes.
type writers struct {
	c *devcluster.Cluster

	mu    sync.Mutex
	wrote []written // by number
}

// written is one write, and when it was under way.
type written struct {
	began, ended time.Time // ended is zero while it is under way
	err          error
}

// ok reports whether a write was confirmed.
func (w written) ok() bool { return !w.ended.IsZero() && w.err == nil }

func startWriters(ctx context.Context, t *testing.T, c *devcluster.Cluster) *writers {
	ctx, cancel := context.WithCancel(ctx)
	w := &writers{c: c}
	var running sync.WaitGroup
	for k := range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				n := w.begin()
				err := c.Client(k%3).Write(ctx, "db", "all", fmt.Appendf(nil, "w,writer=%d n=%di %d", k, n, n))
				w.end(n, err)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	return w
}

func (w *writers) begin() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote = append(w.wrote, written{began: time.Now()})
	return len(w.wrote) - 1
}

func (w *writers) end(n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrote[n].ended, w.wrote[n].err = time.Now(), err
}

// check looks at what a node has of the database that was created last: all that was confirmed since then, and nothing
// that ended before the one before was dropped. Both are times of the beginning of the drop, and of the end of the
// creation.
func (w *writers) check(ctx context.Context, t *testing.T, node int, dropped, created time.Time) {
	t.Helper()
	err := w.c.Wait(ctx, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.ContainsFunc(w.wrote, func(of written) bool { return of.began.After(created) && of.ok() })
	})
	if err != nil {
		t.Fatal("no writer writes any more:", err)
	}
	asked := time.Now()
	has := make(map[int64]bool)
	for _, row := range mustQuery(ctx, t, w.c, node, "db", `SELECT n FROM w`) {
		n, err := row[1].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		has[n] = true
	}
	slow := created.Sub(dropped) > stalls
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, of := range w.wrote {
		ended := !of.ended.IsZero()
		switch {
		case ended && of.ended.Before(dropped) && has[int64(n)]:
			t.Errorf("node %d has point %d, which was written %v before the database was dropped", node+1, n,
				dropped.Sub(of.ended))
		case of.began.After(created) && ended && of.ended.Before(asked) && of.err != nil:
			// A node that stalled may not have heard of the new database.
			if slow || of.ended.Sub(of.began) > time.Second {
				continue
			}
			t.Errorf("point %d is refused %v after the database was created: %v", n, of.began.Sub(created), of.err)
		case of.began.After(created) && ended && of.ended.Before(asked) && !has[int64(n)]:
			t.Errorf("node %d lacks point %d, which was written %v after the database was created", node+1, n,
				of.began.Sub(created))
		}
	}
}
