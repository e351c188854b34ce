package deletes

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/enginetest"
	"concord/internal/rpc"
)

var shards = flag.Uint64("shards", 1500, "shards of BenchmarkDelete")

// BenchmarkDelete is what deletes cost a store with many small shards, on one shard at a time, on as many as there are
// processors, and on four times as many. Half of the series in each shard go, and then their measurement.
func BenchmarkDelete(b *testing.B) {
	for _, index := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		b.Run(index, func(b *testing.B) { benchmarkDelete(b, index, *shards) })
	}
}

func benchmarkDelete(b *testing.B, index string, shards uint64) {
	s := mustStore(b)
	s.EngineOptions.IndexVersion = index
	fill := func(b *testing.B) {
		for id := uint64(1); id <= shards; id++ {
			if s.Shard(id) == nil {
				if err := s.CreateShard(db, policy, id, true); err != nil {
					b.Fatal(err)
				}
			}
			lines := fmt.Sprintf("m,host=a v=1 %d\nm,host=b v=1 %[1]d\nother v=1 1", id)
			enginetest.Write(b, s, id, lines)
			s.Shard(id).SetCompactionsEnabled(true) // the store stops those of a shard that rests
			if err := must(s.Shard(id).Engine()).(*tsm1.Engine).WriteSnapshot(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, r := range []*rpc.Delete{
		{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM m WHERE host = 'a'"},
		{Kind: rpc.Delete_DROP_MEASUREMENT, Database: db, Name: "m"},
	} {
		for _, n := range []int{1, runtime.GOMAXPROCS(0), 4 * runtime.GOMAXPROCS(0)} {
			if n > 1 && index == tsdb.InmemIndexName {
				continue // shards share this index: see Config.engine in package datanode
			}
			b.Run(fmt.Sprintf("%v/parallel=%d", r.Kind, n), func(b *testing.B) {
				s.EngineOptions.Config.MaxConcurrentDeletes = n
				for b.Loop() {
					b.StopTimer()
					fill(b)
					b.StartTimer()
					if err := execute(s, r, nothing); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

var cachedSeries = flag.Int("cached-series", 100_000, "series of BenchmarkDeleteInCache")

// BenchmarkDeleteInCache is a delete of one series in a shard that has many in its cache: by the engine, and with the
// look for series that were written meanwhile.
func BenchmarkDeleteInCache(b *testing.B) {
	for _, index := range []string{tsdb.TSI1IndexName, tsdb.InmemIndexName} {
		c := newTestCluster(b, "ok")
		c.stores[0] = enginetest.Store(b, index)
		n := c.node(b)
		const batch = 1000
		for i := 0; i < *cachedSeries; i += batch {
			var lines strings.Builder
			for j := range batch {
				fmt.Fprintf(&lines, "cpu,host=h%d,region=r%d v=1 1\n", i+j, j%10)
			}
			mustWrite(b, c.stores[0], lines.String())
		}
		r := &rpc.Delete{Kind: rpc.Delete_DELETE_SERIES, Database: db, Statement: "DELETE FROM cpu WHERE host = 'h7'"}
		for name, keep := range map[string]func(map[*tsdb.Shard]bool) (int, error){
			"engine": nothing,
			"whole": func(map[*tsdb.Shard]bool) (int, error) {
				return n.deletes.keepSeries(r, func(*tsdb.Shard) bool { return false })
			},
		} {
			b.Run(index+"/"+name, func(b *testing.B) {
				for b.Loop() {
					mustWrite(b, c.stores[0], "cpu,host=h7,region=r7 v=1 1")
					if err := execute(c.stores[0], r, keep); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
