package deletes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// failingWrites fails to write again, and to deliver, while it is broken.
type failingWrites struct {
	Writes
	broken atomic.Bool
}

var errBroken = errors.New("broken")

func (f *failingWrites) WriteAgain(shard uint64, db, policy string, v order.Version, points []models.Point) error {
	if f.broken.Load() {
		return errBroken
	}
	return f.Writes.WriteAgain(shard, db, policy, v, points)
}

func (f *failingWrites) DeliverWrites(
	ctx context.Context, node uint64, entries []handoff.Entry,
	removed func(version uint64) (func(models.Point) bool, error),
) (int, error) {
	if f.broken.Load() {
		return 0, errBroken
	}
	return f.Writes.DeliverWrites(ctx, node, entries, removed)
}

// breakWrites makes writes after deletes fail, until repair.
func breakWrites(n *node) (repair func()) {
	f := &failingWrites{Writes: n.deletes.deps.Writes}
	f.broken.Store(true)
	n.deletes.deps.Writes = f
	return func() { f.broken.Store(false) }
}

// dropBetween writes a point, takes a version for DROP MEASUREMENT, and writes another point, which is newer. It
// announces the delete first unless it is late.
func dropBetween(t *testing.T, n *node, late bool) *rpc.Delete {
	t.Helper()
	write := func(lines string) {
		t.Helper()
		if err := n.WritePoints(db, policy, one, nil, mustPoints(t, lines)); err != nil {
			t.Fatal(err)
		}
	}
	drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d"}
	write("m v=1 1")
	if !late {
		n.announce(drop, announcer{at: time.Now()})
	}
	drop.Version = uint64(n.Order.Clock.Next())
	write("m v=2 2\nm v=3 3")
	return drop
}

// An only owner has the points that are newer than a delete, whatever fails after the delete ran on its store.
func TestNewerPointsOutliveADeleteThatFails(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"announced": false, "out of hinted handoff": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			w, hh := c.withHandoff(t, 30*time.Second)
			repair := breakWrites(w)
			if err := w.deletes.runDelete(dropBetween(t, w, late), late); !errors.Is(err, errBroken) {
				t.Fatalf("the delete has the error %v", err)
			}
			if got := values(t, c.stores[0], "m"); len(got) > 0 {
				t.Fatalf("the delete left %v", got)
			}
			if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=4 4")); err != nil {
				t.Errorf("a client cannot write while points wait: %v", err)
			}
			repair()
			await(t, "the newer points are delivered", func() bool { return !hh.Pending(1, shardID) })
			if got := values(t, c.stores[0], "m"); !slices.Equal(got, []float64{2, 3, 4}) {
				t.Errorf("the owner has %v, want what is newer than the delete", got)
			}
		})
	}
}

// A process that ends between running a delete and writing again what is newer loses nothing.
func TestNewerPointsOutliveACrash(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	var cfg handoff.Config
	w, hh := c.withQueues(t, 30*time.Second, func(cf *handoff.Config) { cfg = *cf })
	breakWrites(w)
	if err := w.deletes.runDelete(dropBetween(t, w, false), false); !errors.Is(err, errBroken) {
		t.Fatalf("the delete has the error %v", err)
	}
	if err := errors.Join(w.Close(), hh.Close()); err != nil {
		t.Fatal(err)
	}
	_, hh = c.openQueues(t, 5*time.Second, cfg)
	await(t, "the newer points are delivered", func() bool { return !hh.Pending(1, shardID) })
	if got := values(t, c.stores[0], "m"); !slices.Equal(got, []float64{2, 3}) {
		t.Errorf("the owner has %v, want what is newer than the delete", got)
	}
}

// What is written while a delete runs is in hinted handoff before its client has the answer, and stays there until the
// delete has run.
func TestWritesBesideADeleteAreKept(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w, hh := c.withHandoff(t, 30*time.Second)
	drop := dropBetween(t, w, false)
	newer := w.deletes.beginRewrite(drop)
	w.Add(drop)
	if err := newer.before(false); err != nil {
		t.Fatal(err)
	}
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=4 4")); err != nil {
		t.Fatal(err)
	}
	w.end(db, drop.Id) // its sender has given up waiting
	if err := execute(c.stores[0], drop, nothing); err != nil {
		t.Fatal(err)
	}
	hh.Back(1)
	if err := w.deletes.mayDeliver(1, shardID, drop.Version+1); !errors.Is(err, errDeleteRuns) {
		t.Errorf("hinted handoff may deliver while the delete runs: %v", err)
	}
	if got := values(t, c.stores[0], "m"); len(got) > 0 || !hh.Pending(1, shardID) {
		t.Errorf("the store has %v before the delete has ended", got)
	}
	newer.end() // as when nothing could be written again
	await(t, "the newer points are delivered", func() bool { return !hh.Pending(1, shardID) })
	if got := values(t, c.stores[0], "m"); !slices.Equal(got, []float64{2, 3, 4}) {
		t.Errorf("the owner has %v, want what is newer than the delete", got)
	}
}

