package scrub

import (
	"fmt"
	"hash/crc32"
	"path/filepath"
	"runtime/debug"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
)

// Checker checks the blocks that a read of points is about to use: the engine's cursors do not, and
// a value out of a damaged block would pass for the truth.
type Checker struct {
	files   []*tsm1.TSMReader
	key     []byte
	entries []tsm1.IndexEntry
}

// engineOf returns the shard's engine.
func engineOf(shard *tsdb.Shard) (*tsm1.Engine, error) {
	e, err := shard.Engine()
	if err != nil {
		return nil, err
	}
	engine, ok := e.(*tsm1.Engine)
	if !ok {
		return nil, fmt.Errorf("shard %d has the unknown engine %T", shard.ID(), e)
	}
	return engine, nil
}

// NewChecker holds the files that the shard has now until Close.
func NewChecker(shard *tsdb.Shard) (*Checker, error) {
	engine, err := engineOf(shard)
	if err != nil {
		return nil, err
	}
	c := &Checker{}
	for _, file := range engine.FileStore.Files() {
		r, err := engine.FileStore.TSMReader(file.Path()) // holds it open
		if err != nil {
			c.Close()
			return nil, err
		}
		if r != nil { // else it was compacted
			c.files = append(c.files, r)
		}
	}
	return c, nil
}

// Close lets the files go.
func (c *Checker) Close() {
	for _, r := range c.files {
		r.Unref()
	}
	c.files = nil
}

// Check returns a *Damage when a block with points of a series-field in [min, max] is damaged.
func (c *Checker) Check(series []byte, field string, min, max int64) (err error) {
	c.key = append(append(append(c.key[:0], series...), keyFieldSeparator...), field...)
	at := &Damage{Key: string(c.key)}
	// A file that has become shorter is a fault of its mapping.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			at.Reason = fmt.Sprint(r)
			err = at
		}
	}()
	for _, f := range c.files {
		if !f.OverlapsTimeRange(min, max) || !f.OverlapsKeyRange(c.key, c.key) {
			continue
		}
		c.entries = f.ReadEntries(c.key, &c.entries)
		for i := range c.entries {
			e := &c.entries[i]
			if e.MaxTime < min || e.MinTime > max {
				continue
			}
			at.File, at.Offset = filepath.Base(f.Path()), e.Offset
			sum, b, err := f.ReadBytes(e, nil)
			if err != nil {
				at.Reason = err.Error()
				return at
			}
			if crc32.ChecksumIEEE(b) != sum {
				at.Reason = "its checksum is wrong"
				return at
			}
		}
	}
	return nil
}
