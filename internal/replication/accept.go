package replication

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"golang.org/x/sync/errgroup"

	"concord/internal/order"
	"concord/internal/rpc"
)

// Order says which of two operations on a point is the later one.
type Order struct {
	Clock   *order.Clock
	Journal *order.Journal
}

// errBehind is for a write that this node's copy has something newer than: with a greater version it is the newest.
var errBehind = errors.New("the owner has newer values of some of the points")

// accept writes points to this node's copy of a shard, unless the copy has newer values or a newer delete removes
// them. A write that is late, be it out of hinted handoff, is written without such points. Any other one whose client
// has no answer yet is not written at all: the error is errBehind. A write without a version is of a node of a previous
// version of this program: a late one is older than all, and another one the newest.
func (w *Writer) accept(
	ctx tsdb.WriteContext, shard uint64, db, policy string, v order.Version, late bool, points []models.Point,
) error {
	if v == 0 && late {
		v = oldest
	}
	if w.Order == nil || v == 0 {
		return writeStore(w.Shards, w.Begun, ctx, shard, db, policy, points)
	}
	w.Order.Clock.Heard(v)
	w.removals.mu.RLock()
	defer w.removals.mu.RUnlock()
	left := w.removals.without(db, policy, v, points)
	if len(left) < len(points) && !late {
		return errBehind
	}
	kept, write, err := w.Order.Journal.Begin(shard, v, left, late)
	if errors.Is(err, order.ErrBehind) {
		return errBehind
	} else if err != nil {
		return err
	}
	if len(kept) > 0 {
		err = writeStore(w.Shards, w.Begun, ctx, shard, db, policy, kept)
	}
	var partial tsdb.PartialWriteError
	wrote := err == nil || errors.As(err, &partial)
	write.End()
	if !wrote {
		return err
	}
	w.removals.wrote(shard, db, policy, v, kept)
	w.newest.note(shard, v)
	if failed := write.Sync(); failed != nil {
		return failed
	}
	return err
}

// newestVersions are the greatest versions that shards got since this process started.
type newestVersions struct {
	mu sync.Mutex
	m  map[uint64]order.Version
}

func (n *newestVersions) note(shard uint64, v order.Version) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.m == nil {
		n.m = make(map[uint64]order.Version)
	}
	n.m[shard] = max(n.m[shard], v)
}

// mayHaveNewer reports whether this node's copy of a shard may have points with a version above v.
func (w *Writer) mayHaveNewer(shard uint64, v order.Version) bool {
	w.newest.mu.Lock()
	defer w.newest.mu.Unlock()
	return w.newest.m[shard] > v || w.Order.Journal.Loaded() > v
}

// acceptSpans writes what another node sent. Writes out of hinted handoff come as one, with the version of each. They
// are written at the same time: their versions order them.
func (w *Writer) acceptSpans(r *rpc.WriteShardRequest, points []models.Point) error {
	ctx := tsdb.WriteContext{UserId: r.UserId}
	if len(r.Spans) == 0 {
		v := order.Version(r.Version)
		return w.accept(ctx, r.ShardId, r.Database, r.RetentionPolicy, v, r.Hinted || r.Yields, points)
	}
	var (
		writes  errgroup.Group
		mu      sync.Mutex
		partial *tsdb.PartialWriteError
	)
	writes.SetLimit(maxSpans)
	if slices.ContainsFunc(r.Spans, func(s *rpc.VersionSpan) bool { return s.Version == 0 }) {
		writes.SetLimit(1) // their order is all that they have
	}
	for _, s := range r.Spans {
		some := points[:min(int(s.Points), len(points))]
		points = points[len(some):]
		writes.Go(func() error {
			v := order.Version(s.Version)
			err := w.accept(ctx, r.ShardId, r.Database, r.RetentionPolicy, v, true, some)
			var p tsdb.PartialWriteError
			if !errors.As(err, &p) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			partial = merge(partial, p)
			return nil
		})
	}
	if err := writes.Wait(); err != nil || partial == nil {
		return err
	}
	return *partial
}

// maxSpans is how many writes out of hinted handoff run at the same time for one message.
const maxSpans = 16

// clock is this node's, 0 for none.
func (w *Writer) clock() uint64 {
	if w == nil || w.Order == nil {
		return 0
	}
	return uint64(w.Order.Clock.Now())
}

// heard takes over the clock of another node.
func (w *Writer) heard(clock uint64) {
	if w.Order != nil && clock != 0 {
		w.Order.Clock.Heard(order.Version(clock))
	}
}

// oldest is the version of what waited in hinted handoff before writes had versions.
const oldest order.Version = 1

// removals are the deletes that ran on this node, or are about to. What is older than one of them is not written
// any more. What is newer, and was written before the delete ran here, is written again after it.
type removals struct {
	mu  sync.RWMutex // held for reading by who writes points that a delete must not miss
	dbs map[string]*removalsOf
}

type removalsOf struct {
	newest order.Version
	oldest order.Version         // 0 when there are none
	named  map[string][]*removal // by measurement
	others []*removal            // of all measurements, or those of a regular expression

	announcedMu sync.Mutex
	announced   map[string]*announcedRemoval // by ID: they run, or are about to
}

type removal struct {
	version order.Version
	id      string
	req     *rpc.ExecuteRequest
	by      map[string]*covering // by policy
	byMu    sync.Mutex
}

// announcedRemoval keeps what is written while a delete is about to run.
type announcedRemoval struct {
	removal
	until  time.Time
	writes []acceptedWrite
	n      int // points
}

// acceptedWrite is one that a delete which runs later may remove.
type acceptedWrite struct {
	shard   uint64
	policy  string
	version order.Version
	points  []models.Point
}

