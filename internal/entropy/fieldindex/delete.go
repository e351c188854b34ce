package fieldindex

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"golang.org/x/sync/errgroup"

	"concord/internal/durable"
	"concord/internal/keylock"
)

// AfterDelete runs a delete in a database, and writes the index of fields of each shard in which the delete dropped a
// measurement to disk: the engine does not log that. When it returns nothing that was dropped comes back after a
// crash. It does so as well when the delete failed, as a part of it may have run.
func AfterDelete(store *tsdb.Store, database string, run func() error) error {
	before := measurements(store, database)
	failed := run()
	var flushes errgroup.Group
	flushes.SetLimit(runtime.GOMAXPROCS(0))
	for _, sh := range shardsOf(store, database) {
		set := fieldSet(sh)
		if had, known := before[sh]; set == nil || known && !dropped(set, had) && !isUnflushed(sh) {
			continue
		}
		flushes.Go(func() error {
			err := Flush(sh)
			if store.Shard(sh.ID()) != sh { // it was removed meanwhile
				setUnflushed(sh, false)
				return nil
			}
			return err
		})
	}
	unwritten := flushes.Wait()
	if failed != nil && unwritten != nil {
		return fmt.Errorf("%w; %w", failed, unwritten) // in one line
	}
	return errors.Join(failed, unwritten)
}

func shardsOf(store *tsdb.Store, database string) (out []*tsdb.Shard) {
	for _, sh := range store.Shards(store.ShardIDs()) {
		if sh.Database() == database {
			out = append(out, sh)
		}
	}
	return out
}

// fieldSet is the index of fields of a shard, nil when the shard is not open.
func fieldSet(sh *tsdb.Shard) *tsdb.MeasurementFieldSet {
	e, err := sh.Engine()
	if err != nil {
		return nil
	}
	return e.MeasurementFieldSet()
}

// measurements are those of each shard of a database. A measurement that is dropped and made again is another value.
func measurements(store *tsdb.Store, database string) map[*tsdb.Shard]map[string]*tsdb.MeasurementFields {
	out := make(map[*tsdb.Shard]map[string]*tsdb.MeasurementFields)
	for _, sh := range shardsOf(store, database) {
		set := fieldSet(sh)
		if set == nil {
			continue
		}
		names := set.MeasurementNames()
		m := make(map[string]*tsdb.MeasurementFields, len(names))
		for _, name := range names {
			m[name] = set.FieldsByString(name)
		}
		out[sh] = m
	}
	return out
}

func dropped(set *tsdb.MeasurementFieldSet, had map[string]*tsdb.MeasurementFields) bool {
	for name, fields := range had {
		if set.FieldsByString(name) != fields {
			return true
		}
	}
	return false
}

// unflushed are the shards whose index of fields could not be written after a delete: the next one tries again.
var unflushed struct {
	sync.Mutex
	m map[*tsdb.Shard]bool
}

func isUnflushed(sh *tsdb.Shard) bool {
	unflushed.Lock()
	defer unflushed.Unlock()
	return unflushed.m[sh]
}

func setUnflushed(sh *tsdb.Shard, is bool) {
	unflushed.Lock()
	defer unflushed.Unlock()
	if !is {
		delete(unflushed.m, sh)
		return
	}
	if unflushed.m == nil {
		unflushed.m = make(map[*tsdb.Shard]bool)
	}
	unflushed.m[sh] = true
}

// flushing is held while the index of a shard is written: the engine's temporary file has one name. By shard.
var flushing keylock.Locks[uint64]

// HoldIndexes keeps the indexes of fields of shards for its caller until release is called: nobody else writes them.
func HoldIndexes(shards ...*tsdb.Shard) (release func()) {
	var ids []uint64
	for _, sh := range shards {
		ids = append(ids, sh.ID())
	}
	slices.Sort(ids) // so that nobody waits for one who waits for them
	ids = slices.Compact(ids)
	for _, id := range ids {
		flushing.Of(id).Lock()
	}
	return func() {
		for _, id := range ids {
			flushing.Of(id).Unlock()
		}
	}
}

// BeforeClose is to be called before the engine closes a shard, and release after it. Closing a shard writes its index
// of fields when that has a log. Where that fails, the engine closes the shard only in part, and ends the process when
// the shard is used or closed again. It fails on a full disk, and while a delete writes the same index. So the index is
// written here, and the shard is to stay open when that fails.
func BeforeClose(sh *tsdb.Shard) (release func(), err error) {
	release = HoldIndexes(sh)
	was := isUnflushed(sh)
	if err := FlushHeld(sh); err != nil {
		setUnflushed(sh, was) // it is for deletes
		release()
		return nil, err
	}
	return release, nil
}

