package deletes

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/inmem"

	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// A delete of some times removes the series that have no other points in a shard, and from the file of series when no
// other shard has them. What is written meanwhile is of other times, and is found.
func TestSeriesThatAreWrittenBesideADeleteStay(t *testing.T) {
	t.Parallel()
	oneMeasurement := func(i int) (name, line string) { return "cpu", fmt.Sprint("cpu,host=", i) }
	manyMeasurements := func(i int) (name, line string) { return fmt.Sprint("cpu", i), fmt.Sprint("cpu", i) }
	for _, tt := range []struct {
		name, index, text string
		shard             uint64 // that is written to meanwhile
		series            int
		of                func(i int) (name, line string)
	}{
		{"same shard", tsdb.TSI1IndexName, `DELETE FROM cpu WHERE time < 100`, shardID, 5_000, oneMeasurement},
		{"same shard", tsdb.InmemIndexName, `DELETE FROM cpu WHERE time < 100`, shardID, 5_000, oneMeasurement},
		{"other shard", tsdb.TSI1IndexName, `DELETE FROM cpu WHERE time < 100`, shardID + 1, 5_000, oneMeasurement},
		{"other shard", tsdb.InmemIndexName, `DELETE FROM cpu WHERE time < 100`, shardID + 1, 5_000, oneMeasurement},
		{"measurements", tsdb.TSI1IndexName, `DELETE WHERE time < 100`, shardID, 600, manyMeasurements},
		{"measurements", tsdb.InmemIndexName, `DELETE WHERE time < 100`, shardID, 600, manyMeasurements},
	} {
		t.Run(tt.name+" "+tt.index, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, "ok")
			c.stores[0] = replicationtest.StoreWith(t, tt.index)
			n := c.node(t)
			if err := c.stores[0].CreateShard(db, policy, shardID+1, true); err != nil {
				t.Fatal(err)
			}
			srv := n.server()
			write := func(shard uint64, at int) error {
				const batch = 100
				for i := 0; i < tt.series; i += batch {
					var lines strings.Builder
					for j := range batch {
						_, line := tt.of(i + j)
						fmt.Fprintf(&lines, "%s v=1 %d\n", line, at)
					}
					r := writeRequest(t, lines.String())
					r.ShardId, r.Version = shard, uint64(n.deletes.deps.Clock.Next())
					if _, err := srv.WriteShard(t.Context(), r); err != nil {
						return err
					}
				}
				return nil
			}
			if err := write(shardID, 1); err != nil {
				t.Fatal(err)
			}
			ran := make(chan error, 1)
			go func() { ran <- deleteOf(tt.text)(n.deletes) }()
			if err := errors.Join(write(tt.shard, 1000), <-ran); err != nil {
				t.Fatal(err)
			}
			found, names := 0, make(map[string]bool)
			for i := range tt.series {
				name, _ := tt.of(i)
				if !names[name] {
					found += len(replicationtest.ValuesOf(t, c.stores[0].Shard(tt.shard), name))
				}
				names[name] = true
			}
			if found != tt.series {
				t.Errorf("%d of %d points are found", found, tt.series)
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
				s := replicationtest.StoreWith(t, indexed)
				c.stores[0] = s
				n := c.node(t)
				mustWrite(t, s, "cpu,host=a v=1 1000\ncpu,host=b v=1 1000\nmem v=1 1000")
				if inFile {
					mustSnapshot(t, s)
				}
				lose(t, s.Shard(shardID), "cpu,host=a", "mem")
				mustWrite(t, s, "net v=1 1000") // its field alone is lost
				if inFile {
					mustSnapshot(t, s)
				}
				must(s.Shard(shardID).Engine()).MeasurementFieldSet().Delete("net")
				if count(t, s, "cpu") != 1 || count(t, s, "mem") != 0 || count(t, s, "net") != 0 {
					t.Fatal("the series are not lost")
				}
				r := &rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM cpu, net WHERE time < 100"}
				if err := n.deletes.keepSeries(r, inFile); err != nil {
					t.Fatal(err)
				}
				if got := count(t, s, "cpu") + count(t, s, "net"); got != 3 {
					t.Errorf("%d of 3 points are found", got)
				}
				if got := count(t, s, "mem"); got != 0 {
					t.Errorf("%d points of a measurement that the delete is not about are found", got)
				}
			})
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
