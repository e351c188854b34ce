package service

import (
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
)

func TestRepairID(t *testing.T) {
	bubble("is in records and the log, the same for all attempts", t, func(t *testing.T, c *entropytest.Cluster) {
		core, logs := observer.New(zapcore.DebugLevel)
		dir := t.TempDir()
		open := func() *Service {
			return mustOpen(t, c, func(_ *entropy.Config, d *Deps) { d.Dir, d.Log = dir, zap.New(core) })
		}
		ids := func(s *Service) (out []string) {
			all, err := s.Repairs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range all.Repairs {
				out = append(out, r.ID())
			}
			return out
		}
		s := open()
		c.WriteAll(1, old(), 1.0)
		c.Replicas[2].Write(1, "cpu,host=b", "value", old(), 1.0)
		pass(2 * time.Minute)
		c.Replicas[3].SetDown(entropy.ErrOnItsWay)
		mustRepair(t, s, 1)
		pass(time.Minute)
		first := ids(s)
		if len(first) < 2 || first[0] == "" {
			t.Fatalf("a repair that failed: %q", first)
		}
		want := first[0]
		s.Close()
		s = open()
		c.Replicas[3].SetDown(nil)
		pass(10 * time.Minute)
		for _, id := range append(first, ids(s)...) {
			if id != want {
				t.Errorf("the same repair is %s and %s", want, id)
			}
		}
		said := make(map[string]bool)
		for _, e := range logs.FilterField(zap.String("repair_id", want)).All() {
			said[e.Message] = true
		}
		for _, message := range []string{"Repair was asked for", "Repair done"} {
			if !said[message] {
				t.Errorf("the log does not name the repair in %q: %v", message, said)
			}
		}
		c.Replicas[2].Write(1, "cpu,host=c", "value", old(), 1.0)
		pass(2 * time.Minute)
		mustRepair(t, s, 1)
		pass(time.Minute)
		if again := ids(s); len(again) == 0 || again[0] == want {
			t.Errorf("another repair of the shard has the same ID: %q", again)
		}
	})
}