// BeforeDrop is BeforeClose for shards that are to go. When an index cannot be written, its log is removed.
func BeforeDrop(shards ...*tsdb.Shard) (release func()) {
	release = HoldIndexes(shards...)
	var writes errgroup.Group
	writes.SetLimit(32) // they wait for the disk
	for _, sh := range shards {
		set := fieldSet(sh)
		if set == nil {
			continue
		}
		writes.Go(func() error {
			if _, err := os.Lstat(set.ChangesPath()); err == nil && Write(sh, set) != nil {
				_ = os.Remove(set.ChangesPath()) // the engine does it where it could make a file
			}
			return nil
		})
	}
	writes.Wait()
	return release
}

// Write writes the index of fields of a shard that is held. A file that a crash left half written would stand in the
// way.
func Write(sh *tsdb.Shard, set *tsdb.MeasurementFieldSet) error {
	err := set.WriteToFile()
	if errors.Is(err, fs.ErrExist) {
		if err := os.Remove(filepath.Join(sh.Path(), File+".tmp")); err != nil {
			return err
		}
		err = set.WriteToFile()
	}
	return err
}

// Flush writes the index of fields of an open shard to disk, durably.
func Flush(sh *tsdb.Shard) error {
	defer HoldIndexes(sh)()
	return FlushHeld(sh)
}

// FlushUnflushed is Flush for a shard whose index could not be written before; it does nothing with any other one.
func FlushUnflushed(sh *tsdb.Shard) error {
	if !isUnflushed(sh) {
		return nil
	}
	return Flush(sh)
}

// FlushHeld is Flush for one who holds the index.
func FlushHeld(sh *tsdb.Shard) (err error) {
	defer func() {
		if p := recover(); p != nil { // the shard was closed meanwhile
			err = fmt.Errorf("%v", p)
		}
		if err != nil {
			err = fmt.Errorf("write the index of fields of shard %d: %w", sh.ID(), err)
		}
		setUnflushed(sh, err != nil)
	}()
	set := fieldSet(sh)
	if set == nil {
		return errors.New("the shard is not open")
	}
	for range flushTries {
		again, changed, err := flush(sh, set)
		if err != nil {
			return fmt.Errorf("%w%s", err, relog(set))
		}
		if changed {
			continue
		}
		if len(again) > 0 {
			return set.Save(again)
		}
		return nil
	}
	return errors.New("its measurements are dropped and made again all the time: run the delete again")
}

const flushTries = 100

// relog logs all fields again when the log is gone: the engine removes it also when it could not write the index.
// Where the log then contradicts the index, the next start rebuilds both. It returns what to add to the error.
func relog(set *tsdb.MeasurementFieldSet) string {
	if _, err := os.Lstat(set.ChangesPath()); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err := set.Save(additions(fieldsOf(set), nil)); err != nil {
		return "; and log its fields: " + err.Error()
	}
	return ""
}

// additions are the fields that are not in have, to be logged.
func additions(fields, have map[string]map[string]influxql.DataType) (out tsdb.FieldChanges) {
	for name, fields := range fields {
		for field, typ := range fields {
			if _, ok := have[name][field]; !ok {
				out = append(out, &tsdb.FieldChange{
					FieldCreate: tsdb.FieldCreate{
						Measurement: []byte(name), Field: &tsdb.Field{Name: field, Type: typ},
					},
					ChangeType: tsdb.AddMeasurementField,
				})
			}
		}
	}
	return out
}

// flush writes the index once. The engine writes fields.idx and then removes the log. What writes add to the log in
// between would be gone with it, and a crash would hide these fields. So flush returns the fields that were made
// meanwhile, to be logged again. It is changed when a field got another type meanwhile: the file may have either.
func flush(sh *tsdb.Shard, set *tsdb.MeasurementFieldSet) (again tsdb.FieldChanges, changed bool, err error) {
	have := fieldsOf(set)
	if err := Write(sh, set); err != nil {
		return nil, false, err
	}
	// The engine syncs the folder before it removes the log: after a power loss the log could be back.
	if err := durable.SyncDir(sh.Path()); err != nil {
		return nil, false, err
	}
	now := fieldsOf(set)
	for name, fields := range have {
		for field, typ := range fields {
			changed = changed || now[name][field] != typ
		}
	}
	return additions(now, have), changed, nil
}

func fieldsOf(set *tsdb.MeasurementFieldSet) map[string]map[string]influxql.DataType {
	out := make(map[string]map[string]influxql.DataType)
	for _, name := range set.MeasurementNames() {
		if fields := set.FieldsByString(name); fields != nil {
			out[name] = fields.FieldSet()
		}
	}
	return out
}
