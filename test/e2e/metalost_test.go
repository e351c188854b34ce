//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/test/process"
)

// TestNodesAreLost is of one cluster, from one story to the next.
func TestNodesAreLost(t *testing.T) {
	t.Parallel()
	c := newMetaCluster(t, process.Options{Meta: 3, Data: 3})
	tell(t, c, []story[*metaCluster]{
		{"the node that runs continuous queries is killed", (*metaCluster).killRunner},
		{"a meta node loses its log while another one is away", (*metaCluster).loseLog},
		{"the log of a meta node is damaged", (*metaCluster).damageLog},
	})
}

// killRunner kills the data node that runs a continuous query with windows of a second. Another one goes on from where
// it was.
func (c *metaCluster) killRunner(t *testing.T) {
	begin := time.Now().Truncate(time.Second)
	var points []byte
	for i := range 1200 { // four for each second of the story
		points = fmt.Appendf(points, "m v=1 %d\n", begin.Add(time.Duration(i)*time.Second/4).UnixNano())
	}
	if err := c.Data[0].Client().Write(t.Context(), "db", "all", points); err != nil {
		t.Fatal(err)
	}
	c.query(t, c.Data[0],
		`CREATE CONTINUOUS QUERY cq ON db BEGIN SELECT sum(v) INTO sums FROM m GROUP BY time(1s) END`)
	var runners []*process.Node
	c.Await("the continuous query runs", func() bool {
		runners = slices.DeleteFunc(slices.Clone(c.Data), func(n *process.Node) bool {
			return continuousRuns(t, n) == 0
		})
		return len(runners) > 0
	})
	runner := runners[0]
	left := c.Data[(slices.Index(c.Data, runner)+1)%len(c.Data)]
	sums := func() (rows [][]any, until time.Time) {
		rows, err := left.Client().Query(t.Context(), "db", "SELECT sum FROM sums")
		if err == nil && len(rows) > 0 {
			until = timeOf(t, rows[len(rows)-1])
		}
		return rows, until
	}
	c.Await("windows are computed", func() bool {
		rows, _ := sums()
		return len(rows) >= 3
	})
	runner.Stop(syscall.SIGKILL)
	killed := time.Now()
	var rows [][]any
	c.Await("another node computes later windows", func() bool {
		var until time.Time
		rows, until = sums()
		return len(rows) >= 10 && until.After(killed)
	})
	for i, row := range rows {
		if i > 0 && timeOf(t, row).Sub(timeOf(t, rows[i-1])) != time.Second {
			t.Errorf("no window between %s and %s: the node was killed at %s",
				timeOf(t, rows[i-1]), timeOf(t, row), killed)
		}
		// Windows are computed when they have ended.
		if fmt.Sprint(row[1]) != "4" {
			t.Errorf("the window of %s is %v, want 4", timeOf(t, row), row[1])
		}
	}
	c.query(t, left, `DROP CONTINUOUS QUERY cq ON db`)
	runner.Start()
	runner.AwaitUp()
}

// timeOf is the time of a row.
func timeOf(t *testing.T, row []any) time.Time {
	t.Helper()
	ns, err := row[0].(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, ns)
}

// continuousRuns is how many continuous queries a node has run since it started.
func continuousRuns(t *testing.T, n *process.Node) int {
	t.Helper()
	rows, err := n.Client().Query(t.Context(), "", "SHOW STATS FOR 'cq'")
	if err != nil || len(rows) != 1 {
		return 0
	}
	ran := 0
	for _, v := range rows[0] { // failed ones, too
		if n, ok := v.(json.Number); ok {
			i, _ := n.Int64()
			ran += int(i)
		}
	}
	return ran
}