// maxAccepted bounds the points that are kept for one delete. Past it anti-entropy brings back what the delete
// removed on one owner and not on another.
const maxAccepted = 1 << 20

func (r *removal) covers(policy string, p models.Point) bool {
	r.byMu.Lock()
	defer r.byMu.Unlock()
	c, ok := r.by[policy]
	if !ok {
		c, _ = newCovering(r.req, policy) // checked when the request came
		if r.by == nil {
			r.by = make(map[string]*covering)
		}
		r.by[policy] = c
	}
	return c != nil && c.covers(p)
}

func (r *removals) of(db string) *removalsOf {
	if r.dbs == nil {
		r.dbs = make(map[string]*removalsOf)
	}
	if r.dbs[db] == nil {
		r.dbs[db] = &removalsOf{named: make(map[string][]*removal), announced: make(map[string]*announcedRemoval)}
	}
	return r.dbs[db]
}

// add remembers a delete. The writes that run meanwhile have ended when it returns.
func (r *removals) add(req *rpc.ExecuteRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.of(req.Database)
	d := &removal{version: order.Version(req.Version), id: req.Id, req: req}
	names, err := namesOf(req)
	if err != nil {
		return
	}
	same := func(o *removal) bool { return o.id == req.Id }
	if names == nil && !slices.ContainsFunc(of.others, same) {
		of.others = append(of.others, d)
	}
	for _, name := range names {
		if !slices.ContainsFunc(of.named[name], same) {
			of.named[name] = append(of.named[name], d)
		}
	}
	of.keep(d)
}

// forget forgets the deletes with a version below floor: nothing as old arrives any more.
func (r *removals) forget(floor order.Version) {
	r.mu.RLock()
	due := false
	for _, of := range r.dbs {
		due = due || of.oldest != 0 && of.oldest < floor
	}
	r.mu.RUnlock()
	if !due {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.dbs {
		of.oldest = 0
		left := func(deletes []*removal) []*removal {
			deletes = slices.DeleteFunc(deletes, func(d *removal) bool { return d.version < floor })
			for _, d := range deletes {
				of.keep(d)
			}
			return deletes
		}
		of.others = left(of.others)
		for name := range of.named {
			if of.named[name] = left(of.named[name]); len(of.named[name]) == 0 {
				delete(of.named, name)
			}
		}
	}
}

// keep notes the version of a delete that is remembered.
func (o *removalsOf) keep(d *removal) {
	o.newest = max(o.newest, d.version)
	if o.oldest == 0 || d.version < o.oldest {
		o.oldest = d.version
	}
}

// namesOf are the measurements of a delete, nil when it may be of any.
func namesOf(req *rpc.ExecuteRequest) ([]string, error) {
	c, err := newCovering(req, "")
	if err != nil || c.all || len(c.regexps) > 0 {
		return nil, err
	}
	if req.Kind == rpc.ExecuteRequest_DROP_MEASUREMENT {
		return []string{req.Name}, nil
	}
	sources, _, err := parseDelete(req.Statement)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = s.(*influxql.Measurement).Name // of this type, says newCovering
	}
	return names, nil
}

// without returns the points that no newer delete removes. mu must be held.
func (r *removals) without(db, policy string, v order.Version, points []models.Point) []models.Point {
	of := r.dbs[db]
	if of == nil || v > of.newest {
		return points
	}
	removed := func(p models.Point, deletes []*removal) bool {
		return slices.ContainsFunc(deletes, func(d *removal) bool { return d.version > v && d.covers(policy, p) })
	}
	gone := func(p models.Point) bool { return removed(p, of.others) || removed(p, of.named[string(p.Name())]) }
	if !slices.ContainsFunc(points, gone) {
		return points
	}
	return slices.DeleteFunc(slices.Clone(points), gone)
}

// announce begins to keep what is written and a delete covers, until ended.
func (r *removals) announce(req *rpc.ExecuteRequest, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of := r.of(req.Database)
	for id, a := range of.announced {
		if now.After(a.until) {
			delete(of.announced, id)
		}
	}
	if of.announced[req.Id] == nil {
		of.announced[req.Id] = &announcedRemoval{removal: removal{id: req.Id, req: req}, until: now.Add(longestDelete)}
	}
}

func (r *removals) ended(db, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of := r.dbs[db]; of != nil {
		delete(of.announced, id)
	}
}

// wrote notes points that were written. mu must be held.
func (r *removals) wrote(shard uint64, db, policy string, v order.Version, points []models.Point) {
	of := r.dbs[db]
	if of == nil || len(of.announced) == 0 {
		return
	}
	of.announcedMu.Lock()
	defer of.announcedMu.Unlock()
	for _, a := range of.announced {
		var covered []models.Point
		for _, p := range points {
			if a.covers(policy, p) {
				covered = append(covered, p)
			}
		}
		if a.n += len(covered); len(covered) > 0 && a.n <= maxAccepted {
			a.writes = append(a.writes, acceptedWrite{shard, policy, v, covered})
		}
	}
}

// newer returns what was written here with a greater version since a delete was announced.
func (r *removals) newer(req *rpc.ExecuteRequest) []acceptedWrite {
	r.mu.Lock() // what is being written now has been noted then
	defer r.mu.Unlock()
	of := r.dbs[req.Database]
	if of == nil || of.announced[req.Id] == nil {
		return nil
	}
	a := of.announced[req.Id]
	out := slices.DeleteFunc(a.writes, func(w acceptedWrite) bool { return w.version <= order.Version(req.Version) })
	a.writes = nil
	return out
}
