package writecache

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// deletes has a *databaseDeletes for each folder of a database.
var deletes sync.Map

// About reports whether a delete may be about a series.
type About func(measurement string, tags models.Tags) bool

// databaseDeletes are the deletes of a database.
type databaseDeletes struct {
	freeing sync.RWMutex // held for reading by deletes, and for writing while a cold shard is freed
	mu      sync.Mutex
	begun   int
	running map[int]About // what each is about, by its number: how many had begun before it
}

// deletesOf returns the deletes of the database whose folder is dir.
func deletesOf(dir string) *databaseDeletes {
	if d, ok := deletes.Load(dir); ok {
		return d.(*databaseDeletes)
	}
	d, _ := deletes.LoadOrStore(dir, new(databaseDeletes))
	return d.(*databaseDeletes)
}

// deletesOfShard returns the deletes of the database that a shard is of.
func deletesOfShard(sh *tsdb.Shard) *databaseDeletes {
	return deletesOf(filepath.Dir(filepath.Dir(sh.Path())))
}

// BeforeDelete is to be called before the engine deletes points of some series, and ended after it. Points of these
// that are written in between are looked for in the cache.
//
// The engine's delete looks whether a cache is empty, and takes no lock for that. So all caches of the database are
// allocated before, and none is freed until it ended.
func BeforeDelete(store *tsdb.Store, db string, of About) (ended func()) {
	d := deletesOf(filepath.Join(store.Path(), db))
	d.freeing.RLock()
	for _, sh := range store.Shards(store.ShardIDs()) {
		if sh.Database() != db {
			continue
		}
		if engine, err := sh.Engine(); err == nil {
			if e, ok := engine.(*tsm1.Engine); ok {
				allocate(e.Cache)
			}
		}
	}
	end := d.begin(of)
	return func() {
		end()
		d.freeing.RUnlock()
	}
}

func (d *databaseDeletes) begin(of About) (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.running == nil {
		d.running = make(map[int]About)
	}
	number := d.begun
	d.running[number] = of
	d.begun++
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, number)
	}
}

// moment says which deletes run at one time.
type moment struct {
	begun   int // how many have begun until then
	running map[int]About
}

func (d *databaseDeletes) now() moment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return moment{d.begun, maps.Clone(d.running)}
}

// ran returns a function that reports whether a delete which ran between two moments is about a series. It is nil when
// none ran. When a delete began and ended in between, it is true for all: what that one was about is not known.
func ran(from, to moment) About {
	all, unknown := slices.Collect(maps.Values(from.running)), to.begun-from.begun
	for number, of := range to.running {
		if number >= from.begun {
			all = append(all, of)
			unknown--
		}
	}
	if len(all) == 0 && unknown == 0 {
		return nil
	}
	return func(name string, tags models.Tags) bool {
		return unknown > 0 || slices.ContainsFunc(all, func(of About) bool { return of(name, tags) })
	}
}

// maxWrites is how often points are written that a delete took from the cache each time. Once is unlikely already.
const maxWrites = 10

var errTaken = errors.New("a delete took other points of this write from the cache each time: write them again")

// writeBeside writes points to a cache, among other places. When a delete runs meanwhile, it writes again what the
// delete took from the cache, although it is not about these points.
func (d *databaseDeletes) writeBeside(
	cache *tsm1.Cache, points []models.Point, write func([]models.Point) error,
) error {
	before := d.now()
	err := write(points)
	of := ran(before, d.now())
	if of == nil {
		return err
	}
	var partial tsdb.PartialWriteError
	switch {
	case err == nil:
	case errors.As(err, &partial): // the engine has moved what it took to the front
		points = points[:max(0, len(points)-partial.Dropped)]
	default:
		return err
	}
	points = slices.DeleteFunc(slices.Clone(points), func(p models.Point) bool {
		return !of(string(p.Name()), p.Tags())
	})
	for n := 1; ; n++ {
		if points = missing(cache, points); len(points) == 0 {
			return err
		}
		if n == maxWrites {
			return errTaken
		}
		if err := write(points); err != nil {
			// Not as an error of the engine: what that says is of these points alone.
			return fmt.Errorf("write again what a delete took from the cache: %v", err)
		}
	}
}

// missing returns the points of the series of which a cache lacks a value. Such a value may be in a file by now: to
// write it again does no harm. Of points with the same time, the value of the last one counts. So all points of such a
// series are returned, in their order.
func missing(cache *tsm1.Cache, points []models.Point) []models.Point {
	type field struct{ series, name string }
	wrote := make(map[field]map[int64]any) // values by time
	for _, p := range points {
		for f := p.FieldIterator(); f.Next(); {
			key := field{string(p.Key()), string(f.FieldKey())}
			if wrote[key] == nil {
				wrote[key] = make(map[int64]any)
			}
			wrote[key][p.UnixNano()] = valueOf(f)
		}
	}
	lacks := make(map[string]bool) // by series
	for f, values := range wrote {
		has := cache.Values(tsm1.SeriesFieldKeyBytes(f.series, f.name)) // in the order of time
		for at, v := range values {
			i, ok := slices.BinarySearchFunc(has, at, func(v tsm1.Value, at int64) int { return cmp.Compare(v.UnixNano(), at) })
			if !ok || has[i].Value() != v {
				lacks[f.series] = true
			}
		}
	}
	return slices.DeleteFunc(points, func(p models.Point) bool { return !lacks[string(p.Key())] })
}

// valueOf is the value of a field as the cache has it.
func valueOf(f models.FieldIterator) any {
	var v any
	switch f.Type() {
	case models.Float:
		v, _ = f.FloatValue()
	case models.Integer:
		v, _ = f.IntegerValue()
	case models.Unsigned:
		v, _ = f.UnsignedValue()
	case models.Boolean:
		v, _ = f.BooleanValue()
	case models.String:
		v = f.StringValue()
	}
	return v // of one that cannot be read the engine has taken no point
}
