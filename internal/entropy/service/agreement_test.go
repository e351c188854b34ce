package service

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
)

// mustAgree compares values of the statistic agreement.
func mustAgree(t *testing.T, s *Service, want map[string]int64) {
	t.Helper()
	got := make(map[string]int64)
	all := s.Statistics(nil)[1]
	for field := range want {
		got[field], _ = all.Values[field].(int64)
	}
	if d := cmp.Diff(want, got); d != "" || all.Name != "agreement" {
		t.Errorf("statistic %s (-want +got):\n%s", all.Name, d)
	}
}

func TestAgreement(t *testing.T) {
	// There are two shards. Nobody writes to shard 2.
	bubble("counts shards by what is known of them", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 0, "unknown": 2, "diff": 0, "oldestSec": 0})
		pass(2 * time.Minute)
		mustAgree(t, s, map[string]int64{"checkedSec": 110}) // the first check is ten seconds after the start
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 2, "unknown": 0, "checkedSec": 0})

		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 1, "unknown": 0, "diff": 1, "oldestSec": 0})
		pass(time.Hour)
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"diff": 1, "oldestSec": 3600})
		mustRepair(t, s, 1)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 2, "unknown": 0, "diff": 0, "oldestSec": 0})
	})
	bubble("a shard with an owner that is away is not known to be equal", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		c.Replicas[3].SetDown(errors.New("away"))
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 0, "unknown": 2})
		c.Replicas[3].SetDown(nil)
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"equal": 2, "unknown": 0})
	})
	bubble("tells which repairs fail and that they are paused", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		c.Replicas[3].SetDown(errors.New("away"))
		mustRepair(t, s, 1)
		mustAgree(t, s, map[string]int64{"failedQueued": 1, "paused": 0})
		if err := s.Pause(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		mustAgree(t, s, map[string]int64{"failedQueued": 1, "paused": 1})
	})
	bubble("leaves out shards that another node checks", t, func(t *testing.T, c *entropytest.Cluster) {
		c.ID = 2
		s := mustOpen(t, c, func(_ *entropy.Config, d *Deps) { d.Local = c.Replicas[2] })
		c.WriteAll(1, old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"shards": 0, "equal": 0, "unknown": 0})
		c.Replicas[1].SetDown(errors.New("away")) // now this node is the first that can be reached
		c.Replicas[3].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustCheck(t, s)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 0, "unknown": 1, "diff": 1})
	})
	bubble("a conflict is counted, and does not get old", t, func(t *testing.T, c *entropytest.Cluster) {
		s := mustOpen(t, c, nil)
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		c.Replicas[3].Write(1, "cpu,host=b", "value", old(), "text")
		pass(2 * time.Minute)
		mustCheck(t, s)
		pass(time.Hour)
		mustAgree(t, s, map[string]int64{"shards": 2, "equal": 1, "conflict": 1, "oldestSec": 0})
	})
}
