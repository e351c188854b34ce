package deletes

import (
	"github.com/influxdata/influxdb/tsdb"
)

// maxListings is how often a delete runs at most because series come and go.
const maxListings = 4

// overWholeLists runs a delete again when series came or went while it ran, with the index in memory. The engine walks
// its own list of the series of a measurement. It sorts that list again, in place, after a series came out of order or
// was dropped (see package seriesindex), and the delete may have passed over some series then. That is rare, and most
// unlikely in several runs. A run that finds nothing more to delete costs little.
func overWholeLists(store *tsdb.Store, db string, run func() error) error {
	before := seriesInMemory(store, db)
	for range maxListings {
		if err := run(); err != nil || before == nil {
			return err
		}
		after := seriesInMemory(store, db)
		if after == nil || after.Equals(before) {
			break
		}
		before = after
	}
	return nil
}

// seriesInMemory returns the series of a database's open shards that have the index in memory, nil when there are none.
func seriesInMemory(store *tsdb.Store, db string) (all *tsdb.SeriesIDSet) {
	for _, sh := range store.Shards(store.ShardIDs()) {
		if sh.Database() != db || sh.IndexType() != tsdb.InmemIndexName {
			continue
		}
		index, err := sh.Index()
		if err != nil {
			continue // it is being closed, and the delete will fail
		}
		if all == nil {
			all = tsdb.NewSeriesIDSet()
		}
		all.Merge(index.SeriesIDSet())
	}
	return all
}
