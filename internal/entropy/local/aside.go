package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/copystate"
	"concord/internal/durable"
	"concord/internal/entropy"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/scrub"
	"concord/internal/entropy/tsmfile"
	"concord/internal/snapshot"
)

// Scrub reads all files of a copy from disk, and notes what is damaged. What queries do not see of sound files it makes
// visible. It fails with entropy.ErrNoCopy when the engine does not have the shard. One that it could not open is
// damaged, whatever its files are.
func (l *Local) Scrub(ctx context.Context, id uint64) ([]*tsmfile.Damage, error) {
	sh := l.Store.Shard(id)
	if sh == nil {
		return nil, entropy.ErrNoCopy
	}
	found, err := scrub.Verify(ctx, sh.Path(), l.paced(ctx))
	if err == nil && len(found) == 0 {
		err = l.checkFields(pace.With(ctx, l.Pace), sh)
	}
	return found, errors.Join(err, l.Found(id, found...))
}

// paced is Limit.Wait for a loop that does nothing but read and check: it also rests.
func (l *Local) paced(ctx context.Context) func(context.Context, int) error {
	ctx = pace.With(ctx, l.Pace)
	work := pace.Begin(ctx)
	return func(ctx context.Context, n int) error {
		if err := work.Rest(); err != nil {
			return err
		}
		err := l.Limit.Wait(ctx, n)
		work = pace.Begin(ctx) // to wait was no work
		return err
	}
}

// SetAside replaces the damaged files of a copy by ones with what is good in them; the damaged
// ones are kept in the folder aside.
func (l *Local) SetAside(ctx context.Context, id uint64) error {
	d, ok, err := l.damaged.of(id)
	if err != nil || !ok || d.Aside {
		return err
	}
	if sh := l.Store.Shard(id); sh != nil {
		seen := l.Deletes.DeletesSeen(id)
		aside := scrub.Aside{
			Shard: sh, Dir: l.Aside(), Wait: l.Limit.Wait,
			Hold:       func() (func(), error) { return l.holdDeletes(id, seen) },
			HoldWrites: func() func() { return l.HoldWrites(id) },
		}
		kept, _, err := aside.Run(ctx)
		if err != nil {
			return fmt.Errorf("shard %d: %w", id, err)
		}
		if kept != "" {
			l.Log.Info("Damaged files were set aside", zap.Uint64("db_shard_id", id), zap.String("kept", kept))
		}
		if err := l.checkFields(ctx, sh); err != nil {
			return err
		}
	} else if err := l.notOpened(id); err != nil {
		return err
	}
	d.Aside = true
	return l.damaged.set(id, d)
}

// holdDeletes holds deletes of a shard back, unless one came since.
func (l *Local) holdDeletes(id, seen uint64) (release func(), err error) {
	release, ok := l.Deletes.HoldDeletes(id, seen)
	if !ok {
		return nil, entropy.ErrOvertaken
	}
	return release, nil
}

// notOpened is an error when the engine could not open a shard, and nil when this node does not have it.
func (l *Local) notOpened(id uint64) error {
	if message, ok := l.unopened()[id]; ok {
		return fmt.Errorf("shard %d: %s", id, message)
	}
	return nil
}

// Discard removes a copy that may hold deleted or old points, so that it is made anew of another one. Its files are
// kept aside: a write that reached no other copy would be lost with them.
func (l *Local) Discard(_ context.Context, id, gen uint64) error {
	if lack := l.Copies.Lacks(id); !lack.Kind.Worse(copystate.Lost) || lack.Gen != gen {
		return fmt.Errorf("what this node's copy of shard %d lacks has changed since the repair asked: it is not "+
			"removed", id)
	}
	if l.Store.Shard(id) == nil {
		return nil
	}
	kept, err := l.keepFiles(id)
	if err != nil {
		return fmt.Errorf("keep the files of shard %d: %w", id, err)
	}
	l.Log.Info("Kept the files of a copy that is made anew", zap.Uint64("db_shard_id", id), zap.String("kept", kept))
	if err := l.Store.DeleteShard(id); err != nil && !errors.Is(err, tsdb.ErrShardNotFound) {
		return err
	}
	return l.Copies.Discarded(id)
}

// keepFiles moves a snapshot of a shard's files aside.
func (l *Local) keepFiles(id uint64) (kept string, err error) {
	dir, err := snapshot.Take(l.Store.Store, id)
	if err != nil {
		return "", err
	}
	kept = filepath.Join(l.Aside(), fmt.Sprintf("%d-%s", id, time.Now().UTC().Format("20060102T150405.000000000Z")))
	if err := os.MkdirAll(l.Aside(), 0o750); err != nil {
		return "", err
	}
	if err := os.Rename(dir, kept); err != nil { // another file system
		if err := errors.Join(os.CopyFS(kept, os.DirFS(dir)), os.RemoveAll(dir)); err != nil {
			return "", err
		}
	}
	return kept, durable.SyncDir(l.Aside())
}
