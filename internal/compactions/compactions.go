// Package compactions holds off the compactions of a shard's files.
//
// The engine has one switch for the compactions of a shard and for the snapshots of its cache. Several parts turn it: the
// store allows both to a shard that is written to, and forbids them to one that is idle. Whoever replaces files needs
// them off until the end. So the store asks here, and does not turn the switch on while somebody holds them off.
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
	holders = map[*tsm1.Engine]int{}
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
	count(engine, 1)
	l.Unlock()
	engine.SetCompactionsEnabled(false)
	engine.Compactor.EnableSnapshots()
	return sync.OnceFunc(func() {
		l.Lock()
		defer l.Unlock()
		left := count(engine, -1)
		if now, err := sh.Engine(); left == 0 && err == nil && now == engine { // and not closed meanwhile
			engine.SetCompactionsEnabled(true)
		}
	}), nil
}

// Allow lets a shard write its cache to a file. It also lets it compact its files, if nobody holds that off.
func Allow(sh *tsdb.Shard) {
	engine, err := tsmfile.EngineOf(sh)
	if err != nil {
		return // it is closed
	}
	l := locks.Of(sh.Path())
	l.Lock()
	defer l.Unlock()
	if count(engine, 0) == 0 { // else its cache can be written already
		engine.SetCompactionsEnabled(true)
	}
}

// count changes the number of those who hold off the compactions of an engine, and returns it.
func count(engine *tsm1.Engine, by int) int {
	mu.Lock()
	defer mu.Unlock()
	n := holders[engine] + by
	if holders[engine] = n; n == 0 {
		delete(holders, engine)
	}
	return n
}
