// Package compactions holds off the compactions of a shard's files.
//
// The engine has one switch for the compactions of a shard and for the snapshots of its cache. Several parts turn it:
// the store allows both to a shard that is written to, and forbids them to one that is idle. The engine itself allows
// them when an idle shard is written to, and at the end of a delete. Whoever replaces files needs compactions off until
// the end. So the store asks here, and does not turn the switch on while somebody holds them off. Where the engine does
// so, its planner finds out with Held that there is nothing to compact (package scrub).
package compactions

import (
	"sync"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/tsmfile"
	"concord/internal/keylock"
)

var (
	locks   keylock.Locks[string] // by the shard's folder: held while the switch is turned on
	holders = map[*tsm1.FileStore]int{}
	mu      sync.Mutex // for holders
)

// Hold ends the compactions of a shard that run, and lets none begin until release. Its cache can be written to a file
// meanwhile. An empty cache is given back, so that nothing may be written to the shard when Hold is called.
func Hold(sh *tsdb.Shard) (release func(), err error) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return nil, err
	}
	l := locks.Of(sh.Path())
	l.Lock()
	defer l.Unlock()
	count(engine.FileStore, 1)
	engine.SetCompactionsEnabled(false)
	engine.Compactor.EnableSnapshots()
	return sync.OnceFunc(func() {
		l.Lock()
		defer l.Unlock()
		left := count(engine.FileStore, -1)
		if now, err := sh.Engine(); left == 0 && err == nil && now == engine { // and not closed meanwhile
			engine.SetCompactionsEnabled(true)
		}
	}), nil
}

// Interrupt ends the compactions of a shard that run, as soon as they see it, and lets none begin until release. It
// changes nothing else.
func Interrupt(sh *tsdb.Shard) (release func()) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return func() {} // it is closed
	}
	count(engine.FileStore, 1)
	engine.Compactor.DisableCompactions() // those that run end
	engine.Compactor.EnableCompactions()
	return sync.OnceFunc(func() { count(engine.FileStore, -1) })
}

// Allow lets a shard write its cache to a file. It also lets it compact its files, if nobody holds that off.
func Allow(sh *tsdb.Shard) {
	l := locks.Of(sh.Path())
	l.Lock()
	defer l.Unlock()
	engine, err := tsmfile.EngineOf(sh)
	if err == nil && !Held(engine.FileStore) { // else it is closed, or its cache can be written already
		engine.SetCompactionsEnabled(true)
	}
}

// Held reports whether somebody holds off the compactions of a shard with these files.
func Held(files *tsm1.FileStore) bool { return count(files, 0) > 0 }

// BeforeClose is to be called before the engine closes a shard, and release after it. It ends the compactions that run.
// None begins while the shard is being closed: it would run for ever.
func BeforeClose(sh *tsdb.Shard) (release func()) {
	l := locks.Of(sh.Path())
	l.Lock()
	sh.SetCompactionsEnabled(false)
	return l.Unlock
}

// count changes the number of those who hold off the compactions of a shard with these files, and returns it.
func count(files *tsm1.FileStore, by int) int {
	mu.Lock()
	defer mu.Unlock()
	n := holders[files] + by
	if holders[files] = n; n == 0 {
		delete(holders, files)
	}
	return n
}
