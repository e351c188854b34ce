//go:build upgrade

package upgrade

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"concord/internal/entropy/api"
	"concord/test/process"
)

// beforeReleases is the previous version while there is no release yet.
const beforeReleases = "4f579ba"

var from = flag.String("from", "", "commit of the previous version; empty for the last release")

func TestMain(m *testing.M) {
	flag.Parse()
	process.Main(m)
}

var previous = sync.OnceValues(func() (process.Build, error) {
	return process.BuildCommit(cmp.Or(*from, process.Previous(beforeReleases)))
})

// cluster is one whose nodes are asked for all that was written and not deleted.
type cluster struct {
	*process.Cluster
	t    *testing.T
	old  process.Build
	new  process.Build
	want map[string]string // value by series and time
}

// start starts three data nodes of the previous version, each of which has all points.
func start(t *testing.T) *cluster {
	t.Parallel()
	old, err := previous()
	if errors.Is(err, process.ErrNoCommit) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, process.Options{Meta: 1, Data: 3, Build: &old})
	c := &cluster{Cluster: p, t: t, old: old, new: process.ThisBuild(t), want: make(map[string]string)}
	c.run(0, `CREATE DATABASE "db" WITH DURATION INF REPLICATION 3 SHARD DURATION 1d NAME "autogen"`)
	return c
}

func (c *cluster) run(node int, statement string) {
	c.t.Helper()
	if _, err := c.Data[node].Client().Query(c.t.Context(), "db", statement); err != nil {
		c.t.Fatalf("%s: %v", statement, err)
	}
}

const (
	days      = 3 // one shard each
	perDay    = 50
	allPoints = days * perDay
)

var first = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -days-1)

func at(i int) int64 {
	return first.AddDate(0, 0, i/perDay).Add(time.Duration(i%perDay) * time.Minute).UnixNano()
}

func key(series string, t any) string { return fmt.Sprint(series, " ", t) }

// write writes points [lo, hi) of a series through a node.
func (c *cluster) write(node int, level, series string, lo, hi, value int) {
	c.t.Helper()
	var lines []byte
	for i := lo; i < hi; i++ {
		lines = fmt.Appendf(lines, "m,s=%s v=%di %d\n", series, value, at(i))
		c.want[key(series, at(i))] = fmt.Sprint(value)
	}
	if err := c.Data[node].Client().Write(c.t.Context(), "db", level, lines); err != nil {
		c.t.Fatalf("write %s through %s: %v", series, c.Data[node].Name, err)
	}
}

// remove deletes points [lo, hi) of a series through a node.
func (c *cluster) remove(node int, series string, lo, hi int) {
	c.t.Helper()
	c.run(node, fmt.Sprintf(`DELETE FROM m WHERE s = '%s' AND time >= %d AND time < %d`, series, at(lo), at(hi)))
	for i := lo; i < hi; i++ {
		delete(c.want, key(series, at(i)))
	}
}

// drop deletes a series through a node.
func (c *cluster) drop(node int, series string) {
	c.t.Helper()
	c.run(node, fmt.Sprintf(`DROP SERIES FROM m WHERE s = '%s'`, series))
	for i := range allPoints {
		delete(c.want, key(series, at(i)))
	}
}

// right waits until nodes answer right and without a warning, for a minute at most.
func (c *cluster) right(when string, nodes ...int) {
	c.t.Helper()
	for _, i := range nodes {
		var wrong string
		ok := process.Poll(time.Minute, func() bool {
			ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
			defer cancel()
			rows, warnings, err := c.Data[i].Client().Ask(ctx, "db", "SELECT s, v FROM m")
			got := make(map[string]string)
			for _, r := range rows {
				got[key(r[1].(string), r[0])] = fmt.Sprint(r[2])
			}
			wrong = fmt.Sprint(err, warnings, gocmp.Diff(c.want, got))
			return err == nil && len(warnings) == 0 && gocmp.Equal(c.want, got)
		})
		if !ok {
			for id := range days {
				c.t.Log(c.TryCtl("entropy", "diff", fmt.Sprint(id+1)))
			}
			c.t.Fatalf("%s, %s does not answer right: %s", when, c.Data[i].Name, wrong)
		}
	}
}

