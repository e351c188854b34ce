// Package seriesindex gives out the index of a shard, which knows its series, to code that lists them while writes and
// deletes change them. The engine's index in memory hands out a list that it sorts again in place, so that a reader
// may miss series and see others twice. Of and SetOf return an index that does not have this fault.
package seriesindex

import (
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/index/inmem"
	"github.com/influxdata/influxql"
)

// Of returns the index of an open shard. Use it instead of Shard.Index where series are listed: what the engine's index
// in memory lists changes while it is read.
func Of(sh *tsdb.Shard) (tsdb.Index, error) {
	index, err := sh.Index()
	if own, ok := index.(*inmem.ShardIndex); ok {
		index = inMemory{own}
	}
	return index, err
}

// SetOf returns the indexes of open shards of one database. Shards with the index in memory share one, which is there
// once for each of them: see IndexSet.DedupeInmemIndexes.
func SetOf(shards ...*tsdb.Shard) (set tsdb.IndexSet, err error) {
	for _, sh := range shards {
		index, err := Of(sh)
		if err != nil {
			return set, err
		}
		if set.SeriesFile, err = sh.SeriesFile(); err != nil { // one for all shards of a database
			return set, err
		}
		set.Indexes = append(set.Indexes, index)
	}
	return set, nil
}

// inMemory is the engine's index in memory, but for the list of the series of a measurement. The engine returns a slice
// that it keeps and sorts again, in place, once a series was dropped or came out of order (engine v1.13.2,
// tsdb/index/inmem/meta.go: SeriesIDs and Rebuild). Who read it meanwhile missed series and got others twice.
type inMemory struct{ *inmem.ShardIndex }

// all is true for all series. The engine makes a list of its own of those that two conditions have in common, and holds
// the lock of the index meanwhile.
var all = &influxql.BinaryExpr{
	Op: influxql.AND, LHS: &influxql.BooleanLiteral{Val: true}, RHS: &influxql.BooleanLiteral{Val: true},
}

// MeasurementSeriesIDIterator lists the series of a measurement as they are now, and returns nil when there is none.
func (i inMemory) MeasurementSeriesIDIterator(name []byte) (tsdb.SeriesIDIterator, error) {
	return i.MeasurementSeriesKeysByExprIterator(name, all)
}
