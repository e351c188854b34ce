package retype

import (
	"errors"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/entropy/patch"
	"concord/internal/keylock"
)

// ErrHeld says that a write was not begun. The same write may succeed later.
var ErrHeld = errors.New("values of another type are being set aside in the shard: writes go on by themselves")

// Gate is a store whose writes to a shard can be held back. Those that are held back fail at once: hinted handoff takes
// them, where a write that waits would take its client's time.
type Gate struct {
	patch.Store
	shards keylock.Locks[uint64] // by ID; writes hold them for reading
}

// WriteToShard is the store's, or fails with ErrHeld before it begins.
func (g *Gate) WriteToShard(ctx tsdb.WriteContext, id uint64, points []models.Point) error {
	l := g.shards.Of(id)
	if !l.TryRLock() {
		return ErrHeld
	}
	defer l.RUnlock()
	return g.Store.WriteToShard(ctx, id, points)
}

// Hold waits for the writes to a shard that are under way, and holds others back until release.
func (g *Gate) Hold(id uint64) (release func()) {
	l := g.shards.Of(id)
	l.Lock()
	return l.Unlock
}
