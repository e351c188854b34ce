package deletes

import (
	"errors"
	"fmt"
	"time"

	"concord/internal/handoff"
	"concord/internal/rpc"
)

// rewrite is what is newer than a delete that runs on this node. The store removes by time and tags, whatever the
// version. So the newer points go into this node's own hinted handoff before the delete, and are written again after
// it. Hinted handoff brings them when that fails, or the process ends before. Coming twice does no harm, as they have
// their versions.
type rewrite struct {
	d       *Service
	req     *rpc.Delete
	noted   *announcedDelete
	whole   bool            // everything was noted that was written since the delete got its version
	writes  []acceptedWrite // to be written again
	points  int             // in writes
	missing map[uint64]bool // shards of which some points are in hinted handoff alone
}

// beginRewrite begins to note what is newer than a delete; it ends by end.
func (d *Service) beginRewrite(r *rpc.Delete) *rewrite {
	w := &rewrite{d: d, req: r, missing: make(map[uint64]bool)}
	var queue func([]acceptedWrite) error
	if d.deps.Handoff != nil {
		queue = func(writes []acceptedWrite) error { return d.queue(r.Database, writes) }
	}
	w.noted, w.whole = d.deps.Memory.removals.begin(r, queue, time.Now())
	return w
}

// end is called when the delete has run, or failed: the writes that wait in hinted handoff may be delivered.
func (w *rewrite) end() {
	w.d.deps.Memory.removals.ran(w.req.Database, w.req.Id)
	if w.d.deps.Handoff != nil {
		w.d.deps.Handoff.Back(w.d.deps.Meta.NodeID())
	}
}

// before keeps what is newer than the delete. A delete that comes late has newer writes from before it was heard of:
// they are looked for in the store.
func (w *rewrite) before(late bool) error {
	noted, missing := w.d.deps.Memory.removals.take(w.noted)
	if err := w.keep(noted); err != nil {
		return err
	}
	if late || !w.whole || len(missing) > 0 {
		return w.d.eachNewer(w.req, w.keep)
	}
	return nil
}

// keep puts writes into hinted handoff, and has those in memory that fit.
func (w *rewrite) keep(writes []acceptedWrite) error {
	if err := w.d.queue(w.req.Database, writes); err != nil {
		return fmt.Errorf("keep what is newer than the delete: %w", err)
	}
	for _, a := range writes {
		if w.points+len(a.points) <= w.noted.most {
			w.points += len(a.points)
			w.writes = append(w.writes, a)
			continue
		}
		if w.d.deps.Handoff == nil {
			return fmt.Errorf("more than %d points are newer than the delete, and would be lost without hinted handoff: "+
				"run it again for smaller time ranges", w.noted.most)
		}
		w.missing[a.shard] = true
	}
	return nil
}

// after writes again what is newer than the delete. This node's copies of shards count as not whole while hinted
// handoff has points that could not be written.
func (w *rewrite) after() error {
	noted, missing := w.d.deps.Memory.removals.take(w.noted)
	for shard := range missing {
		w.missing[shard] = true
	}
	var errs []error
	for _, a := range append(w.writes, noted...) {
		if err := w.d.deps.Writes.WriteAgain(a.shard, w.req.Database, a.policy, a.version, a.points); err != nil {
			errs = append(errs, err)
			w.missing[a.shard] = true
		}
	}
	if w.d.deps.Handoff != nil {
		for shard := range w.missing {
			w.d.deps.Missed(w.d.deps.Meta.NodeID(), shard)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("write again what is newer than the delete (%d writes failed): %w", len(errs), errs[0])
	}
	return nil
}

// queueBytes is how much goes into this node's own hinted handoff at once.
const queueBytes = 8 << 20

// queue puts writes into this node's own hinted handoff, if there is one. It returns when they are on disk.
func (d *Service) queue(db string, writes []acceptedWrite) error {
	if d.deps.Handoff == nil {
		return nil
	}
	entries, size := make(map[uint64][]handoff.Entry), 0 // by shard
	flush := func() (err error) {
		for shard, e := range entries {
			err = errors.Join(err, d.deps.Handoff.Append(d.deps.Meta.NodeID(), shard, e...))
		}
		clear(entries)
		size = 0
		return err
	}
	for _, w := range writes {
		some, err := d.deps.Writes.Entries(w.shard, db, w.policy, w.version, w.points)
		if err != nil {
			return err
		}
		for _, e := range some {
			entries[w.shard] = append(entries[w.shard], e)
			size += len(e.Data)
		}
		if size > queueBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
