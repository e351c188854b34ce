package fieldindex

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/influxdata/influxql"

	"concord/internal/entropy/pace"
	"concord/internal/entropy/tsmfile"
)

// Checker finds what the data files of open shards hold and their indexes do not show. The zero value is ready.
//
// The engine's files do not change. So the keys of each are walked once, and again after a delete, which may have
// taken measurements out of the index. A check of a shard that did not change costs nothing.
type Checker struct {
	mu     sync.Mutex
	shards map[uint64]*checked
}

// checked is what was found to be in order.
type checked struct {
	sync.Mutex
	engine  *tsm1.Engine
	deletes uint64
	written int64           // when the shard was last modified before the check
	files   map[string]bool // by path
}

// Hidden is a measurement of which the index of fields, or that of series, does not show everything that is in the
// files.
type Hidden struct {
	Measurement string
	Reason      string
}

func (h Hidden) String() string { return fmt.Sprintf("measurement %q: %s", h.Measurement, h.Reason) }

// Hold keeps deletes back until release. It is not ok when there was a delete since the check began, or one is under
// way. A nil Hold is for a shard in which nothing is deleted.
type Hold func() (release func(), ok bool)

// errDeletes ends a check that a delete came into.
var errDeletes = errors.New("a delete came meanwhile")

// Check returns the measurements of a shard that seem to be hidden. Deletes is a number that changes with each
// delete. It holds deletes while it reads the indexes, for microseconds at a time. When there was a delete meanwhile,
// it returns nothing. A measurement that is dropped during the check may be named. Heal looks again.
func (c *Checker) Check(ctx context.Context, sh *tsdb.Shard, deletes uint64, hold Hold) ([]Hidden, error) {
	hidden, err := c.check(ctx, sh, deletes, hold)
	if errors.Is(err, errDeletes) {
		return nil, nil
	}
	return hidden, err
}

func (c *Checker) check(ctx context.Context, sh *tsdb.Shard, deletes uint64, hold Hold) ([]Hidden, error) {
	if isUnflushed(sh) { // what was healed could not be written
		if err := Flush(sh); err != nil {
			return nil, err
		}
	}
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	s := c.checked(sh.ID())
	s.Lock()
	defer s.Unlock()
	if s.engine != engine || s.deletes != deletes {
		s.engine, s.deletes, s.written, s.files = engine, deletes, math.MinInt64, make(map[string]bool)
	}
	written := engine.LastModified().UnixNano()
	if written == s.written {
		return nil, nil
	}
	w := newWalker(ctx, engine)
	w.hold = hold
	files := make(map[string]bool)
	// The cache first: what leaves it meanwhile is in a file then.
	for _, key := range engine.Cache.Keys() {
		if err := w.key(key, cachedType(engine.Cache, key)); err != nil {
			return nil, err
		}
	}
	for _, f := range engine.FileStore.Files() {
		path := f.Path()
		if !s.files[path] {
			if err := w.file(path); err != nil {
				return nil, err
			}
		}
		files[path] = true
	}
	out, err := wrong(ctx, sh, w.found())
	if err == nil && len(out) == 0 {
		s.files, s.written = files, written
	}
	return out, err
}

// checked is what was found of a shard before.
func (c *Checker) checked(shard uint64) *checked {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shards == nil {
		c.shards = make(map[uint64]*checked)
	}
	s := c.shards[shard]
	if s == nil {
		s = &checked{}
		c.shards[shard] = s
	}
	return s
}

// wrong reads the measurements that were found, and returns those of which the indexes are not right.
func wrong(ctx context.Context, sh *tsdb.Shard, found []Hidden) (out []Hidden, err error) {
	for _, h := range found {
		m, err := readMeasurement(ctx, sh, h.Measurement)
		if err != nil {
			return nil, err
		}
		if right, err := m.right(); err != nil {
			return nil, err
		} else if !right {
			out = append(out, h)
		}
	}
	return out, nil
}

// Forget drops what is known of shards that live is not true for.
func (c *Checker) Forget(live func(uint64) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.shards, func(id uint64, _ *checked) bool { return !live(id) })
}

// restKeys are walked in some hundred microseconds.
const restKeys = 1024

// walker compares keys with the indexes.
type walker struct {
	engine *tsm1.Engine
	hold   Hold
	hidden map[string]string // reasons by measurement
	work   pace.Stint
	keys   int

	name   []byte // of the measurement of the last key, as it is in keys
	at     string // the same, as it is in indexes
	fields map[string]influxql.DataType
	known  bool // to the index of series
}

