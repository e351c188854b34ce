package drops

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// ended is a context for those who do not wait.
func ended(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

func mustMake(t *testing.T, s written, ids ...uint64) {
	t.Helper()
	for _, id := range ids {
		err := s.CreateShard("db", "rp", id, true)
		if err == nil {
			err = s.WriteToShard(tsdb.WriteContext{}, id, []models.Point{point("a")})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The shards of a policy were closed under a delete: the process ended, or the two waited for each other for ever.
func TestNothingIsDroppedWhileADeleteRuns(t *testing.T) {
	t.Parallel()
	for what, remove := range map[string]func(*Store) error{
		"the database": func(s *Store) error { return s.DeleteDatabase("db", 0) },
		"its policy":   func(s *Store) error { return s.DeleteRetentionPolicy("db", "rp", 0) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := mustStore(t, tsdb.InmemIndexName)
			mustMake(t, s, 1)
			sh := s.Shard(1)
			end, err := s.BeginDelete(t.Context(), "db")
			if err != nil {
				t.Fatal(err)
			}
			removed := make(chan error, 1)
			go func() { removed <- remove(s.Store) }()
			for waits := false; !waits; runtime.Gosched() {
				g := s.gate("db")
				g.mu.Lock()
				waits = g.closers > 0
				g.mu.Unlock()
				select {
				case err := <-removed:
					t.Fatalf("it is removed while a delete runs: %v", err)
				default:
				}
			}
			if _, err := sh.Engine(); err != nil {
				t.Errorf("a shard is closed while a delete runs: %v", err)
			}
			if _, err := s.BeginDelete(ended(t), "db"); err == nil {
				t.Error("another delete begins although a shard is to be closed")
			}
			if end, err := s.BeginDelete(ended(t), "other"); err != nil {
				t.Errorf("a delete in another database: %v", err)
			} else {
				end()
			}
			end()
			if err := <-removed; err != nil || s.Shard(1) != nil {
				t.Errorf("it is not removed after the delete: %v", err)
			}
			end, err = s.BeginDelete(ended(t), "db")
			if err != nil {
				t.Fatal(err)
			}
			end()
		})
	}
}

// A delete that met a shard whose readers retention had blocked succeeded, and deleted nothing there.
func TestNoDeleteRunsWhileReadersAreBlocked(t *testing.T) {
	t.Parallel()
	s := mustStore(t, tsdb.TSI1IndexName)
	mustMake(t, s, 1, 2)
	running := func() bool {
		end, err := s.BeginDelete(ended(t), "db")
		if err == nil {
			end()
		}
		return err == nil
	}
	block := func(id uint64, blocked bool) {
		t.Helper()
		if err := s.SetShardNewReadersBlocked(id, blocked); err != nil {
			t.Fatal(err)
		}
	}
	block(1, true)
	if used, err := s.ShardInUse(1); err != nil || used {
		t.Errorf("in use: %v, %v", used, err)
	}
	if running() {
		t.Error("a delete runs while readers are blocked")
	}
	block(1, false)
	if !running() {
		t.Error("no delete runs when readers are back")
	}
	block(1, true)
	if err := s.DeleteShard(1); err != nil {
		t.Fatal(err)
	}
	if !running() {
		t.Error("no delete runs when the shard is gone")
	}
	if err := s.SetShardNewReadersBlocked(1, true); !errors.Is(err, tsdb.ErrShardNotFound) || !running() {
		t.Errorf("readers of a shard that is gone are blocked: %v", err)
	}
	mustMake(t, s, 3)
	block(3, true)
	if err := s.DeleteRetentionPolicy("db", "rp", 0); err != nil {
		t.Fatal(err)
	}
	if !running() {
		t.Error("no delete runs when the policy of the shard is gone")
	}
	mustMake(t, s, 2)
	if err := s.Shard(2).Close(); err != nil {
		t.Fatal(err)
	}
	block(2, true) // the engine would end the process
	if used, err := s.ShardInUse(2); err != nil || used {
		t.Errorf("a shard that is closed is in use: %v, %v", used, err)
	}
	block(2, false)
}

// A shard was taken out of the store, and stayed open with its files, when another one was closed at the moment.
func TestShardIsRemovedBesideOneThatIsClosed(t *testing.T) {
	t.Parallel()
	closed := func(sh *tsdb.Shard) error { return sh.Close() }
	disabled := func(sh *tsdb.Shard) error { sh.SetEnabled(false); return nil }
	for what, tt := range map[string]struct {
		id  uint64
		set func(*tsdb.Shard) error
	}{
		"another is closed": {2, closed}, "another is disabled": {2, disabled},
		"it is closed": {1, closed}, "it is disabled": {1, disabled},
	} {
		for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
			t.Run(what+", "+index, func(t *testing.T) {
				t.Parallel()
				s := mustStore(t, index)
				mustMake(t, s, 1, 2)
				sh := s.Shard(1)
				if err := tt.set(s.Shard(tt.id)); err != nil {
					t.Fatal(err)
				}
				if err := s.DeleteShard(1); err != nil {
					t.Error(err)
				}
				if s.Shard(1) != nil || isOpen(sh) {
					t.Error("the shard is in the store, or open")
				}
				for _, dir := range []string{sh.Path(), filepath.Join(s.EngineOptions.Config.WALDir, "db", "rp", "1")} {
					if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("%s is left: %v", dir, err)
					}
				}
				mustMake(t, s, 1)
			})
		}
	}
}
