package repair

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// fillTries is after how many failed attempts a missing copy gets points, and no files.
const fillTries = 3

// fill makes copies that are missing out of the files of an owner that has the shard. What is still
// missing then, or came meanwhile, is for the comparison that follows. A copy that cannot be
// filled stays missing, and gets its points one by one.
func (r *Repair) fill(ctx context.Context) (any bool, err error) {
	sources := r.set.Sources()
	if len(sources) == 0 || r.attempts >= fillTries { // without a source there are no points
		return false, nil
	}
	for _, c := range r.set.Copies {
		if c.State.Exists {
			continue
		}
		source, err := r.fillFromFirstWhole(ctx, c, sources)
		log := r.log.With(zap.String("node", c.TCPAddr))
		switch {
		case errors.Is(err, entropy.ErrNoFiles):
			any = true // a write may have begun the copy, and its Lack.Gen may be another
			log.Info("A missing shard gets its points one by one", zap.Error(err))
		case err != nil:
			return any, fmt.Errorf("copy the files of shard %d from %s to %s: %w", r.id, source.TCPAddr, c.TCPAddr, err)
		default:
			any = true
			log.Info("Copied the files of a missing shard", zap.String("source", source.TCPAddr))
		}
	}
	return any, nil
}

// fillFromFirstWhole makes a missing copy out of the files of the first source whose copy is whole. Where none is, it
// takes the first source all the same: the comparison that follows brings what the files lack.
func (r *Repair) fillFromFirstWhole(ctx context.Context, c copies.Copy, sources []cluster.Node) (cluster.Node, error) {
	for _, source := range sources {
		err := r.fillFrom(ctx, c, entropy.Source{Node: source, Deletes: c.State.Deletes})
		if !errors.Is(err, entropy.ErrSourceNotWhole) {
			return source, err
		}
		r.log.Info("Not copying the files of a copy that is not whole", zap.String("source", source.TCPAddr), zap.Error(err))
	}
	return sources[0], r.fillFrom(ctx, c, entropy.Source{Node: sources[0], Deletes: c.State.Deletes, Incomplete: true})
}

func (r *Repair) fillFrom(ctx context.Context, c copies.Copy, from entropy.Source) error {
	last, begun := int64(0), false
	err := c.Replica.Fill(ctx, r.shard, from, func(done, total int64) {
		if !begun { // what was there of an earlier attempt is not sent again
			last, begun = done, true
		}
		r.progress.change(func(p *entropy.RepairRecord) { p.Copied, p.Copying = done, total })
		r.filled(c.ID, from.ID, done-last)
		last = done
	})
	r.progress.change(func(p *entropy.RepairRecord) { p.Copied, p.Copying = 0, 0 })
	return err
}

// filled counts n bytes of files from one owner to another.
func (r *Repair) filled(to, from uint64, n int64) {
	received := r.Cluster.Self() == to
	switch r.Cluster.Self() {
	case to:
		r.Report.BytesRx.Add(n)
	case from:
		r.Report.BytesTx.Add(n)
	default: // these nodes count it in their statistics
	}
	r.progress.change(func(p *entropy.RepairRecord) {
		if received {
			p.BytesRx += n
		} else {
			p.BytesTx += n
		}
	})
}