// queued are the files of a name in the queues of hinted handoff on nodes.
func (c *cluster) queued(name string, on ...*process.Node) (all []string) {
	c.t.Helper()
	for _, n := range on {
		found, err := filepath.Glob(filepath.Join(n.Dir, "hh", "[0-9]*", "*", name))
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

const (
	segments = "*.hh"
	deletes  = "deletes" // there is one beside the segments that have deletes
)

// awaitHints waits until nothing waits on nodes.
func (c *cluster) awaitHints(on ...*process.Node) {
	c.t.Helper()
	c.Await("hints arrive", func() bool { return len(c.queued(segments, on...)) == 0 })
}

// awaitKept waits until what a write left for nodes that are away is in hinted handoff: a quorum is acknowledged
// before. Nothing tells when that is. So the queues have to stay as they are for a second.
func (c *cluster) awaitKept(on ...*process.Node) {
	c.t.Helper()
	last, same := int64(-1), 0
	c.Await("hints are kept", func() bool {
		var size int64
		for _, file := range c.queued(segments, on...) {
			if info, err := os.Stat(file); err == nil {
				size += info.Size()
			}
		}
		if same++; size != last {
			last, same = size, 0
		}
		return same == 20
	})
}

// same waits until all nodes answer right and have the same copies of all shards.
func (c *cluster) same(when string) {
	c.t.Helper()
	c.right(when, 0, 1, 2)
	c.awaitHints(c.Data...)
	rows, err := c.Data[0].Client().Query(c.t.Context(), "", "SHOW SHARDS")
	if err != nil || len(rows) != days {
		c.t.Fatalf("the shards are %v, %v", rows, err)
	}
	for _, r := range rows {
		var said string
		var d api.Diff
		ok := process.Poll(time.Minute, func() bool {
			out, err := c.TryCtl("entropy", "diff", fmt.Sprint(r[0]), "-json")
			said, d = fmt.Sprint(out, err), api.Diff{}
			return json.Unmarshal([]byte(out), &d) == nil && len(d.Owners) == 3 && d.Count == 0
		})
		if !ok {
			c.t.Fatalf("%s, the copies of shard %v differ: %s", when, r[0], said)
		}
	}
}

// kill ends nodes as a power failure would.
func kill(nodes ...*process.Node) {
	for _, n := range nodes {
		n.Stop(syscall.SIGKILL)
	}
}

// upgrade starts nodes, which are down, with this version.
func (c *cluster) upgrade(nodes ...*process.Node) {
	for _, n := range nodes {
		n.Use(c.new)
		n.Start()
	}
}

// A cluster of the previous version is killed while it keeps writes and deletes for a node that is away. This version
// reads the queues, and what the nodes remember of deletes.
func TestQueuesOfThePreviousVersionAreRead(t *testing.T) {
	c := start(t)
	for _, s := range []string{"base", "cut", "gone", "again", "late"} {
		c.write(0, "all", s, 0, allPoints, 1)
	}
	c.Ctl("entropy", "pause") // no repair may hide what hinted handoff lost
	away := c.Data[2]
	kill(away)
	c.write(0, "quorum", "base", 10, 70, 2)
	c.write(1, "quorum", "new", 0, allPoints, 3)
	c.write(1, "quorum", "cut", 60, 90, 4) // in the queue of another node than the delete
	c.remove(0, "cut", 20, 80)
	c.drop(0, "gone")
	c.remove(1, "again", 0, allPoints)
	c.write(1, "quorum", "again", 30, 60, 5)
	c.right("before the upgrade", 0, 1)
	c.awaitKept(c.Data[:2]...)
	for _, n := range c.Data[:2] {
		if len(c.queued(segments, n)) < days || len(c.queued(deletes, n)) == 0 {
			t.Fatalf("%s keeps too little to read: %v", n.Name, c.queued("*", n))
		}
	}
	kill(c.Data[0], c.Data[1], c.Meta[0])

	c.Use(c.new)
	c.upgrade(c.Meta[0])
	c.upgrade(c.Data...)
	for _, n := range c.Data {
		n.AwaitUp()
	}
	c.right("after the upgrade", 0, 1, 2)
	c.remove(2, "late", 0, 40)
	c.write(2, "all", "late", 30, 60, 6)
	c.same("after the upgrade")
}

// A delete that two nodes of the previous version keep for a third one runs there once, and this version remembers
// that: what was written after it stays when the second node brings it.
func TestDeletesThatRanAreRemembered(t *testing.T) {
	c := start(t)
	c.write(0, "all", "cut", 0, allPoints, 1)
	c.Ctl("entropy", "pause") // no repair may bring back what a delete took
	one, two, away := c.Data[0], c.Data[1], c.Data[2]
	kill(away)
	c.write(0, "quorum", "one", 0, allPoints, 1)
	c.write(1, "quorum", "two", 0, allPoints, 2)
	c.awaitKept(one, two)
	c.remove(0, "cut", 20, 120)
	if len(c.queued(deletes, two)) == 0 {
		t.Fatalf("%s keeps no delete: %v", two.Name, c.queued("*", two))
	}
	c.awaitKept(one, two)
	kill(two)
	away.Start()
	away.AwaitUp()
	c.awaitHints(one)
	c.write(0, "quorum", "cut", 40, 80, 3)
	c.awaitKept(one, away)
	kill(one, away, c.Meta[0])

	c.Use(c.new)
	c.upgrade(c.Meta[0])
	c.upgrade(c.Data...)
	for _, n := range c.Data {
		n.AwaitUp()
	}
	c.same("after the upgrade")
}

// One node runs the previous version beside new ones, and nodes go away and come back meanwhile. Repairs run: what a
// new node gets late from an old one is older there than all that has a version.
func TestNodesOfBothVersionsWorkTogether(t *testing.T) {
	c := start(t)
	for _, s := range []string{"base", "cut", "gone", "again", "mixed"} {
		c.write(0, "all", s, 0, allPoints, 1)
	}
	c.Use(c.new)
	for _, n := range []*process.Node{c.Meta[0], c.Data[0], c.Data[1]} {
		n.Stop(syscall.SIGTERM)
		c.upgrade(n)
	}
	for _, n := range c.Data[:2] {
		n.AwaitUp()
	}
	old := c.Data[2]
	c.right("one old node", 0, 1, 2)

	for i := range c.Data { // through each node, after each other
		c.write(i, "all", "base", 10+10*i, 60+10*i, 10+i)
		c.remove(i, "cut", 20*i, 20*i+10)
		c.write(i, "all", fmt.Sprint("by", i), 0, allPoints, 2)
		c.right("all up", 0, 1, 2)
	}
	c.drop(0, "gone")
	c.write(2, "all", "gone", 0, 30, 3)
	c.right("a series dropped and written again", 0, 1, 2)

	kill(c.Data[1]) // a new one
	c.write(0, "quorum", "mixed", 0, 40, 20)
	c.write(2, "quorum", "mixed", 80, 120, 21)
	c.remove(0, "again", 10, 30)
	c.remove(2, "by0", 0, 70)
	c.write(2, "quorum", "by0", 30, 60, 23) // in the queue of an old node, as its delete
	c.write(0, "quorum", "again", 20, 40, 22)
	c.right("a new node is away", 0, 2)
	c.Data[1].Start()
	c.Data[1].AwaitUp()
	c.right("a new node is back", 0, 1, 2)
	c.awaitHints(c.Data...)

	kill(old)
	c.write(0, "quorum", "mixed", 30, 90, 30)
	c.write(1, "quorum", "by1", 40, 80, 31)
	c.remove(0, "by2", 0, 100)
	c.remove(1, "again", 90, allPoints)
	c.write(1, "quorum", "again", 100, 120, 32)
	c.right("the old node is away", 0, 1)
	old.Start()
	old.AwaitUp()
	c.right("the old node is back", 0, 1, 2)
	c.awaitHints(c.Data...)

	old.Stop(syscall.SIGTERM)
	c.write(0, "quorum", "base", 0, 20, 40)
	c.remove(1, "mixed", 100, 130)
	c.upgrade(old)
	old.AwaitUp()
	c.right("all new", 0, 1, 2)
	c.write(2, "all", "mixed", 90, 110, 50)
	c.remove(2, "base", 30, 40)
	c.same("all new")
}
