package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/copystate"
	"concord/internal/entropy/tsmfile"
)

// Memory is what a node remembers of its copies of shards, durably: how they began, and what is damaged in them. It is
// there before the storage engine opens, which may find damage then.
type Memory struct {
	store   *tsdb.Store
	dir     string
	log     *zap.Logger
	began   beginnings
	damaged damagedShards
}

// NewMemory returns what is remembered, in files in dir, of the copies in a store.
func NewMemory(store *tsdb.Store, dir string, log *zap.Logger) *Memory {
	return &Memory{
		store: store, dir: dir, log: log,
		began: beginnings{dir: filepath.Join(dir, "begun")}, damaged: damagedShards{dir: filepath.Join(dir, "damaged")},
	}
}

// Aside is the folder in which what is replaced in damaged copies is kept.
func (m *Memory) Aside() string { return filepath.Join(m.dir, "aside") }

// Found notes what is damaged in a copy.
func (m *Memory) Found(id uint64, found ...*tsmfile.Damage) error {
	if len(found) == 0 {
		return nil
	}
	for _, d := range found {
		m.log.Error("A file of a shard is damaged", zap.Uint64("db_shard_id", id), zap.String("file", d.File),
			zap.Int64("offset", d.Offset), zap.String("key", d.Key), zap.String("reason", d.Reason))
	}
	message := found[0].Error()
	if n := len(found) - 1; n > 0 {
		message += fmt.Sprintf("; and %d more", n)
	}
	return m.damaged.set(id, damage{Message: message})
}

// met notes damage that a read met, and returns the error of the read.
func (m *Memory) met(id uint64, err error) error {
	var d *tsmfile.Damage
	if !errors.As(err, &d) {
		return err
	}
	return errors.Join(err, m.Found(id, d))
}

// unopened returns the engine's error for each shard that it could not open: their files are there, and nobody reads or
// writes them.
func (m *Memory) unopened() map[uint64]string {
	out := make(map[uint64]string)
	for id, err := range m.store.GetBadShardList() {
		if m.store.Shard(id) != nil { // opened since
			continue
		}
		var cause tsdb.ShardError
		if errors.As(err, &cause) {
			err = cause.Err // without what the engine says of its attempts
		}
		out[id] = "the engine could not open the shard: " + err.Error()
	}
	return out
}

// Damaged returns what is damaged, by shard.
func (m *Memory) Damaged() (map[uint64]string, error) {
	out, err := m.damaged.all()
	if err != nil {
		return nil, err
	}
	maps.Copy(out, m.unopened())
	return out, nil
}

// Damage says what is damaged in this node's copy of a shard, empty for nothing, and whether the copy can be read all
// the same.
func (m *Memory) Damage(id uint64) (reason string, readable bool) {
	d, ok, err := m.damaged.of(id)
	switch {
	case err != nil:
		return err.Error(), true
	case ok:
		return "it is damaged: " + d.Message, true
	case m.store.Shard(id) != nil:
		return "", true
	}
	return m.unopened()[id], false
}

// Has reports whether there is a copy on disk, be it one that cannot be opened.
func (m *Memory) Has(id uint64) bool { return m.store.Shard(id) != nil || m.unopened()[id] != "" }

// Healed forgets that a copy was damaged, when its damaged files were set aside.
func (m *Memory) Healed(_ context.Context, id uint64) error {
	if d, ok, err := m.damaged.of(id); err != nil || !ok || !d.Aside {
		return err
	}
	return m.damaged.remove(id)
}

// Sound forgets that a copy was damaged: all its files are verified.
func (m *Memory) Sound(id uint64) error { return m.damaged.remove(id) }

// Copies remembers, durably, which of this node's copies lack something. Package copystate has it.
type Copies interface {
	Begin(shard uint64) error
	Copied(shard uint64) error
	Whole(shard, gen uint64) error
	Lacks(shard uint64) copystate.Lack
	Waiting(shard uint64) []uint64
	Discarded(shard uint64) error
	GotUnversioned(shard uint64) error
	// Ready reports whether enough other data nodes have answered since the start: they know whether the disk of this
	// one is older than it was.
	Ready() bool
}

// Beginnings is where it is noted, durably, how this node's copies begin.
type Beginnings struct {
	Memory *Memory
	Copies Copies
}

// Begin notes that a write begins a copy.
func (b Beginnings) Begin(id uint64) error {
	if err := b.Copies.Begin(id); err != nil {
		return err
	}
	return b.Memory.began.note(id, copystate.BegunAt(time.Now()))
}

// Copied notes that a copy was made from another owner's files. The other owner may have got writes in the meantime.
func (b Beginnings) Copied(id uint64) error {
	if err := b.Copies.Copied(id); err != nil {
		return err
	}
	return b.Memory.began.note(id, copystate.FromFiles)
}

// Whole notes that a copy was found equal to the others. What it lacks stays noted when it is not what it lacked
// before the comparison, and so does its beginning.
func (b Beginnings) Whole(_ context.Context, id, gen uint64) error {
	if err := b.Copies.Whole(id, gen); err != nil || b.Copies.Lacks(id).Kind != "" {
		return err
	}
	return b.Memory.began.forget(id)
}