func newWalker(ctx context.Context, engine *tsm1.Engine) *walker {
	return &walker{engine: engine, hidden: make(map[string]string), work: pace.Begin(ctx)}
}

// found are the measurements that seem to be hidden, in their order.
func (w *walker) found() (out []Hidden) {
	for _, m := range slices.Sorted(maps.Keys(w.hidden)) {
		out = append(out, Hidden{m, w.hidden[m]})
	}
	return out
}

// file walks the keys of a file. One that was compacted away meanwhile is in another, which the list has or the next
// check.
func (w *walker) file(path string) error { return eachKey(w.engine, path, w.key) }

// eachKey calls fn with the keys of a file. A file that is not there any more has none.
func eachKey(engine *tsm1.Engine, path string, fn func(key []byte, typ influxql.DataType) error) (err error) {
	r, err := engine.FileStore.TSMReader(path)
	if err != nil || r == nil {
		return err
	}
	defer r.Unref()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the disk may not be able to read it
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read the keys of %s: %v", path, p)
		}
	}()
	for i, n := 0, r.KeyCount(); i < n; i++ {
		key, block := r.KeyAt(i)
		if err := fn(key, tsm1.BlockTypeToInfluxQLDataType(block)); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) key(key []byte, typ influxql.DataType) error {
	series, field := tsm1.SeriesAndFieldFromCompositeKey(key)
	if len(series) == 0 || len(field) == 0 || typ == influxql.Unknown {
		return nil
	}
	if w.keys++; w.keys%restKeys == 0 {
		if err := w.work.Rest(); err != nil {
			return err
		}
	}
	if !w.same(series) {
		if err := w.measurement(series); err != nil {
			return err
		}
	}
	if !w.known {
		w.hidden[w.at] = "the index of series does not have it"
	} else if have, ok := w.fields[string(field)]; !ok {
		w.hidden[w.at] = fmt.Sprintf("the index of fields does not have its field %q", field)
	} else if have != typ {
		// Another series may have values of the type that the index has.
		w.hidden[w.at] = fmt.Sprintf("field %q is %v in the index of fields and %v in the files", field, have, typ)
	}
	return nil
}

// same reports whether a series is of the measurement of the last key.
func (w *walker) same(series []byte) bool {
	return len(w.name) > 0 && bytes.HasPrefix(series, w.name) &&
		(len(series) == len(w.name) || series[len(w.name)] == ',')
}

func (w *walker) measurement(series []byte) (err error) {
	name := models.ParseName(series)
	w.at = string(name)
	w.name = append(w.name[:0], models.EscapeMeasurement(name)...)
	w.fields = nil
	if w.hold != nil {
		release, ok := w.hold()
		if !ok {
			return errDeletes
		}
		defer release()
	}
	if fields := w.engine.MeasurementFieldSet().FieldsByString(w.at); fields != nil {
		w.fields = fields.FieldSet()
	}
	w.known, err = w.engine.MeasurementExists(name)
	return err
}

// Heal puts measurements into the indexes of an open shard as the files have them, and returns those that were
// hidden, and their fields with values of several types. Deletes must be kept back while it runs. Queries see the
// fields as soon as it is done; the shard is not closed.
func Heal(ctx context.Context, sh *tsdb.Shard, found []Hidden) (healed []Hidden, conflicts []string, err error) {
	for _, h := range found {
		m, err := readMeasurement(ctx, sh, h.Measurement)
		if err != nil {
			return healed, conflicts, err
		}
		right, err := m.right()
		if err == nil && !right {
			err = m.heal()
			healed, conflicts = append(healed, h), append(conflicts, m.have.conflicts()...)
		}
		if err != nil {
			return healed, conflicts, fmt.Errorf("heal measurement %q of shard %d: %w", h.Measurement, sh.ID(), err)
		}
	}
	if len(healed) == 0 {
		return nil, nil, nil
	}
	return healed, conflicts, Flush(sh)
}

// measurement is what the files and the cache of a shard have of a measurement.
type measurement struct {
	name   string
	engine *tsm1.Engine
	index  tsdb.Index
	data   map[string]map[influxql.DataType]int64 // as types has it
	have   types                                  // data alone
	series map[string]bool                        // by key
}

