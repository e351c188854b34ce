package deletes

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/inmem"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
	"go.uber.org/zap"

	"concord/internal/enginetest"
	"concord/internal/entropy/fieldindex"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// A delete of some times removes the series that have no other points in a shard, and from the file of series when no
// other shard has them. What is written meanwhile is of other times, and is found.
func TestSeriesThatAreWrittenBesideADeleteStay(t *testing.T) {
	t.Parallel()
	const batch = 100 // points of a write
	// No key is the beginning of another one: the engine keeps such series without points.
	const ofTimes = `DELETE FROM cpu WHERE time < 100`
	oneMeasurement := func(i int) (name, line string) { return "cpu", fmt.Sprintf("cpu,host=%da", i) }
	manyMeasurements := func(i int) (name, line string) { return fmt.Sprint("cpu", i), fmt.Sprint("cpu", i) }
	for _, tt := range []struct {
		name, index, text string
		shard             uint64 // that is written to meanwhile
		series            int
		of                func(i int) (name, line string)
		newer             int  // that is added to i for what is written meanwhile
		both              bool // the other shard has the series, too
	}{
		{"same shard", tsdb.TSI1IndexName, ofTimes, shardID, 5_000, oneMeasurement, 0, false},
		{"same shard", tsdb.InmemIndexName, ofTimes, shardID, 5_000, oneMeasurement, 0, false},
		{"other shard", tsdb.TSI1IndexName, ofTimes, shardID + 1, 5_000, oneMeasurement, 0, false},
		{"other shard", tsdb.InmemIndexName, ofTimes, shardID + 1, 5_000, oneMeasurement, 0, false},
		{"both shards", tsdb.TSI1IndexName, ofTimes, shardID, 5_000, oneMeasurement, 0, true},
		{"both shards", tsdb.InmemIndexName, ofTimes, shardID, 5_000, oneMeasurement, 0, true},
		{"new series", tsdb.TSI1IndexName, ofTimes, shardID, 5_000, oneMeasurement, 1e6, false},
		{"new series", tsdb.InmemIndexName, ofTimes, shardID, 5_000, oneMeasurement, 1e6, false},
		{"measurements", tsdb.TSI1IndexName, `DELETE WHERE time < 100`, shardID, 500, manyMeasurements, 0, false},
		{"measurements", tsdb.InmemIndexName, `DELETE WHERE time < 100`, shardID, 500, manyMeasurements, 0, false},
	} {
		if testing.Short() {
			tt.series = max(tt.series/5, batch) // the race detector sees as much in fewer
		}
		t.Run(tt.name+" "+tt.index, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			c.stores[0] = enginetest.Store(t, tt.index)
			n := c.node(t)
			if err := c.stores[0].CreateShard(db, policy, shardID+1, true); err != nil {
				t.Fatal(err)
			}
			srv := n.server()
			write := func(shard uint64, first, at int) error {
				for i := 0; i < tt.series; i += batch {
					var lines strings.Builder
					for j := range batch {
						_, line := tt.of(first + i + j)
						fmt.Fprintf(&lines, "%s v=1 %d\n", line, at)
					}
					r := writeRequest(t, lines.String())
					r.ShardId, r.Version = shard, uint64(n.deletes.deps.Clock.Next())
					resp, err := srv.WriteShard(t.Context(), r)
					if err != nil {
						return err
					}
					if resp.Error != "" || resp.Behind {
						return fmt.Errorf("the write is not acknowledged: %v", resp)
					}
				}
				return nil
			}
			if err := write(shardID, 0, 1); err != nil {
				t.Fatal(err)
			}
			if tt.both {
				if err := write(shardID+1, 0, 1000); err != nil {
					t.Fatal(err)
				}
			}
			ran := make(chan error, 1)
			go func() { ran <- deleteOf(tt.text)(n.deletes) }()
			if err := errors.Join(write(tt.shard, tt.newer, 1000), <-ran); err != nil {
				t.Fatal(err)
			}
			sh, found, names := c.stores[0].Shard(tt.shard), 0, make(map[string]bool)
			for i := range tt.series {
				name, _ := tt.of(tt.newer + i)
				if !names[name] {
					found += len(replicationtest.ValuesOf(t, sh, name))
				}
				names[name] = true
			}
			known := must(sh.Index()).SeriesIDSet().Cardinality()
			if found != tt.series || known != uint64(tt.series) {
				t.Errorf("of %d points %d are found, and the index has %d series", tt.series, found, known)
			}
		})
	}
}

