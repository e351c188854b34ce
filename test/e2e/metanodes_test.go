//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"concord/internal/meta/wire"
	"concord/test/process"
)

const (
	// soon is how long a change, or a write into a new shard, may take while one meta node is in trouble and the
	// machine is busy.
	soon = 30 * time.Second
	// election is how long the meta nodes may take to notice that their leader is gone, and to elect another one.
	election = 10 * time.Second
)

// metaCluster is a cluster of which the meta nodes are in trouble. Its database "db" has two copies of each point.
type metaCluster struct {
	*process.Cluster
	used int // how often use was called
}

// newMetaCluster starts a cluster in which another node runs the continuous queries two seconds after the one that did
// is gone.
func newMetaCluster(t *testing.T, opt process.Options) *metaCluster {
	t.Helper()
	configure := opt.Configure
	opt.Configure = func(node string, settings map[string]any) {
		if strings.HasPrefix(node, "meta") {
			settings["meta"].(map[string]any)["lease-duration"] = "2s"
		} else {
			settings["continuous_queries"] = map[string]any{"run-interval": "100ms", "log-enabled": false}
		}
		if configure != nil {
			configure(node, settings)
		}
	}
	c := &metaCluster{Cluster: process.Start(t, opt)}
	c.query(t, c.Data[0], `CREATE DATABASE db WITH DURATION INF REPLICATION 2`)
	return c
}

// query is a statement that must succeed.
func (c *metaCluster) query(t *testing.T, n *process.Node, q string) [][]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rows, err := n.Client().Query(ctx, "db", q)
	if err != nil {
		t.Fatalf("%s: %v", n.Name, err)
	}
	return rows
}

// raft is what a meta node says of its part in the consensus; not ok when it does not within a second.
func raft(n *process.Node) (r wire.Raft, ok bool) {
	client := http.Client{Timeout: time.Second}
	resp, err := client.Get("http://" + n.HTTP + "/raft")
	if err != nil {
		return r, false
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&r)
	return r, err == nil
}

// awaitLeader waits until one of some meta nodes leads.
func (c *metaCluster) awaitLeader(t *testing.T, of ...*process.Node) *process.Node {
	t.Helper()
	var leader *process.Node
	c.Await("a meta node leads", func() bool {
		i := slices.IndexFunc(of, func(n *process.Node) bool {
			r, ok := raft(n)
			return ok && r.State == "leader"
		})
		if i >= 0 {
			leader = of[i]
		}
		return i >= 0
	})
	return leader
}

// metaBut are the meta nodes but some.
func (c *metaCluster) metaBut(these ...*process.Node) []*process.Node {
	return slices.DeleteFunc(slices.Clone(c.Meta), func(n *process.Node) bool { return slices.Contains(these, n) })
}

// use makes a database, writes into new shards and reads them through every data node at the same time. Nothing may
// take longer than the limit.
func (c *metaCluster) use(t *testing.T, limit time.Duration) {
	t.Helper()
	c.used++
	ctx, cancel := context.WithTimeout(t.Context(), 4*limit) // each node has four steps
	defer cancel()
	var wg sync.WaitGroup
	for i, n := range c.Data {
		wg.Go(func() {
			name := fmt.Sprintf("use%d_%d", c.used, i)
			next := c.Data[(i+1)%len(c.Data)].Client()
			// No shard is of these weeks yet.
			line := fmt.Appendf(nil, "%s v=1 %d", name, time.Duration(c.used*len(c.Data)+i)*30*24*time.Hour)
			for _, step := range []struct {
				what string
				do   func() error
			}{
				{"a new database", func() error {
					_, err := n.Client().Query(ctx, "", "CREATE DATABASE "+name)
					return err
				}},
				{"a write into it through the next node", func() error { return next.Write(ctx, name, "all", line) }},
				{"a write into a new shard", func() error { return n.Client().Write(ctx, "db", "all", line) }},
				{"a query of it through the next node", func() error {
					rows, err := next.Query(ctx, "db", "SELECT v FROM "+name)
					if err == nil && len(rows) != 1 {
						return fmt.Errorf("%d points, want 1", len(rows))
					}
					return err
				}},
			} {
				began := time.Now()
				err := step.do()
				if took := time.Since(began); err != nil || took > limit {
					t.Errorf("%s at %s took %v, want %v at most: %v", step.what, n.Name, took, limit, err)
				}
			}
		})
	}
	wg.Wait()
}

// restart restarts data nodes, and fails when that takes longer than a minute.
func (c *metaCluster) restart(t *testing.T, nodes ...*process.Node) {
	t.Helper()
	began := time.Now()
	var wg sync.WaitGroup
	for _, n := range nodes {
		n.Signal(syscall.SIGTERM)
	}
	for _, n := range nodes {
		n.Reap()
		n.Start()
		wg.Go(n.AwaitUp)
	}
	wg.Wait()
	if took := time.Since(began); took > 2*soon {
		t.Errorf("a restart took %v, want %v at most", took, 2*soon)
	}
}

// TestMetaNodesHangAndLeave is of one cluster, from one story to the next.
func TestMetaNodesHangAndLeave(t *testing.T) {
	t.Parallel()
	c := newMetaCluster(t, process.Options{Meta: 3, Data: 3})
	tell(t, c, []story[*metaCluster]{
		{"a database is dropped at one node and made at the next", (*metaCluster).dropAndCreate},
		{"the leader hangs", (*metaCluster).hangLeader},
		{"the follower that is asked first hangs", (*metaCluster).hangFirst},
		{"the meta node that data nodes follow is removed", (*metaCluster).removeFollowed},
		{"the leader is removed", (*metaCluster).removeLeader},
	})
}

