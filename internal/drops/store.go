// Package drops removes shards, policies and databases from the engine's store, and makes shards in it meanwhile.
package drops

import (
	"sync"
	"time"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/keylock"
)

// Store is an engine's store of which several parts remove shards. All of them remove through it, for the engine takes
// three things for granted that hold on a plain server most of the time, and not on a data node. This one removes
// shards by statements and when they are too old, and also when it sees in the metadata that they were dropped.
//
// A shard is not removed while its database is. At its end, DeleteShard changes what the store knows of the database,
// without its lock, and when the database has gone meanwhile the process ends.
//
// A shard is not made while its database or its policy is removed. The engine removes their folder at its end, and
// forgets the shards that it found at its beginning. One that was made in between would lose its files and stay known,
// and removing it later would end the process.
//
// Nothing is written to a shard that is removed. With the index in memory, DeleteShard holds the list of the shard's
// series and waits for the index. A write that creates a series holds the index and waits for the list.
type Store struct {
	*tsdb.Store

	hold      func(shard uint64) (release func())
	databases sync.RWMutex          // held for reading while something of a database is removed
	one       keylock.Locks[string] // by database, while something of it is removed
	making    keylock.Locks[string] // by database, for reading while a shard is made, and while it or a policy is removed
}

// New returns the store of a node. There is one for each engine's store. hold waits for the writes to a shard that are
// under way, and has others wait until release; nil is for a store to which nothing is written meanwhile.
func New(store *tsdb.Store, hold func(shard uint64) (release func())) *Store {
	return &Store{Store: store, hold: hold}
}

// CreateShard is that of the engine.
func (s *Store) CreateShard(db, policy string, id uint64, enabled bool) error {
	making := s.making.Of(db)
	making.RLock()
	defer making.RUnlock()
	return s.Store.CreateShard(db, policy, id, enabled)
}

// DeleteShard is that of the engine.
func (s *Store) DeleteShard(id uint64) error {
	sh := s.Shard(id)
	if sh == nil || s.hold == nil {
		return s.DeleteHeldShard(id)
	}
	// Later writes are to fail: one that waited for the end would make the shard anew.
	release := sync.OnceFunc(s.hold(id))
	defer release()
	ended, released := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(released)
		s.awaitGone(sh, ended)
		release()
	}()
	defer func() { close(ended); <-released }()
	return s.DeleteHeldShard(id)
}

// awaitGone returns when the engine has begun to remove a shard: it does not find it any more.
func (s *Store) awaitGone(sh *tsdb.Shard, ended <-chan struct{}) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Shard(sh.ID()) == sh {
		select {
		case <-tick.C:
		case <-ended:
			return
		}
	}
}

// DeleteHeldShard is DeleteShard for one who holds the writes to the shard.
func (s *Store) DeleteHeldShard(id uint64) error {
	if sh := s.Shard(id); sh != nil {
		defer s.lock(sh.Database())()
	}
	return s.Store.DeleteShard(id)
}

// DeleteRetentionPolicy is that of the engine.
func (s *Store) DeleteRetentionPolicy(db, name string) error {
	defer s.lock(db)()
	making := s.making.Of(db)
	making.Lock()
	defer making.Unlock()
	return s.Store.DeleteRetentionPolicy(db, name)
}

// DeleteDatabase is that of the engine.
func (s *Store) DeleteDatabase(name string) error {
	s.databases.Lock()
	defer s.databases.Unlock()
	making := s.making.Of(name)
	making.Lock()
	defer making.Unlock()
	return s.Store.DeleteDatabase(name)
}

// lock waits until nothing else is removed of a database. Who holds writes takes it after them.
func (s *Store) lock(db string) (unlock func()) {
	s.databases.RLock()
	one := s.one.Of(db)
	one.Lock()
	return func() {
		one.Unlock()
		s.databases.RUnlock()
	}
}
