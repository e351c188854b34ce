package deletes

import (
	"errors"
	"testing"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/enginetest"
	"concord/internal/rpc"
)

func engineOf(t *testing.T, s *tsdb.Store) *tsm1.Engine {
	t.Helper()
	return enginetest.Engine(t, s.Shard(shardID))
}

func storeWith(t *testing.T, points string) *tsdb.Store {
	t.Helper()
	s := mustStore(t)
	mustWrite(t, s, points)
	return s
}

// What is on its way from the cache into a file when a delete comes is deleted, too: now, in the file,
// and after a restart.
func TestDeleteWaitsForCacheSnapshot(t *testing.T) {
	t.Parallel()
	for name, req := range map[string]*rpc.Delete{
		"delete": {Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM cpu WHERE time >= 0"},
		"series": {Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM cpu"},
		"bounded": {Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM cpu",
			Bounds: &rpc.DeleteBounds{RetentionPolicy: policy, Start: 0, End: 1 << 60}},
		"measurement": {Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "cpu"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := storeWith(t, "cpu v=1 1000\ncpu v=2 2000\nmem v=1 1000")
			e := engineOf(t, s)
			if _, err := e.Cache.Snapshot(); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, s, "cpu v=3 2000")
			done := make(chan error, 1)
			go func() { done <- execute(s, req, nothing) }()
			select {
			case err := <-done:
				t.Errorf("the delete ran (%v) while a snapshot was being written", err)
			default:
			}
			e.Cache.ClearSnapshot(false) // it failed, and waits to be tried again
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			for _, when := range []string{"at once", "after another snapshot"} {
				if n, m := count(t, s, "cpu"), count(t, s, "mem"); n != 0 || m != 1 {
					t.Errorf("%s: %d deleted points are there, and %d of 1 others", when, n, m)
				}
				if err := e.WriteSnapshot(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A snapshot that begins while the delete runs makes it run again.
func TestDeleteRunsAgainAfterSnapshotBeganUnderIt(t *testing.T) {
	t.Parallel()
	s := storeWith(t, "cpu v=1 1000")
	e := engineOf(t, s)
	runs := 0
	err := betweenSnapshots(s, db, func(map[*tsdb.Shard]bool) error {
		if runs++; runs == 1 {
			return e.WriteSnapshot()
		}
		return nil
	})
	if err != nil || runs != 2 {
		t.Errorf("%d runs, %v", runs, err)
	}
	failed := errors.New("refused")
	if err := betweenSnapshots(s, db, func(map[*tsdb.Shard]bool) error { return failed }); err != failed {
		t.Errorf("got %v", err)
	}
	runs = 0
	err = betweenSnapshots(s, db, func(map[*tsdb.Shard]bool) error {
		runs++
		mustWrite(t, s, "cpu v=1 1000")
		return e.WriteSnapshot()
	})
	if err == nil || runs != maxReruns {
		t.Errorf("%d runs under endless snapshots, %v", runs, err)
	}
}
