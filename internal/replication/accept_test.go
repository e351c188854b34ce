package replication

import (
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"pgregory.net/rapid"

	"concord/internal/order"
	"concord/internal/rpc"
)

// Whatever the order in which writes and deletes arrive at an owner, it ends with what the versions say.
func TestVersionsDecideWhateverTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.writer(t)
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
		base := w.Order.Clock.Next()
		version := rapid.Custom(func(t *rapid.T) order.Version {
			return base + order.Version(rapid.IntRange(1, 1<<20).Draw(t, "version"))<<8
		})
		write := func(rt *rapid.T) {
			v, at, to := version.Draw(rt, "v"), rapid.IntRange(1, 4).Draw(rt, "time"), rapid.IntRange(1, 1000).Draw(rt, "value")
			if v == want[at].version {
				return // each version is one write
			}
			heard = max(heard, v)
			late := mustPoints(t, fmt.Sprintf("%s v=%d %d", name, at*10_000+to, at))
			err := w.accept(tsdb.WriteContext{}, shardID, db, policy, v, true, late)
			if err != nil {
				rt.Fatal(err)
			}
			if v > want[at].version {
				want[at] = value{v, to}
			}
		}
		deletion := func(t *rapid.T) {
			from := rapid.IntRange(1, 4).Draw(t, "from")
			to := rapid.IntRange(from, 4).Draw(t, "to")
			req := &rpc.ExecuteRequest{
				Kind: rpc.ExecuteRequest_DELETE_SERIES, Database: db, Id: fmt.Sprintf("%s-%d", name, w.deleteIDs.Add(1)),
				Statement: fmt.Sprintf("DELETE FROM %s WHERE time >= %d AND time <= %d", name, from, to),
			}
			w.removals.announce(req, time.Now())
			req.Version = uint64(max(heard, base) + order.Version(rapid.IntRange(1, 1<<18).Draw(t, "above"))<<8)
			for range rapid.IntRange(0, 3).Draw(t, "writes meanwhile") {
				write(t)
			}
			if err := w.runDelete(c.stores[0], req); err != nil {
				rt.Fatal(err)
			}
			w.removals.ended(db, req.Id)
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

// A write that has a smaller version than what the owner has is not written, unless it is late or yields.
func TestWriteBehindTheOwnerIsNotWritten(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.newWriter(t, 1)
	accept := func(v order.Version, late bool, lines string) error {
		return w.accept(tsdb.WriteContext{}, shardID, db, policy, v, late, mustPoints(t, lines))
	}
	if err := accept(1000, false, "m v=1 1"); err != nil {
		t.Fatal(err)
	}
	if err := accept(900, false, "m v=2 1\nm v=2 2"); !errors.Is(err, errBehind) {
		t.Errorf("error is %v, want %v", err, errBehind)
	}
	if n := count(t, c.stores[0], "m"); n != 1 {
		t.Errorf("%d points, want 1", n)
	}
	if err := accept(900, true, "m v=2 1\nm v=2 2"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(values(t, c.stores[0], "m")); got != "[1 2]" {
		t.Errorf("the owner has %v, want the newer value and the point that it lacked", got)
	}
	// What waited since before writes had versions is older than all.
	if err := accept(0, true, "m v=9 1\nm v=9 2"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(values(t, c.stores[0], "m")); got != "[1 2]" {
		t.Errorf("the owner has %v after a hint without a version, want [1 2]", got)
	}
	w.removals.add(&rpc.ExecuteRequest{
		Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d", Version: 2000,
	})
	if err := accept(1500, false, "m v=3 3"); !errors.Is(err, errBehind) {
		t.Errorf("error is %v, want %v", err, errBehind)
	}
	if err := accept(1500, true, "m v=3 3"); err != nil || count(t, c.stores[0], "m") != 2 {
		t.Errorf("%d points, %v: want 2", count(t, c.stores[0], "m"), err)
	}
}

// A delete that waits behind a write, in a queue from before writes had versions, takes nothing out of a newer one.
func TestDeleteTakesNothingOutOfANewerHint(t *testing.T) {
	t.Parallel()
	var encoded [][]byte
	for _, p := range mustPoints(t, "cpu v=1 1\nmem v=1 1") {
		b, err := p.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		encoded = append(encoded, b)
	}
	for _, tt := range []struct{ write, delete, left uint64 }{{5, 6, 1}, {7, 6, 2}, {0, 6, 1}, {5, 0, 1}, {0, 0, 1}} {
		drop := &rpc.ExecuteRequest{Kind: rpc.ExecuteRequest_DROP_MEASUREMENT, Name: "cpu", Version: tt.delete}
		c, err := newCovering(drop, policy)
		if err != nil {
			t.Fatal(err)
		}
		left, err := withoutDeleted(encoded, tt.write, []*covering{c})
		if err != nil || len(left) != int(tt.left) {
			t.Errorf("a write of version %d, a delete of version %d: %d points are left, %v, want %d",
				tt.write, tt.delete, len(left), err, tt.left)
		}
	}
}
