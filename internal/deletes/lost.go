package deletes

import (
	"fmt"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/entropy/fieldindex"
	"concord/internal/rpc"
)

// keepSeries makes series anew that the engine lost because points of them were written while it ran a delete, and
// returns how many. The points may be in other shards, or of other times than those that the delete is about. Nobody
// would write such points again, as rewrite does with what the delete covers. In the shards for which inFiles is true,
// points may have gone from the cache to a file since the delete began.
//
// Writes of nodes of an earlier build, which have no versions, are not waited for: what they lose stays lost.
func (d *Service) keepSeries(r *rpc.Delete, inFiles func(*tsdb.Shard) bool) (n int, err error) {
	of, err := isAbout(r)
	if err != nil {
		return 0, err
	}
	d.deps.Memory.removals.of(r.Database).writing.await()
	for _, sh := range d.deps.Store.Shards(d.deps.Store.ShardIDs()) {
		if _, err := sh.Engine(); err != nil || sh.Database() != r.Database {
			continue // no delete ran in a shard that is closed
		}
		lost, err := fieldindex.FindLost(sh, of, inFiles(sh))
		if err == nil && lost.Len() > 0 {
			err = d.restore(lost, r.Database)
			d.deps.Log.Info("Kept series that were written while a delete ran", zap.Uint64("db_shard_id", sh.ID()),
				zap.Int("series", lost.Len()), zap.Error(err))
		}
		if err != nil {
			return n, fmt.Errorf("look for series of shard %d that were written beside the delete: %w", sh.ID(), err)
		}
		n += lost.Len()
	}
	return n, nil
}

func (d *Service) restore(lost *fieldindex.Lost, db string) error {
	defer d.deps.Memory.removals.holdWrites(db)()
	return lost.Restore()
}
