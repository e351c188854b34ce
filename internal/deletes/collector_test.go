package deletes

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/order"
	"concord/internal/rpc"
)

// keptVersions are the points of a call of eachNewer by time: the first letter of the field s, and the version.
type keptVersions map[int64]struct {
	value   string
	version order.Version
}

func (k keptVersions) add(t *testing.T, writes []acceptedWrite) {
	t.Helper()
	for _, w := range writes {
		for _, p := range w.points {
			f, err := p.Fields()
			if err != nil {
				t.Fatal(err)
			}
			at := k[p.UnixNano()]
			if w.version < at.version {
				continue
			}
			at.value, at.version = f["s"].(string)[:1], w.version
			k[p.UnixNano()] = at
		}
	}
}

// A point that is overwritten while newer points are looked for has its own value with each version: a node with which
// it had the older value under the newer version would keep the older one.
func TestPointThatIsOverwrittenDuringTheSearchHasItsOwnValue(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	line := func(text string, at int) string {
		return fmt.Sprintf("m s=%q %d\n", text+strings.Repeat("-", collectedBytes/8), at)
	}
	drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d"}
	drop.Version = uint64(w.Order.Clock.Next())
	const last = 16
	for at := 1; at <= last; at++ {
		if err := w.WritePoints(db, policy, one, nil, mustPoints(t, line("old", at))); err != nil {
			t.Fatal(err)
		}
	}
	key := order.KeyOf(shardID, []byte("m"), "s", last)
	version := func() order.Version {
		t.Helper()
		v, err := w.Order.Journal.Version(key)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	kept, old := keptVersions{}, version()
	err := w.deletes.eachNewer(drop, func(writes []acceptedWrite) error {
		if kept.add(t, writes); len(kept) < last && version() == old { // the scan has begun, and goes on
			return w.WritePoints(db, policy, one, nil, mustPoints(t, line("new", last)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != last {
		t.Errorf("%d points are newer, want %d", len(kept), last)
	}
	if version() == old {
		t.Fatal("the point was not overwritten")
	}
	if got := kept[last]; got.version == version() && got.value != "n" {
		t.Errorf("the version of the newer value has %q", got.value)
	}
}

// slowWrites holds up writes to the store while it is shut.
type slowWrites struct {
	*tsdb.Store
	shut atomic.Bool
	open chan struct{}
}

func (s *slowWrites) WriteToShard(ctx tsdb.WriteContext, shard uint64, points []models.Point) error {
	if s.shut.Load() {
		<-s.open
	}
	return s.Store.WriteToShard(ctx, shard, points)
}

// A value is not kept with the version of a write that has not reached the store yet.
func TestPointThatIsBeingWrittenIsReadWhenItIsThere(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	deps := newDeps(t, c.meta, c.stores[0], c.pool, 1)
	slow := &slowWrites{Store: c.stores[0], open: make(chan struct{})}
	deps.Shards = slow
	w := mustOpen(t, newNode(deps, nil))
	drop := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d"}
	drop.Version = uint64(w.Order.Clock.Next())
	write := func(lines string) error { return w.WritePoints(db, policy, one, nil, mustPoints(t, lines)) }
	if err := write("m s=\"old\" 1\nm s=\"old\" 2"); err != nil {
		t.Fatal(err)
	}
	slow.shut.Store(true)
	wrote := make(chan error, 1)
	go func() { wrote <- write(`m s="new" 1`) }()
	key := order.KeyOf(shardID, []byte("m"), "s", 1)
	await(t, "the write is under way", func() bool {
		written, underWay, err := w.Order.Journal.Written(key)
		return err == nil && underWay > written
	})
	kept, done := keptVersions{}, make(chan error, 1)
	go func() {
		done <- w.deletes.eachNewer(drop, func(writes []acceptedWrite) error {
			kept.add(t, writes)
			return nil
		})
	}()
	ended := false
	await(t, "the search waits for the write, or has ended", func() bool {
		select {
		case err := <-done:
			ended = true
			done <- err
			return true
		default:
		}
		held := &w.removals.of(db).writing.held
		if held.TryRLock() {
			held.RUnlock()
			return false
		}
		return true
	})
	close(slow.open)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if ended || kept[1].value != "n" || kept[2].value != "o" || kept[1].version <= kept[2].version {
		t.Errorf("kept is %v, want the new value with its version", kept)
	}
}

// Newer points keep their values, of whatever type these are.
func TestNewerPointsOfAllTypesAreFound(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	w := c.node(t)
	drop := &rpc.Delete{
		Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "d", Version: uint64(w.Order.Clock.Next()),
	}
	lines := "m,host=a\\ b f=1.5,i=2i,s=\"x\",b=true 1\nm f=-3,i=4i,s=\"\",b=false 2"
	if err := w.WritePoints(db, policy, one, nil, mustPoints(t, lines)); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := w.deletes.eachNewer(drop, func(writes []acceptedWrite) error {
		for _, a := range writes {
			for _, p := range a.points {
				got = append(got, p.String())
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []string{
		"m b=false 2", "m f=-3 2", "m i=4i 2", "m s=\"\" 2",
		"m,host=a\\ b b=true 1", "m,host=a\\ b f=1.5 1", "m,host=a\\ b i=2i 1", "m,host=a\\ b s=\"x\" 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
