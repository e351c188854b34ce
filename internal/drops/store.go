// Package drops removes shards, policies and databases from the engine's store.
package drops

import (
	"sync"

	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/keylock"
)

// Store is an engine's store of which several parts remove shards. All removals go through it.
//
// The engine takes for granted that a shard is not removed while its database is: at its end, DeleteShard changes what
// the store knows of the database, without its lock, and when the database has gone meanwhile the process ends. A plain
// server removes shards by statements and when they are too old. A data node also removes them when it sees in the
// metadata that they were dropped, which is when another node has it drop the database.
type Store struct {
	*tsdb.Store

	databases sync.RWMutex          // held for reading while something of a database is removed
	one       keylock.Locks[string] // by database, while something of it is removed
}

// New returns the store of a node. There is one for each engine's store.
func New(store *tsdb.Store) *Store { return &Store{Store: store} }

// DeleteShard is that of the engine.
func (s *Store) DeleteShard(id uint64) error {
	if sh := s.Shard(id); sh != nil {
		defer s.lock(sh.Database())()
	}
	return s.Store.DeleteShard(id)
}

// DeleteRetentionPolicy is that of the engine.
func (s *Store) DeleteRetentionPolicy(db, name string) error {
	defer s.lock(db)()
	return s.Store.DeleteRetentionPolicy(db, name)
}

// DeleteDatabase is that of the engine.
func (s *Store) DeleteDatabase(name string) error {
	s.databases.Lock()
	defer s.databases.Unlock()
	return s.Store.DeleteDatabase(name)
}

// lock waits until nothing else is removed of a database.
func (s *Store) lock(db string) (unlock func()) {
	s.databases.RLock()
	one := s.one.Of(db)
	one.Lock()
	return func() {
		one.Unlock()
		s.databases.RUnlock()
	}
}
