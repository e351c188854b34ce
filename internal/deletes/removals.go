package deletes

import (
	"maps"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxql"

	"concord/internal/order"
	"concord/internal/rpc"
	"concord/internal/writecache"
)

// removals are the deletes that ran on this node, or are about to. What is older than one of them is not written
// any more. What is newer, and was written before the delete ran here, is written again after it.
type removals struct {
	most int // points that are noted for one delete; 0 is maxNoted

	mu  sync.Mutex
	dbs map[string]*databaseRemovals
}

// databaseRemovals are those of one database.
type databaseRemovals struct {
	writing writing

	mu        sync.RWMutex
	newest    order.Version
	oldest    order.Version               // 0 when there are none
	byID      map[string]*removal         // all of them
	named     map[string][]*removal       // by measurement
	others    []*removal                  // of all measurements, or those of a regular expression
	announced map[string]*announcedDelete // by ID: they run, or are about to
}

type removal struct {
	version order.Version
	id      string
	req     *rpc.Delete
	by      map[string]*covering // by policy
	byMu    sync.Mutex
}

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

func (r *removals) of(db string) *databaseRemovals {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dbs == nil {
		r.dbs = make(map[string]*databaseRemovals)
	}
	if r.dbs[db] == nil {
		r.dbs[db] = &databaseRemovals{
			byID: make(map[string]*removal), named: make(map[string][]*removal),
			announced: make(map[string]*announcedDelete),
		}
	}
	return r.dbs[db]
}

// add remembers a delete. Writes that may not know of it have ended when it returns.
func (r *removals) add(req *rpc.Delete) {
	names, err := namesOf(req)
	if err != nil {
		return // checked when the request came
	}
	of := r.of(req.Database)
	of.remember(&removal{version: order.Version(req.Version), id: req.Id, req: req}, names)
	of.writing.await()
}

// holdWrites waits until the writes to a database that run now have ended. No other begins until release is called.
func (r *removals) holdWrites(db string) (release func()) { return r.of(db).writing.hold() }

// remember keeps a delete of measurements, nil for one that may be of any.
func (o *databaseRemovals) remember(d *removal, names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byID[d.id] != nil {
		return
	}
	o.byID[d.id] = d
	if names == nil {
		o.others = append(o.others, d)
	}
	for _, name := range names {
		o.named[name] = append(o.named[name], d)
	}
	o.keep(d)
}

// forget forgets the deletes with a version below floor, and returns their IDs: nothing as old arrives any more.
func (r *removals) forget(floor order.Version) (ids []string) {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.dbs))
	r.mu.Unlock()
	for _, of := range all {
		ids = append(ids, of.forget(floor)...)
	}
	return ids
}

// count counts all deletes.
func (r *removals) count() (n int) {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.dbs))
	r.mu.Unlock()
	for _, of := range all {
		of.mu.RLock()
		n += len(of.byID)
		of.mu.RUnlock()
	}
	return n
}

func (o *databaseRemovals) forget(floor order.Version) (ids []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.oldest == 0 || o.oldest >= floor {
		return nil
	}
	return o.drop(func(d *removal) bool { return d.version < floor })
}

// takeBack forgets a delete that did not run.
func (r *removals) takeBack(db, id string) {
	o := r.of(db)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(func(d *removal) bool { return d.id == id })
}

// drop forgets some deletes, and returns their IDs. mu must be held.
func (o *databaseRemovals) drop(which func(*removal) bool) (ids []string) {
	o.oldest = 0
	for id, d := range o.byID {
		if which(d) {
			ids = append(ids, id)
			delete(o.byID, id)
			continue
		}
		o.keep(d)
	}
	left := func(deletes []*removal) []*removal { return slices.DeleteFunc(deletes, which) }
	o.others = left(o.others)
	for name := range o.named {
		if o.named[name] = left(o.named[name]); len(o.named[name]) == 0 {
			delete(o.named, name)
		}
	}
	return ids
}

// keep notes the version of a delete that is remembered. mu must be held.
func (o *databaseRemovals) keep(d *removal) {
	o.newest = max(o.newest, d.version)
	if o.oldest == 0 || d.version < o.oldest {
		o.oldest = d.version
	}
}

// isAbout returns what reports whether a delete may be about a measurement.
func isAbout(req *rpc.Delete) (of func(measurement string) bool, err error) {
	names, err := namesOf(req)
	return func(measurement string) bool { return names == nil || slices.Contains(names, measurement) }, err
}

// isAboutSeries returns what reports whether a delete may be about a series.
func isAboutSeries(req *rpc.Delete) (writecache.About, error) {
	about, err := isAbout(req)
	if err != nil {
		return nil, err
	}
	c, err := newCovering(req, "") // its tags are those of every retention policy
	if err != nil {
		return nil, err
	}
	return func(name string, tags models.Tags) bool { return about(name) && c.coversTags(name, tags) }, nil
}

// namesOf are the measurements of a delete, nil when it may be of any.
func namesOf(req *rpc.Delete) (names []string, err error) {
	if _, err := newCovering(req, ""); err != nil {
		return nil, err
	}
	if req.Kind == rpc.Delete_DROP_MEASUREMENT {
		return []string{req.Name}, nil
	}
	sources, _, err := parseDelete(req.Statement)
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		m := s.(*influxql.Measurement) // of this type, says newCovering
		if m.Regex != nil {
			return nil, nil
		}
		names = append(names, m.Name)
	}
	return names, nil
}

// without returns the points that no newer delete removes. Writes and deletes without versions are in the order in
// which they arrive: the queue that such a write comes from was cleared of what the deletes behind it remove.
func (o *databaseRemovals) without(policy string, v order.Version, points []models.Point) []models.Point {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if v > o.newest {
		return points
	}
	removed := func(p models.Point, deletes []*removal) bool {
		return slices.ContainsFunc(deletes, func(d *removal) bool {
			return d.version > v && !(v == order.BeforeVersions && d.req.Unversioned) && d.covers(policy, p)
		})
	}
	gone := func(p models.Point) bool { return removed(p, o.others) || removed(p, o.named[string(p.Name())]) }
	if !slices.ContainsFunc(points, gone) {
		return points
	}
	return slices.DeleteFunc(slices.Clone(points), gone)
}