// More newer points than fit into memory come out of hinted handoff, and the copy is not whole until then.
func TestManyNewerPointsAreWrittenAgain(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"announced": false, "out of hinted handoff": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			w, hh := c.withHandoff(t, 30*time.Second)
			w.removals.most = 3
			var missed atomic.Int64
			w.deletes.deps.Missed = func(node, shard uint64) {
				if node == 1 && shard == shardID {
					missed.Add(1)
				}
			}
			drop := dropBetween(t, w, late)
			for i := range 7 {
				if err := w.WritePoints(db, policy, one, nil, mustPoints(t, fmt.Sprintf("m v=%d %[1]d", i+4))); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.deletes.runDelete(drop, late); err != nil {
				t.Fatal(err)
			}
			if missed.Load() == 0 {
				t.Error("the copy counts as whole while points are in hinted handoff alone")
			}
			await(t, "the newer points are delivered", func() bool { return !hh.Pending(1, shardID) })
			if got, want := values(t, c.stores[0], "m"), []float64{2, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(got, want) {
				t.Errorf("the owner has %v, want %v", got, want)
			}
		})
	}
}

// Without hinted handoff, more newer points than fit into memory would be lost: such a delete does not run.
func TestDeleteThatWouldLoseNewerPointsIsRefused(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	w.removals.most = 1
	drop := dropBetween(t, w, true)
	if err := w.deletes.runDelete(drop, true); err == nil ||
		!strings.Contains(err.Error(), "more than 1 points are newer") {
		t.Errorf("the delete has the error %v", err)
	}
	newer := w.deletes.beginRewrite(drop)
	defer newer.end()
	var failed error
	for i := range 3 {
		lines := fmt.Sprintf("m v=9 %d", 9+i)
		failed = errors.Join(failed, w.WritePoints(db, policy, one, nil, mustPoints(t, lines)))
	}
	if failed == nil || !strings.Contains(failed.Error(), "too many points") {
		t.Errorf("writes beside the delete have the error %v", failed)
	}
	if n := count(t, c.stores[0], "m"); n < 3 {
		t.Errorf("%d points are left", n)
	}
}

// What is written is noted for a delete no longer than until it ran here, its sender was started anew, or it took too
// long.
func TestNotesForADeleteEnd(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	announced := func() int {
		of := w.removals.of(db)
		of.mu.Lock()
		defer of.mu.Unlock()
		return len(of.announced)
	}
	drop := dropBetween(t, w, true)
	if err := w.deletes.runDelete(drop, true); err != nil {
		t.Fatal(err)
	}
	if n := announced(); n != 0 {
		t.Errorf("notes are kept for %d deletes after one ran out of hinted handoff", n)
	}
	w.end(db, drop.Id)
	w.announce(drop, announcer{at: time.Now()})
	if n := announced(); n != 0 {
		t.Errorf("notes are kept for %d deletes whose announcement came after the end", n)
	}
	w.announce(&rpc.Delete{
		Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "crashed",
	}, announcer{at: time.Now(), node: 2, started: start{at: 1}})
	w.endBefore(2, start{at: 2})
	if n := announced(); n != 0 {
		t.Errorf("notes are kept for %d deletes of a node that was started anew", n)
	}
	long := time.Now().Add(-longestDelete - time.Minute)
	w.removals.announce(&rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "lost"}, long)
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=5 5")); err != nil {
		t.Fatal(err)
	}
	if n := announced(); n != 0 {
		t.Errorf("notes are kept for %d deletes that were given up", n)
	}
}

// Of what a late delete covers, newer points of all of its series and no others are found.
func TestNewerPointsAreFoundByTags(t *testing.T) {
	t.Parallel()
	for condition, want := range map[string][]string{
		"host = 'a'":                   {"cpu,host=a"},
		"host != 'a'":                  {"cpu", "cpu,host=b", "cpu,host=b,zone=x"},
		"host =~ /a|b/ AND zone = ''":  {"cpu,host=a", "cpu,host=b"},
		"host = ''":                    {"cpu"},
		"zone = 'x' OR host = 'a'":     {"cpu,host=a", "cpu,host=b,zone=x"},
		"nosuch = ''":                  {"cpu", "cpu,host=a", "cpu,host=b", "cpu,host=b,zone=x"},
		"nosuch = 'x'":                 nil,
		"host = 'a' AND time < 1000ns": nil,
	} {
		t.Run(condition, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			w := c.node(t)
			version := uint64(w.Order.Clock.Next())
			lines := "cpu,host=a v=1 1000\ncpu,host=b v=1 1000\ncpu v=1 1000\ncpu,host=b,zone=x v=1 1000\nmem,host=a v=1 1000"
			if err := w.WritePoints(db, policy, one, nil, mustPoints(t, lines)); err != nil {
				t.Fatal(err)
			}
			r := &rpc.Delete{
				Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: "d", Version: version,
				Statement: "DELETE FROM cpu WHERE " + condition,
			}
			var got []string
			err := w.deletes.eachNewer(r, func(writes []acceptedWrite) error {
				for _, a := range writes {
					for _, p := range a.points {
						got = append(got, string(p.Key()))
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

// The search for newer points ends with its context.
func TestSearchForNewerPointsEnds(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	drop := dropBetween(t, w, true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := eachPoint(ctx, c.stores[0].Shard(shardID), &removal{req: drop}, func(models.Point, string) error {
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
