package deletes

import (
	"cmp"
	"errors"
	"time"

	"github.com/influxdata/influxdb/models"
	"google.golang.org/protobuf/proto"

	"concord/internal/batch"
	"concord/internal/order"
	"concord/internal/rpc"
)

// announcedDelete notes what is written here from when a delete is announced until it has run. What is newer than the
// delete is written again after it.
type announcedDelete struct {
	removal                             // without a version until it runs here
	until   time.Time                   // when it is given up, unless it runs here
	running bool                        // here
	queue   func([]acceptedWrite) error // puts writes into this node's own hinted handoff; nil without
	most    int                         // points in writes
	writes  []acceptedWrite
	points  int             // in writes
	missing map[uint64]bool // shards of which some writes did not fit into writes
}

// acceptedWrite is one that a delete which runs later may remove.
type acceptedWrite struct {
	shard   uint64
	policy  string
	version order.Version
	points  []models.Point
}

// maxNoted bounds the points that are in memory for one delete.
const maxNoted = 1 << 20

var errTooManyNoted = errors.New("too many points are written while a delete of them runs: write them again")

// announce begins to note what is written and a delete covers, until end.
func (r *removals) announce(req *rpc.Delete, now time.Time) {
	o := r.of(req.Database)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropGivenUp(now)
	o.announce(req, now, r.mostNoted())
}

// mostNoted is how many points are in memory for one delete.
func (r *removals) mostNoted() int { return cmp.Or(r.most, maxNoted) }

// announce returns what notes the writes beside a delete, and whether the delete was announced before. mu must be held.
func (o *databaseRemovals) announce(req *rpc.Delete, now time.Time, most int) (a *announcedDelete, before bool) {
	if a := o.announced[req.Id]; a != nil {
		return a, true
	}
	own := proto.Clone(req).(*rpc.Delete) // the caller's gets its version later
	a = &announcedDelete{removal: removal{id: req.Id, req: own}, until: now.Add(longestDelete), most: most}
	o.announced[req.Id] = a
	return a, false
}

// begin notes that a delete is about to run here. What is newer and written from now on is queued before its writer has
// its answer. Noted reports whether everything was noted that was written since the delete got its version.
func (r *removals) begin(
	req *rpc.Delete, queue func([]acceptedWrite) error, now time.Time,
) (a *announcedDelete, noted bool) {
	o := r.of(req.Database)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropGivenUp(now)
	a, noted = o.announce(req, now, r.mostNoted())
	a.version, a.running, a.queue = order.Version(req.Version), true, queue
	return a, noted
}

// end ends the notes for a delete, unless it runs here: its sender may have given up waiting for it.
func (r *removals) end(db, id string) {
	o := r.of(db)
	o.mu.Lock()
	defer o.mu.Unlock()
	if a := o.announced[id]; a != nil && !a.running {
		delete(o.announced, id)
	}
}

// ran ends the notes for a delete that ran here, or failed.
func (r *removals) ran(db, id string) {
	o := r.of(db)
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.announced, id)
}

// dropGivenUp ends the notes for deletes that take longer than a delete may take. mu must be held.
func (o *databaseRemovals) dropGivenUp(now time.Time) {
	for id, a := range o.announced {
		if !a.running && now.After(a.until) {
			delete(o.announced, id)
		}
	}
}

// runsBelow reports whether a delete with a smaller version runs here.
func (r *removals) runsBelow(db string, v order.Version) bool {
	o := r.of(db)
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, a := range o.announced {
		if a.running && a.version < v {
			return true
		}
	}
	return false
}

// wrote notes points that were written. An error says that they may be lost in a crash.
func (o *databaseRemovals) wrote(w acceptedWrite) error {
	o.mu.RLock()
	none := len(o.announced) == 0
	o.mu.RUnlock()
	if none {
		return nil
	}
	queues, err := o.note(w, time.Now())
	for _, queue := range queues {
		err = errors.Join(err, queue())
	}
	return err
}

// note notes points for the deletes that cover them, and returns what has to be called to queue them.
func (o *databaseRemovals) note(w acceptedWrite, now time.Time) (queues []func() error, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropGivenUp(now)
	for _, a := range o.announced {
		if a.running && w.version <= a.version {
			continue
		}
		covered := w
		covered.points = a.coveredOf(w)
		if len(covered.points) == 0 {
			continue
		}
		if !a.add(covered) && a.running && a.queue == nil {
			err = errTooManyNoted
		}
		if queue := a.queue; queue != nil {
			queues = append(queues, func() error { return queue([]acceptedWrite{covered}) })
		}
	}
	return queues, err
}

// coveredOf returns the points of a write that the delete covers. They stay when the write has ended.
func (a *announcedDelete) coveredOf(w acceptedWrite) (out []models.Point) {
	for _, p := range w.points {
		if a.covers(w.policy, p) {
			out = append(out, batch.Keep(p))
		}
	}
	return out
}

// add reports whether a write fitted into memory.
func (a *announcedDelete) add(w acceptedWrite) bool {
	if a.points+len(w.points) > a.most {
		if a.missing == nil {
			a.missing = make(map[uint64]bool)
		}
		a.missing[w.shard] = true
		return false
	}
	a.points += len(w.points)
	a.writes = append(a.writes, w)
	return true
}

// take returns what was noted since the last time and is newer than the delete, and the shards of which some did not
// fit into memory.
func (r *removals) take(a *announcedDelete) (newer []acceptedWrite, missing map[uint64]bool) {
	o := r.of(a.req.Database)
	o.writing.await() // what is being written now has been noted then
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, w := range a.writes {
		if w.version > a.version {
			newer = append(newer, w)
		}
	}
	missing = a.missing
	a.writes, a.points, a.missing = nil, 0, nil
	return newer, missing
}