// What was written beside a delete may have gone from the cache to a file. Then the delete runs again, and the series
// are looked for there.
func TestLostSeriesInFilesStay(t *testing.T) {
	t.Parallel()
	for _, indexed := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		for _, inFile := range []bool{false, true} {
			t.Run(fmt.Sprint(indexed, " in a file ", inFile), func(t *testing.T) {
				t.Parallel()
				c := newTestCluster(t, "ok")
				s := enginetest.Store(t, indexed)
				c.stores[0] = s
				n := c.node(t)
				mustWrite(t, s, "cpu,host=a v=1 1000\ncpu,host=b v=1 1000\ndisk v=1 1000\nmem v=1 1000")
				if inFile {
					mustSnapshot(t, s)
				}
				lose(t, s.Shard(shardID), "cpu,host=a", "mem")
				unlist(t, s.Shard(shardID), "disk")
				mustWrite(t, s, "net v=1 1000") // its field alone is lost
				if inFile {
					mustSnapshot(t, s)
				}
				must(s.Shard(shardID).Engine()).MeasurementFieldSet().Delete("net")
				if count(t, s, "cpu") != 1 || count(t, s, "disk")+count(t, s, "mem")+count(t, s, "net") != 0 {
					t.Fatal("the series are not lost")
				}
				r := &rpc.Delete{
					Kind: rpc.Delete_DELETE_SERIES, Database: db,
					Statement: "DELETE FROM cpu, disk, net WHERE time < 100",
				}
				kept, err := n.deletes.keepSeries(r, func(*tsdb.Shard) bool { return inFile })
				if err != nil || kept != 3 {
					t.Fatalf("%d series are kept, want 3: %v", kept, err)
				}
				if got := count(t, s, "cpu") + count(t, s, "disk") + count(t, s, "net"); got != 4 {
					t.Errorf("%d of 4 points are found", got)
				}
				if got := count(t, s, "mem"); got != 0 {
					t.Errorf("%d points of a measurement that the delete is not about are found", got)
				}
			})
		}
	}
}

// An older file of the index may list series that were dropped with their measurement, while they were written again.
func TestLostSeriesThatAnOlderFileOfTheIndexListsStay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, line string // that is written after the drop
		late       bool   // the series were written when the drop had listed them, and a new log was begun
	}{
		{"alone", "", false}, {"beside a new series", "disk,new=1 v=1 1000", false},
		{"written during the drop", "", true}, {"written during the drop beside a new series", "disk,new=1 v=1 1000", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			s := enginetest.New(t.TempDir(), tsdb.TSI1IndexName)
			s.EngineOptions.Config.MaxIndexLogFileSize = 1 // each write begins a file
			c.stores[0] = enginetest.Open(t, s)
			n := c.node(t)
			mustWrite(t, s, "disk,a=b v=1 1000\ndisk,a=c v=1 1000")
			mustWrite(t, s, "mem v=1 1000")
			index := must(s.Shard(shardID).Index()).(*tsi1.Index)
			index.Wait()
			if tt.late {
				dropInLogs(t, index, "disk")
			} else {
				unlist(t, s.Shard(shardID), "disk")
			}
			all := 2
			if tt.line != "" {
				mustWrite(t, s, tt.line)
				all++
			}
			r := &rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM disk WHERE time < 100"}
			kept, err := n.deletes.keepSeries(r, func(*tsdb.Shard) bool { return false })
			if err != nil || kept != 2 || count(t, s, "disk") != all {
				t.Errorf("%d series are kept and %d points found, want 2 and %d: %v", kept, count(t, s, "disk"), all, err)
			}
			for _, value := range []string{"b", "c"} {
				itr, err := index.TagValueSeriesIDIterator([]byte("disk"), []byte("a"), []byte(value))
				if err != nil {
					t.Fatal(err)
				}
				if e, err := itr.Next(); err != nil || e.SeriesID == 0 {
					t.Errorf("a query of the tag finds no series with the value %s: %v", value, err)
				}
				itr.Close()
			}
		})
	}
}