// story is a step of what happens to a cluster.
type story[C any] struct {
	name string
	run  func(C, *testing.T)
}

// tell runs stories, each on what those before it left, and logs how long each took.
func tell[C any](t *testing.T, c C, stories []story[C]) {
	t.Helper()
	for _, s := range stories {
		began := time.Now()
		if !t.Run(s.name, func(t *testing.T) { s.run(c, t) }) {
			return
		}
		t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), s.name)
	}
}

// dropAndCreate has nodes rely at once on what others confirmed, while four writers are busy.
func (c *metaCluster) dropAndCreate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer cancel()
	for w := range 4 {
		writers.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				week := -time.Duration(i/20*4+w+1) * 7 * 24 * time.Hour // of a new shard now and then
				line := fmt.Appendf(nil, "busy,w=%d v=1 %d", w, week+time.Duration(i))
				err := c.Data[w%len(c.Data)].Client().Write(ctx, "db", "quorum", line)
				if err != nil && ctx.Err() == nil {
					t.Errorf("a writer beside it: %v", err)
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	c.query(t, c.Data[0], "CREATE DATABASE again")
	for i := range 20 {
		here, next, last := c.Data[i%3], c.Data[(i+1)%3], c.Data[(i+2)%3]
		c.query(t, here, "DROP DATABASE again")
		point := fmt.Appendf(nil, "m v=%d %d", i, i)
		if err := next.Client().Write(t.Context(), "again", "one", point); err == nil ||
			!strings.Contains(err.Error(), "404") {
			t.Errorf("round %d: a write to a database that was dropped at another node: %v", i, err)
		}
		c.query(t, next, "CREATE DATABASE again WITH REPLICATION 3")
		if err := last.Client().Write(t.Context(), "again", "all", point); err != nil {
			t.Errorf("round %d: a write to a database that was made at another node: %v", i, err)
		}
		rows, err := here.Client().Query(t.Context(), "again", "SELECT v FROM m")
		if err != nil || len(rows) != 1 || fmt.Sprint(rows[0][1]) != fmt.Sprint(i) {
			t.Errorf("round %d: the database that was made again has %v, %v", i, rows, err)
		}
	}
}

// hangLeader stops the process of the leader, as a stalled disk does: its connections stay, and nothing answers.
func (c *metaCluster) hangLeader(t *testing.T) {
	leader := c.awaitLeader(t, c.Meta...)
	leader.Signal(syscall.SIGSTOP)
	c.use(t, election+soon)
	c.use(t, soon)
	leader.Signal(syscall.SIGCONT)
	c.use(t, soon) // it believes for a moment that it still leads
	c.Await("the old leader follows", func() bool {
		r, ok := raft(leader)
		return ok && r.State == "follower" && r.Leader != ""
	})
	if now := c.awaitLeader(t, c.Meta...); now == leader {
		t.Error("no other meta node leads")
	}
}

// hangFirst stops the process of the follower that data nodes ask first after a start.
func (c *metaCluster) hangFirst(t *testing.T) {
	first := c.Meta[0]
	c.letFollow(t, first)
	first.Signal(syscall.SIGSTOP)
	c.use(t, soon)
	c.restart(t, c.Data...)
	c.use(t, soon)
	first.Signal(syscall.SIGCONT)
	c.use(t, soon)
}

// letFollow has another meta node lead than the first one.
func (c *metaCluster) letFollow(t *testing.T, first *process.Node) {
	for c.awaitLeader(t, c.Meta...) == first { // another one was late on a busy machine, and lost its place
		first.Signal(syscall.SIGSTOP)
		c.awaitLeader(t, c.metaBut(first)...)
		first.Signal(syscall.SIGCONT)
		c.Await("the first meta node follows", func() bool {
			r, ok := raft(first)
			return ok && r.State == "follower" && r.Leader != ""
		})
	}
}

// removeFollowed removes a follower while it is alive and all data nodes follow it, which have just started.
func (c *metaCluster) removeFollowed(t *testing.T) {
	gone := c.Meta[0]
	c.letFollow(t, gone)
	leader := c.awaitLeader(t, c.metaBut(gone)...)
	c.restart(t, c.Data...)
	if _, err := c.CtlAt(leader, "remove-meta", gone.HTTP); err != nil {
		t.Fatal(err)
	}
	c.use(t, soon)
	c.restart(t, c.Data[1])
	c.use(t, soon)
	gone.Stop(syscall.SIGTERM)
	c.use(t, soon)
	gone.Start()
	c.Await("the removed node runs again", func() bool { _, ok := raft(gone); return ok })
	if _, err := c.CtlAt(leader, "add-meta", gone.HTTP); err != nil {
		t.Errorf("a meta node that was removed is added again: %v", err)
	}
	c.use(t, soon)
}

// removeLeader removes the leader while it is alive.
func (c *metaCluster) removeLeader(t *testing.T) {
	gone := c.awaitLeader(t, c.Meta...)
	if _, err := c.CtlAt(gone, "remove-meta", gone.HTTP); err != nil {
		t.Fatal(err)
	}
	c.use(t, soon)
	c.restart(t, c.Data[0])
	c.use(t, soon)
	gone.Stop(syscall.SIGTERM)
	c.restart(t, c.Data[2])
	c.use(t, soon)
}
