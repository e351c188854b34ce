package deletes

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// fullDisk is a node on whose store deletes fail while its disk is full.
type fullDisk struct {
	server
	full atomic.Bool
	runs func() // before the first one fails
}

func (f *fullDisk) RunDelete(ctx context.Context, r *rpc.RunDeleteRequest) (*rpc.RunDeleteResponse, error) {
	if !f.full.Load() {
		return f.server.RunDelete(ctx, r)
	}
	if !r.Hinted {
		f.runs()
	}
	return &rpc.RunDeleteResponse{Error: "no space left on device"}, nil
}

// smallJournal is a journal that forgets each write by itself.
func smallJournal(t *testing.T) *order.Journal {
	t.Helper()
	j, err := order.OpenJournal(order.JournalConfig{Dir: t.TempDir(), MaxKeys: 1, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// A delete that fails on a node runs there later. The node has not forgotten by then which of its points are newer.
func TestDeleteThatFailedTakesNoNewerPointsLater(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	c.stores[1] = mustStore(t)
	deps := newDeps(t, c.meta, c.stores[1], c.pool, 2)
	deps.Order.Journal = smallJournal(t)
	other := mustOpen(t, newNode(deps, nil))
	disk := &fullDisk{server: other.server()}
	c.meta.SetAddr(1, mustServe(t, disk))
	w, hh := c.withHandoff(t, 30*time.Second)
	write := func(lines string) {
		t.Helper()
		if err := w.WritePoints(db, policy, all, nil, mustPoints(t, lines)); err != nil {
			t.Error(err)
		}
	}
	told := func() order.Version { // as once a second
		_, floor, _ := w.Says(2)
		return order.Version(floor)
	}
	write("m v=1 1")
	disk.full.Store(true)
	disk.runs = func() {
		write("m v=2 2")
		write("other v=1 1")
		write("other v=1 2")
		told()
	}
	if err := w.deletes.DeleteMeasurement(db, "m"); err == nil {
		t.Fatal("the delete ran on a full disk")
	}
	if !hh.Pending(2, handoff.WholeDatabase) {
		t.Fatal("the delete is not kept")
	}
	if err := other.Order.Journal.SetFloor(told()); err != nil {
		t.Fatal(err)
	}
	disk.full.Store(false)
	await(t, "the delete has run", func() bool { return !hh.Pending(2, handoff.WholeDatabase) })
	for i, s := range c.stores {
		if got := values(t, s, "m"); !slices.Equal(got, []float64{2}) {
			t.Errorf("node %d has %v, want the point that is newer than the delete", i+1, got)
		}
	}
	before := told()
	await(t, "the floor follows again", func() bool { return told() > before })
}

// A late delete from before what the journal knows may take newer points. The copies that it is about count as not
// whole before it runs, and are compared after it. No other delete makes them so.
func TestLateDeleteFromBeforeWhatIsKnownLeavesCopiesNotWhole(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		statement         string // DROP MEASUREMENT when it is empty
		hinted, forgotten bool
		want              []int // points that the copy had when it was noted
	}{
		"late and forgotten": {hinted: true, forgotten: true, want: []int{1, 0}},
		"late":               {hinted: true},
		"not late":           {forgotten: true},
		"of other times":     {statement: "DELETE FROM m WHERE time > '2100-01-01'", hinted: true, forgotten: true},
		"of another policy":  {statement: "DELETE FROM other.m", hinted: true, forgotten: true},
		"of the policy": {
			statement: "DELETE FROM rp0.m WHERE time < 10", hinted: true, forgotten: true, want: []int{1, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			w := c.node(t)
			var noted []int
			w.deletes.deps.Lacks = func(shard uint64, _ string) {
				if shard == shardID {
					noted = append(noted, count(t, c.stores[0], "m"))
				}
			}
			if err := w.WritePoints(db, policy, one, nil, mustPoints(t, "m v=1 1")); err != nil {
				t.Fatal(err)
			}
			r := dropOf(w, "m", "d", 1)
			if tt.statement != "" {
				r.Kind, r.Name, r.Statement = rpc.Delete_DELETE_SERIES, "", tt.statement
			}
			if tt.forgotten {
				if err := w.Order.Journal.Lost(order.Version(r.Version)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.deletes.runOnce(r, tt.hinted); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, noted); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A delete does not run while the store is not what is on disk. It runs again later.
func TestDeleteWaitsUntilTheStoreIsReady(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	n := c.node(t)
	mustWrite(t, c.stores[0], "m v=1 1")
	full := errors.New("a shard waits to be opened anew")
	n.deletes.deps.Ready = func(string) error { return full }
	r := &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m", Id: "x", Version: 7}
	if err := n.deletes.runDelete(r, true); !errors.Is(err, full) || count(t, c.stores[0], "m") != 1 {
		t.Errorf("%d points are left: %v", count(t, c.stores[0], "m"), err)
	}
	n.deletes.deps.Ready = func(string) error { return nil }
	if err := n.deletes.runDelete(r, true); err != nil || count(t, c.stores[0], "m") != 0 {
		t.Errorf("%d points are left: %v", count(t, c.stores[0], "m"), err)
	}
}