// dropInLogs drops a measurement in the logs that the parts of an index write to, and no series.
func dropInLogs(t *testing.T, index *tsi1.Index, measurement string) {
	t.Helper()
	for i := range int(index.PartitionN) {
		files := must(index.PartitionAt(i).RetainFileSet())
		i := slices.IndexFunc(files.Files(), func(f tsi1.File) bool { _, is := f.(*tsi1.LogFile); return is })
		err := files.Files()[i].(*tsi1.LogFile).DeleteMeasurement([]byte(measurement))
		if files.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

func mustSnapshot(t *testing.T, s *tsdb.Store) {
	t.Helper()
	if err := must(s.Shard(shardID).Engine()).(interface{ WriteSnapshot() error }).WriteSnapshot(); err != nil {
		t.Fatal(err)
	}
}

// lose removes series from the indexes alone.
func lose(t *testing.T, sh *tsdb.Shard, keys ...string) {
	t.Helper()
	index, file := must(sh.Index()), must(sh.SeriesFile())
	for _, key := range keys {
		name, tags := models.ParseKeyBytes([]byte(key))
		id := file.SeriesID(name, tags, nil)
		if err := index.DropSeriesList([]uint64{id}, [][]byte{[]byte(key)}, false); err != nil {
			t.Fatal(err)
		}
		if _, err := file.DeleteSeriesID(id, tsdb.Flush); err != nil {
			t.Fatal(err)
		}
		if memory, ok := index.(*inmem.ShardIndex); ok {
			if err := memory.DropSeriesGlobal([]byte(key)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// unlist removes the series of a measurement from its list, and leaves them in the set of the index. With the index in
// memory, the measurement must have one series without tags.
func unlist(t *testing.T, sh *tsdb.Shard, name string) {
	t.Helper()
	switch index := must(sh.Index()).(type) {
	case *inmem.ShardIndex:
		known := must(index.Series([]byte(name)))
		known.Measurement.DropSeries(known)
	default:
		if err := index.DropMeasurement([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
}

// A delete that comes late may have failed here before this process was started. What the engine lost then is in files.
func TestLateDeleteFindsWhatAnEarlierProcessLost(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok")
	s := c.stores[0]
	n := c.node(t)
	path := filepath.Join(t.TempDir(), "clock")
	for range 2 {
		clock, err := order.OpenClock(path, time.Now, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		if err := clock.Close(); err != nil {
			t.Fatal(err)
		}
		n.deletes.deps.Clock = clock
	}
	mustWrite(t, s, "cpu,host=a v=1 1000\ncpu,host=b v=1 1000")
	mustSnapshot(t, s)
	lose(t, s.Shard(shardID), "cpu,host=a")
	r := &rpc.Delete{
		Kind: rpc.Delete_DELETE_SERIES, Database: db, Id: "x", Statement: "DELETE FROM cpu WHERE time >= 1000",
		Version: uint64(order.AtTime(time.Now().Add(-time.Hour))),
	}
	if err := n.deletes.runDelete(r, true); err != nil {
		t.Fatal(err)
	}
	lost, err := fieldindex.FindLost(s.Shard(shardID), func(string) bool { return true }, true)
	if err != nil || lost.Len() != 0 || count(t, s, "cpu") != 0 {
		t.Errorf("%d series are there still, without being listed; %d points are found: %v", lost.Len(), count(t, s, "cpu"), err)
	}
}
