package local

import (
	"context"
	"time"

	"go.uber.org/zap"

	"concord/internal/entropy/digest"
	"concord/internal/entropy/retype"
)

// FieldType returns the type of a field in this node's copy.
func (l *Local) FieldType(_ context.Context, id uint64, measurement, field string) (digest.Type, bool, error) {
	sh := l.Store.Shard(id)
	if sh == nil {
		return 0, false, l.notOpened(id)
	}
	return retype.TypeOf(sh, measurement, field)
}

// deletesEnd is how long deletes that run already are waited for.
const deletesEnd = 30 * time.Second

// Retype gives a field of this node's copy its type.
func (l *Local) Retype(ctx context.Context, id uint64, f retype.Field) (retype.Kept, error) {
	sh := l.Store.Shard(id)
	if sh == nil {
		return retype.Kept{}, l.notOpened(id)
	}
	c := retype.Copy{Shard: sh, Dir: l.Aside(), Alone: func(ctx context.Context, run func() error) error {
		seen := l.Deletes.DeletesSeen(id)
		defer l.HoldWrites(id)()
		ctx, cancel := context.WithTimeout(ctx, deletesEnd)
		defer cancel()
		return l.Store.BetweenDeletes(ctx, sh, func() error {
			release, err := l.holdDeletes(id, seen) // last: deletes of all databases wait for it
			if err != nil {
				return err
			}
			defer release()
			return run()
		})
	}}
	kept, err := c.Run(ctx, f)
	if kept.Path != "" {
		l.Log.Warn("Values of another type were set aside", zap.Uint64("db_shard_id", id),
			zap.Int("points", kept.Points), zap.String("kept", kept.Path))
	}
	return kept, l.met(id, err)
}
