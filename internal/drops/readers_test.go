package drops

import (
	"errors"
	"testing"
	"time"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"

	"concord/internal/entropy/tsmfile"
)

var removals = map[string]func(*Store) error{
	"the shard":    func(s *Store) error { return s.DeleteShard(1) },
	"the policy":   func(s *Store) error { return s.DeleteRetentionPolicy("db", "rp", 0) },
	"the database": func(s *Store) error { return s.DeleteDatabase("db", 0) },
}

// mustRead makes a shard, and begins to read its file.
func mustRead(t *testing.T, s written) (sh *tsdb.Shard, files *tsm1.FileStore, end func()) {
	t.Helper()
	mustMake(t, s, 1)
	sh = s.Shard(1)
	engine, err := tsmfile.EngineOf(sh)
	if err == nil {
		err = engine.WriteSnapshot()
	}
	if err != nil {
		t.Fatal(err)
	}
	files = engine.FileStore
	r, err := files.TSMReader(files.Files()[0].Path())
	if err != nil {
		t.Fatal(err)
	}
	return sh, files, r.Unref
}

// A query that had begun to read a shard asked for it once more. It waited for the end of the drop, which waited for
// the end of the query.
func TestQueryEndsWhileItsShardIsDropped(t *testing.T) {
	t.Parallel()
	for what, remove := range removals {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.TSI1IndexName)
			sh, files, end := mustRead(t, s)
			removed := make(chan error, 1)
			go func() { removed <- remove(s.Store) }()
			for blocked := false; !blocked; {
				select {
				case err := <-removed:
					t.Fatalf("it is removed while a query reads it: %v", err)
				default:
					_, err := files.TSMReader("")
					blocked = errors.Is(err, tsm1.ErrNewReadersBlocked)
				}
			}
			if _, err := sh.Engine(); err != nil {
				t.Errorf("the query finds its shard closed: %v", err)
			}
			if _, err := s.BeginDelete(ended(t), "db"); err == nil {
				t.Error("a delete runs that finds nothing in the shard")
			}
			end()
			if err := <-removed; err != nil || s.Shard(1) != nil {
				t.Errorf("it is not removed after the query: %v", err)
			}
		})
	}
}

func TestShardOfAQueryThatDoesNotEndStays(t *testing.T) {
	t.Parallel()
	for what, remove := range removals {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.TSI1IndexName)
			s.readersEnd = time.Millisecond
			sh, files, end := mustRead(t, s)
			if err := remove(s.Store); !errors.Is(err, errReaders) || s.Shard(1) != sh {
				t.Fatalf("the shard is removed, with the error %v", err)
			}
			if _, err := files.TSMReader(""); err != nil {
				t.Errorf("nobody can read it any more: %v", err)
			}
			endDelete, err := s.BeginDelete(ended(t), "db")
			if err != nil {
				t.Fatalf("no delete can run any more: %v", err)
			}
			endDelete()
			end()
			s.readersEnd = time.Minute
			if err := remove(s.Store); err != nil || s.Shard(1) != nil {
				t.Errorf("it is not removed when the query has ended: %v", err)
			}
		})
	}
}
