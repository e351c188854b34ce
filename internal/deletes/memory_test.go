package deletes

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"concord/internal/batch"
	"concord/internal/order"
	"concord/internal/rpc"
)

// What is older than a delete is left out, however the delete names its measurements.
func TestOlderPointsOfADeleteAreLeftOut(t *testing.T) {
	t.Parallel()
	for statement, want := range map[string]int{
		"DELETE FROM cpu": 0, "DELETE FROM mem, cpu": 0, "DELETE FROM mem": 1, "DELETE WHERE time < 100": 0,
		"DELETE FROM /^c/": 0, "DELETE FROM mem, /^c/": 0, "DELETE FROM /^d/": 1,
		"DELETE FROM " + policy + "./^c/": 0, "DELETE FROM " + policy + "./^d/": 1, "DELETE FROM other./^c/": 1,
		"DELETE FROM " + policy + ".cpu": 0, "DELETE FROM other.cpu": 1,
	} {
		n := newTestCluster(t, "ok").node(t)
		n.Add(&rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: "1", Version: 20 << 8, Statement: statement})
		left, ended := n.BeginWrite(shardID, db, policy, 10<<8, mustPoints(t, "cpu v=1 1"))
		if err := ended(nil); err != nil || len(left) != want {
			t.Errorf("%s: %d points are left, want %d: %v", statement, len(left), want, err)
		}
	}
}

// Whatever the order in which writes and deletes arrive at an owner, it ends with what the versions say.
func TestVersionsDecideWhateverTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		name := fmt.Sprintf("m%d", run)
		type value struct {
			version order.Version
			v       int // 0 is deleted
		}
		want := make(map[int]value) // by time
		var heard order.Version     // the greatest version that came here
		var deleting order.Version  // of the delete that is about to run
		base := w.Order.Clock.Next()
		version := rapid.Custom(func(t *rapid.T) order.Version {
			return base + order.Version(rapid.IntRange(1, 1<<20).Draw(t, "version"))<<8
		})
		write := func(rt *rapid.T) {
			v, at, to := version.Draw(rt, "v"), rapid.IntRange(1, 4).Draw(rt, "time"), rapid.IntRange(1, 1000).Draw(rt, "value")
			if v == want[at].version || v == deleting {
				return // each version is one write or delete
			}
			heard = max(heard, v)
			// As of another node: the memory of the points is that of other ones when the write has ended.
			late := batch.Of(mustPoints(t, fmt.Sprintf("%s v=%d %d", name, at*10_000+to, at)))
			err := w.WriteAgain(shardID, db, policy, v, late.Points())
			if late.Release(); err != nil {
				rt.Fatal(err)
			}
			if v > want[at].version {
				want[at] = value{v, to}
			}
		}
		deletion := func(t *rapid.T) {
			from := rapid.IntRange(1, 4).Draw(t, "from")
			to := rapid.IntRange(from, 4).Draw(t, "to")
			req := &rpc.Delete{
				Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: fmt.Sprintf("%s-%d", name, w.deletes.numbers.Add(1)),
				Statement: fmt.Sprintf("DELETE FROM %s WHERE time >= %d AND time <= %d", name, from, to),
			}
			w.removals.announce(req, time.Now())
			req.Version = uint64(max(heard, base) + order.Version(rapid.IntRange(1, 1<<18).Draw(t, "above"))<<8)
			deleting = order.Version(req.Version)
			for range rapid.IntRange(0, 3).Draw(t, "writes meanwhile") {
				write(t)
			}
			if err := w.deletes.runDelete(req, false); err != nil {
				rt.Fatal(err)
			}
			w.removals.end(db, req.Id)
			heard = max(heard, order.Version(req.Version))
			for at := from; at <= to; at++ {
				if want[at].version < order.Version(req.Version) {
					want[at] = value{order.Version(req.Version), 0}
				}
			}
		}
		rt.Repeat(map[string]func(*rapid.T){"write": write, "again": write, "delete": deletion})
		got := make(map[int]int)
		for _, v := range values(t, c.stores[0], name) {
			got[int(v)/10_000] = int(v) % 10_000
		}
		left := make(map[int]int)
		for at, v := range want {
			if v.v != 0 {
				left[at] = v.v
			}
		}
		if !maps.Equal(got, left) {
			rt.Fatalf("the owner has %v, want %v", got, left)
		}
	})
}