func readMeasurement(ctx context.Context, sh *tsdb.Shard, name string) (*measurement, error) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	index, err := sh.Index()
	if err != nil {
		return nil, err
	}
	m := &measurement{name: name, engine: engine, index: index, have: make(types), series: make(map[string]bool)}
	if err := m.read(ctx); err != nil {
		return nil, fmt.Errorf("read measurement %q of shard %d: %w", name, sh.ID(), err)
	}
	m.data = m.have[name]
	return m, nil
}

func (m *measurement) read(ctx context.Context) error {
	name := models.EscapeMeasurement([]byte(m.name))
	work := pace.Begin(ctx)
	keys := 0
	add := func(key []byte, typ influxql.DataType, last func() int64) error {
		if keys++; keys%restKeys == 0 {
			if err := work.Rest(); err != nil {
				return err
			}
		}
		if series, of, field, ok := splitKey(key); ok && of == m.name && typ != influxql.Unknown {
			m.series[string(series)] = true
			m.have.add(of, field, typ, last())
		}
		return nil
	}
	for _, key := range m.engine.Cache.Keys() {
		if !bytes.HasPrefix(key, name) {
			continue
		}
		err := add(key, cachedType(m.engine.Cache, key), func() int64 {
			if v := m.engine.Cache.Values(key); len(v) > 0 {
				return v[len(v)-1].UnixNano()
			}
			return math.MinInt64
		})
		if err != nil {
			return err
		}
	}
	for _, f := range m.engine.FileStore.Files() {
		r, err := m.engine.FileStore.TSMReader(f.Path())
		if err != nil {
			return err
		}
		if r == nil {
			return errors.New("its files change: try again")
		}
		err = m.file(r, name, add)
		r.Unref()
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *measurement) file(
	r *tsm1.TSMReader, name []byte, add func([]byte, influxql.DataType, func() int64) error,
) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read the keys of %s: %v", r.Path(), p)
		}
	}()
	for i, n := r.Seek(name), r.KeyCount(); i < n; i++ {
		key, block := r.KeyAt(i)
		if !bytes.HasPrefix(key, name) {
			return nil
		}
		err := add(key, tsm1.BlockTypeToInfluxQLDataType(block), func() int64 {
			last := int64(math.MinInt64)
			for _, e := range r.Entries(key) {
				last = max(last, e.MaxTime)
			}
			return last
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fields are those that the index of fields has.
func (m *measurement) fields() map[string]influxql.DataType {
	if have := m.engine.MeasurementFieldSet().FieldsByString(m.name); have != nil {
		return have.FieldSet()
	}
	return make(map[string]influxql.DataType)
}

// right reports whether the indexes show all of the measurement. A field with values of several types has one of these.
func (m *measurement) right() (bool, error) {
	if len(m.data) == 0 {
		return true, nil
	}
	fields := m.fields()
	for f, have := range m.data {
		if _, ok := have[fields[f]]; !ok {
			return false, nil
		}
	}
	return m.engine.MeasurementExists([]byte(m.name))
}

// heal puts the measurement into the indexes as the files have it.
func (m *measurement) heal() error {
	if err := m.addSeries(); err != nil {
		return err
	}
	fields, wrong := m.fields(), false
	for f, have := range m.data {
		typ, known := fields[f]
		if _, ok := have[typ]; ok {
			continue
		}
		fields[f] = newest(have)
		wrong = wrong || known
	}
	set := m.engine.MeasurementFieldSet()
	if wrong { // no type can be changed; only the whole measurement can be made again
		set.Delete(m.name)
	}
	mf := set.CreateFieldsIfNotExists([]byte(m.name))
	for f, typ := range fields {
		if err := create(mf, m.name, f, typ); err != nil {
			return err
		}
		m.index.SetFieldName([]byte(m.name), f)
	}
	return nil
}

const seriesBatch = 10_000

// addSeries makes the index of series have those of the measurement.
func (m *measurement) addSeries() error {
	var keys, names [][]byte
	var tags []models.Tags
	flush := func() error {
		err := m.engine.CreateSeriesListIfNotExists(keys, names, tags, tsdb.NoopStatsTracker())
		keys, names, tags = nil, nil, nil
		return err
	}
	for key := range m.series {
		name, t := models.ParseKeyBytes([]byte(key))
		keys, names, tags = append(keys, []byte(key)), append(names, name), append(tags, t)
		if len(keys) == seriesBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