// loseLog removes raft.db of a meta node. Of the other two, one was away while changes were acknowledged, and the one
// that has them goes down: nobody may lead until it is back.
func (c *metaCluster) loseLog(t *testing.T) {
	leader := c.awaitLeader(t, c.Meta...)
	rest := c.metaBut(leader)
	lost, away := rest[0], rest[1]
	away.Stop(syscall.SIGKILL)
	var acknowledged []string
	for i := range 20 {
		name := fmt.Sprintf("acknowledged%02d", i)
		c.query(t, c.Data[i%len(c.Data)], "CREATE DATABASE "+name)
		acknowledged = append(acknowledged, name)
	}
	check := func(when string) {
		t.Helper()
		for _, n := range c.Data {
			shown := fmt.Sprint(c.query(t, n, "SHOW DATABASES"))
			for _, name := range acknowledged {
				if !strings.Contains(shown, name) {
					t.Errorf("%s: %s has no database %s, which was acknowledged", when, n.Name, name)
				}
			}
		}
	}
	lost.Stop(syscall.SIGTERM)
	leader.Stop(syscall.SIGKILL)
	if err := os.Remove(filepath.Join(lost.Dir, "meta", "raft.db")); err != nil {
		t.Fatal(err)
	}
	said := refusal(t, lost)
	if !strings.Contains(said, "raft.db is missing or empty, and this meta node was in a cluster") ||
		!strings.Contains(said, "add this node again") {
		t.Errorf("without raft.db it says %q", said)
	}
	// What that line says: start with an empty folder. It then is in no cluster, and has no vote.
	lost.Wipe("meta")
	lost.Start()
	away.Start()
	c.Await("the meta nodes run", func() bool {
		_, one := raft(lost)
		_, two := raft(away)
		return one && two
	})
	asked := 0
	c.Await("the node that was away asks for votes", func() bool {
		for _, n := range []*process.Node{lost, away} {
			if r, ok := raft(n); ok && r.State == "leader" {
				t.Fatalf("%s leads without the changes that were acknowledged", n.Name)
			}
		}
		if r, ok := raft(away); ok && r.State == "candidate" {
			asked++
		}
		return asked > 30
	})
	check("without a leader")

	leader.Start()
	c.awaitLeader(t, leader, away)
	check("with the old leader")
	c.restart(t, c.Data[0]) // it takes all of the metadata
	check("after a restart")
	now := c.awaitLeader(t, leader, away)
	if _, err := c.CtlAt(now, "add-meta", lost.HTTP); err != nil {
		t.Fatal(err)
	}
	// With a full copy it counts, and it has all that was acknowledged.
	leader.Stop(syscall.SIGKILL)
	c.use(t, election+soon)
	away.Stop(syscall.SIGKILL)
	leader.Start()
	c.use(t, election+2*soon)
	check("without the node that was away")
	away.Start()
	c.Await("all meta nodes agree", func() bool {
		now = c.awaitLeader(t, c.Meta...)
		return !slices.ContainsFunc(c.Meta, func(n *process.Node) bool {
			r, ok := raft(n)
			return !ok || r.Leader != now.TCP
		})
	})
}

// refusal starts a node that must not run, and returns what it says: one line, and an exit code that is not 0.
func refusal(t *testing.T, n *process.Node) string {
	t.Helper()
	before := len(n.Log())
	n.Start()
	if !process.Poll(30*time.Second, func() bool { return !n.Running() }) {
		t.Fatalf("%s runs", n.Name)
	}
	return endedWith(t, n, before)
}

// endedWith is the line with which a process ended, of the log from an offset on.
func endedWith(t *testing.T, n *process.Node, offset int) string {
	t.Helper()
	log := n.Log()[offset:]
	var exit *exec.ExitError
	if err := n.End(); !errors.As(err, &exit) || exit.ExitCode() < 1 {
		t.Errorf("%s ended with %v, want an exit code", n.Name, err)
	}
	if strings.Contains(log, "goroutine ") || strings.Contains(log, "panic") {
		t.Errorf("%s ended with a trace of Go:\n%s", n.Name, log)
	}
	lines := slices.DeleteFunc(strings.Split(log, "\n"), func(l string) bool {
		return !strings.HasPrefix(l, "influxd-meta: ")
	})
	if len(lines) != 1 {
		t.Errorf("%s says %d lines of why it ended:\n%s", n.Name, len(lines), log)
	}
	return strings.Join(lines, "\n")
}

// damageLog overwrites 60 bytes of raft.db. The node says so, or nothing that it needs was there.
func (c *metaCluster) damageLog(t *testing.T) {
	n := c.metaBut(c.awaitLeader(t, c.Meta...))[0]
	n.Stop(syscall.SIGTERM)
	path := filepath.Join(n.Dir, "meta", "raft.db")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 16))
		damaged := slices.Clone(whole)
		at := r.IntN(len(damaged) - 60)
		for i := range 60 {
			damaged[at+i] = byte(r.Uint32())
		}
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(n.Log())
		n.Start()
		c.Await("the node follows or ends", func() bool {
			r, ok := raft(n)
			return !n.Running() || ok && r.Leader != "" // the others may have elected another one meanwhile
		})
		if n.Running() {
			n.Stop(syscall.SIGKILL)
			continue
		}
		refused++
		said := endedWith(t, n, before)
		if !strings.Contains(said, "damaged") || !strings.Contains(said, "add this node again") {
			t.Errorf("seed %d, offset %d of %d: it says %q", seed, at, len(whole), said)
		}
	}
	if refused == 0 {
		t.Error("no damage was found")
	}
	t.Logf("%d of 12 were refused", refused)
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	c.use(t, soon)
}
