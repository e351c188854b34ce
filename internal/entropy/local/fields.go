package local

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/zap"

	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/tsmfile"
)

// checkFields compares what the files of a copy hold with what its indexes show to queries, and makes what is hidden
// visible. The digests read the series and fields that the indexes have, and the same may be hidden at all owners. So
// no comparison of copies finds this. A copy that cannot be healed is damaged from then on, and repaired as such.
//
// While a delete is under way nothing is checked: what it drops leaves the files and the indexes at different times.
func (l *Local) checkFields(ctx context.Context, sh *tsdb.Shard) error {
	id := sh.ID()
	deletes := l.Deletes.DeletesSeen(id)
	hold := func() (func(), bool) { return l.Deletes.HoldDeletes(id, deletes) }
	hidden, err := l.fields.Check(ctx, sh, deletes, hold)
	if err != nil {
		return fmt.Errorf("check the index of fields of shard %d: %w", id, err)
	}
	if len(hidden) == 0 {
		return nil
	}
	// The key in a damaged file may be one that was never written.
	if found, err := scrub.Verify(ctx, sh.Path(), l.Limit.Wait); err != nil {
		return err
	} else if len(found) > 0 {
		return l.met(id, found[0])
	}
	release, ok := hold()
	if !ok {
		return nil
	}
	healed, conflicts, err := fieldindex.Heal(ctx, sh, hidden)
	release() // what follows waits for the cache of digests, which asks for the deletes meanwhile
	if err != nil && ctx.Err() == nil && !errors.Is(err, tsm1.ErrNewReadersBlocked) {
		reason := fmt.Sprintf("queries do not see all that is in the files: %s: %v", fieldindex.Reasons(hidden), err)
		if found := l.Found(id, &tsmfile.Damage{File: fieldindex.File, Offset: -1, Reason: reason}); found != nil {
			err = fmt.Errorf("%w; %w", err, found) // in one line
		}
	}
	if err != nil {
		return err
	}
	if len(healed) == 0 {
		return nil
	}
	l.Log.Warn("Queries did not see all that is in the files of a shard, and do so again",
		zap.Uint64("db_shard_id", id),
		zap.String("hidden", fieldindex.Reasons(healed)), zap.Strings("conflicts", conflicts))
	// The digests were of what could be seen.
	cache, err := l.cache()
	if err == nil {
		err = cache.Drop(id)
	}
	if err != nil {
		return fmt.Errorf("drop the digests of shard %d: %w", id, err)
	}
	return nil
}
