package replication

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/replication/replicationtest"
)

// newShard is a store without the shard until it is created. Its first two writes both find it missing.
type newShard struct {
	both    sync.WaitGroup
	writes  atomic.Int32
	created atomic.Bool
}

func (s *newShard) WriteToShard(tsdb.WriteContext, uint64, []models.Point) error {
	if s.created.Load() {
		return nil
	}
	if s.writes.Add(1) <= 2 {
		s.both.Done()
		s.both.Wait()
	}
	return tsdb.ErrShardNotFound
}

func (s *newShard) CreateShard(string, string, uint64, bool) error {
	s.created.Store(true)
	return nil
}

// countedCopies counts how often a copy begins.
type countedCopies struct {
	replicationtest.NoCopies
	n atomic.Int32
}

func (c *countedCopies) Begin(uint64) error { c.n.Add(1); return nil }

func TestTwoFirstWritesBeginACopyOnce(t *testing.T) {
	t.Parallel()
	s := &newShard{}
	s.both.Add(2)
	var begun countedCopies
	w := &ownCopies{Deps: Deps{Meta: replicationtest.Member{Meta: &replicationtest.Meta{}}, Shards: s, Copies: &begun}}
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if err := w.writeStore(tsdb.WriteContext{}, 1, "db", "rp", nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := begun.n.Load(); n != 1 {
		t.Errorf("the copy was begun %d times", n)
	}
}
