package service

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/pace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustOpen(t *testing.T, c *entropytest.Cluster, change func(*entropy.Config, *Deps)) *Service {
	t.Helper()
	cfg := entropy.NewConfig()
	cfg.AutoRepairDiff = false // tests ask for repairs
	deps := Deps{
		Dir: t.TempDir(), Meta: c, Local: c.Replicas[c.ID], Transport: c, Log: zap.NewNop(),
		Limit: pace.NewLimit(uint64(cfg.MaxRate)),
	}
	cfg.CheckInterval *= 1000 // tests check when they want to
	deps.After = after
	if change != nil {
		change(&cfg, &deps)
	}
	s, err := New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	s.Open()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// after is time.After, which lets the time of the bubble go on each time.
func after(d time.Duration) <-chan time.Time { return time.After(max(d, time.Nanosecond)) }

// pass lets the time of the bubble go on, and then all goroutines until they wait.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func mustCheck(t *testing.T, s *Service) {
	t.Helper()
	if err := s.CheckNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func mustRepair(t *testing.T, s *Service, id uint64) {
	t.Helper()
	if err := s.Repair(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func mustStatus(t *testing.T, s entropy.Control) entropy.NodeStatus {
	t.Helper()
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// nodes are the data nodes of a cluster, in memory.
type nodes = entropytest.Cluster

// old is a time in shard 1.
func old() int64 { return time.Now().Add(-2*entropytest.Week - entropytest.Week/2).UnixNano() }

// bubble runs a test of a new cluster.
func bubble(name string, t *testing.T, fn func(*testing.T, *nodes)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) { fn(t, entropytest.NewCluster()) })
	})
}

// shard1 is the status of a node that knows of one shard, which is 1.
func shard1(status entropy.Status) entropy.NodeStatus {
	return entropy.NodeStatus{Shards: []entropy.ShardStatus{{ID: 1, Status: status}}}
}

func wantStatus(t *testing.T, s *Service, want entropy.NodeStatus) {
	t.Helper()
	want.Enabled = true
	if d := cmp.Diff(want, mustStatus(t, s)); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
}

// wantConflicts compares the statistics about points of which owners had different values, and about repairs that ended
// with points that an owner refuses.
func wantConflicts(t *testing.T, s *Service, points, repairs int64) {
	t.Helper()
	values := s.Statistics(nil)[0].Values
	if p, r := values["conflicts"], values["repairsInConflict"]; p != points || r != repairs {
		t.Errorf("conflicts is %v and repairsInConflict %v, want %d and %d", p, r, points, repairs)
	}
}
