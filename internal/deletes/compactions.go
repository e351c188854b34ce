package deletes

import (
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/tsi1"
)

// betweenIndexCompactions runs a delete while no index on disk of the database's open shards is compacted. In the
// engine, the two can wait for each other for ever, and then writes wait, too. A delete lists series first, and keeps
// the files of the index until it ends. Then it waits for the compactions of the index that run. One of them may have
// replaced a log file that the delete keeps, and ends when nobody keeps that file any more. A delete from several
// measurements also meets compactions that it began itself: it keeps the files of all its lists to the end, and allows
// compactions between two of them. (Engine v1.13.2, tsdb/store.go: DeleteSeries, tsdb/engine/tsm1/engine.go:
// DeleteSeriesRangeWithPredicate, tsdb/index/tsi1/partition.go: compactLogFile.)
//
// A shard that opens between the first lines of this function and the engine's list of shards is left out.
func betweenIndexCompactions(store *tsdb.Store, db string, run func() error) error {
	indexes := onDisk(store, db)
	for _, index := range indexes {
		index.DisableCompactions() // the engine counts the calls, also of an index that is closed
		defer index.EnableCompactions()
	}
	for _, index := range indexes {
		index.Wait() // also for queries that keep files; none of them waits for a delete
	}
	return run()
}

// onDisk returns the indexes on disk of a database's open shards.
func onDisk(store *tsdb.Store, db string) (out []*tsi1.Index) {
	for _, sh := range store.Shards(store.ShardIDs()) {
		if sh.Database() != db {
			continue
		}
		index, err := sh.Index()
		if err != nil {
			continue // it is closed or disabled, and the delete will fail
		}
		if index, ok := index.(*tsi1.Index); ok {
			out = append(out, index)
		}
	}
	return out
}
