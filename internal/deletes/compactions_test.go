package deletes

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/enginetest"
	"concord/internal/rpc"
)

// onDiskStore opens a store with the index on disk, whose log files are compacted whenever they have an entry. The
// caller closes it: a store with a delete that hangs cannot be closed.
func onDiskStore(t *testing.T) *tsdb.Store {
	t.Helper()
	s := enginetest.New(t.TempDir(), tsdb.TSI1IndexName)
	s.EngineOptions.Config.MaxIndexLogFileSize = 1
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	return s
}

// A delete ends although the index is compacted meanwhile: because of the series that it drops itself, when it is one
// from several measurements, or because of new ones.
func TestDeleteEndsBesideIndexCompactions(t *testing.T) {
	t.Parallel()
	const measurements, endsWithin = 15, time.Minute
	var drops []*rpc.Delete
	for m := range measurements {
		drops = append(drops, &rpc.Delete{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: fmt.Sprint("m", m)})
	}
	for _, tt := range []struct {
		name    string
		deletes []*rpc.Delete
		writes  bool
	}{
		{name: "several measurements", deletes: []*rpc.Delete{{Database: db, Statement: "DELETE WHERE time >= 0"}}},
		{name: "new series", deletes: drops, writes: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := onDiskStore(t)
			for m := range measurements {
				mustWrite(t, s, fmt.Sprintf("m%d v=1 1000", m))
			}
			stop, written := make(chan struct{}), make(chan error, 1)
			go func() { written <- writeNewSeries(s, tt.writes, stop) }()
			deleted := make(chan error, 1)
			go func() {
				var err error
				for _, r := range tt.deletes {
					err = errors.Join(err, execute(s, r, nothing))
				}
				deleted <- err
			}()
			var err error
			select {
			case err = <-deleted:
			case <-time.After(endsWithin):
				t.Fatalf("the deletes did not end in %s", endsWithin)
			}
			close(stop)
			if err := errors.Join(err, <-written, s.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// writeNewSeries writes new series until stop, or does nothing.
func writeNewSeries(s *tsdb.Store, writes bool, stop <-chan struct{}) error {
	for i := 0; writes; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		points, err := models.ParsePointsString(fmt.Sprintf("new,host=%d v=1 1000", i))
		if err != nil {
			return err
		}
		if err := s.WriteToShard(tsdb.WriteContext{}, shardID, points); err != nil {
			return err
		}
	}
	return nil
}

// No index is compacted while the engine deletes. It is afterwards, also when the delete fails, and once deletes that
// run at the same time have all ended.
func TestIndexIsNotCompactedWhileDeleteRuns(t *testing.T) {
	t.Parallel()
	s := onDiskStore(t)
	t.Cleanup(func() { s.Close() })
	if err := s.CreateShard(db, policy, shardID, true); err != nil {
		t.Fatal(err)
	}
	indexes := onDisk(s, db)
	if len(indexes) != 1 || len(onDisk(s, "other")) != 0 {
		t.Fatalf("%d indexes", len(indexes))
	}
	series := 0
	compacts := func() bool {
		mustWrite(t, s, fmt.Sprintf("m,host=%d v=1 1000", series))
		series++
		indexes[0].Compact()
		for p := range int(indexes[0].PartitionN) {
			if indexes[0].PartitionAt(p).CurrentCompactionN() > 0 {
				return true
			}
		}
		return false
	}
	failed := errors.New("disk full")
	check := func() error {
		for range 50 {
			if compacts() {
				t.Error("the index is compacted while a delete runs")
				break
			}
		}
		return failed
	}
	err := betweenIndexCompactions(s, db, func() error {
		if err := betweenIndexCompactions(s, db, check); err != failed {
			t.Errorf("the second delete returned %v", err)
		}
		return check()
	})
	if err != failed {
		t.Errorf("the first delete returned %v", err)
	}
	await(t, "the index is compacted after the deletes", compacts)
}
