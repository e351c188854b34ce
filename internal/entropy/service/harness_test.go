package service

import (
	"testing"
	"testing/synctest"
	"time"

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
	if change != nil {
		change(&cfg, &deps)
	}
	deps.After = func(d time.Duration) <-chan time.Time {
		if d <= 0 {
			return time.After(time.Nanosecond)
		}
		return time.After(d)
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
