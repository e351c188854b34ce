package service

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/patch"
)

func TestDryRun(t *testing.T) {
	t.Parallel()
	bubble("it counts, and changes nothing", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		at := old()
		c.WriteAll(1, at, 1.0)
		for i := range int64(5) {
			c.Replicas[2].Write(1, "cpu,host=new", "value", at+i, 2.0)
		}
		c.Replicas[3].Write(1, "cpu,host=new", "value", at, 3.0)
		before := c.Replicas[1].Dump(1) + c.Replicas[2].Dump(1) + c.Replicas[3].Dump(1)
		pass(2 * time.Minute)
		d, err := s.Diff(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var pairs []patch.Compared
		for _, p := range d.Pairs {
			pairs = append(pairs, p.Compared)
		}
		want := []patch.Compared{{LackingA: 5}, {LackingA: 1}, {LackingB: 4, ValueConflicts: 1}}
		if diff := cmp.Diff(want, pairs); diff != "" {
			t.Errorf("pairs of owners (-want +got):\n%s", diff)
		}
		if d.Count != 1 || len(d.Fields) != 1 || d.Fields[0].Series != "cpu,host=new" || d.Bytes == 0 || len(d.Owners) != 3 {
			t.Fatalf("%+v", d)
		}
		if d.Fields[0].Start > at || d.Fields[0].End <= at+4 {
			t.Errorf("the range [%d, %d) does not have the points at %d", d.Fields[0].Start, d.Fields[0].End, at)
		}
		if before != c.Replicas[1].Dump(1)+c.Replicas[2].Dump(1)+c.Replicas[3].Dump(1) {
			t.Error("a dry run changed something")
		}
		if _, err := s.Diff(t.Context(), 99); !errors.Is(err, entropy.ErrUnknownShard) {
			t.Errorf("an unknown shard: %v", err)
		}
	})
	bubble("it shows who has which value of which version, and which wins", t, func(t *testing.T, c *nodes) {
		s := mustOpen(t, c, nil)
		at := old()
		for id, r := range c.Replicas {
			r.Write(1, "cpu,host=a", "value", at, min(float64(id), 2)) // 2 is with the majority
			r.PointVersions = func(patch.Region) uint64 { return map[uint64]uint64{1: 29, 2: 28}[id] }
		}
		pass(2 * time.Minute)
		held := []entropy.Held{
			{Node: "data1:8088", Value: "1", Version: 29}, {Node: "data2:8088", Value: "2", Version: 28},
			{Node: "data3:8088", Value: "2"},
		}
		want := entropy.Decision{
			Series: "cpu,host=a", Field: "value", Time: at, Value: "1", Why: patch.WhyNewer, Held: held,
		}
		diff := func() []entropy.Decision {
			t.Helper()
			d, err := s.Diff(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			return d.Decided
		}
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Error(d)
		}
		c.Replicas[3].Change(func() { c.Replicas[3].Shards[1].Lack = copystate.Lack{Kind: copystate.Missed, Gen: 1} })
		c.Replicas[1].PointVersions = nil
		want.Value, want.Why = "2", patch.WhyOrder
		held[0].Version = 0
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Errorf("when the third lacks writes: %s", d)
		}
		c.Replicas[2].Write(1, "cpu,host=a", "value", at, 1.0)
		c.Replicas[2].PointVersions = nil
		held[1].Version, held[1].Value, want.Value, want.Why = 0, "1", "1", patch.WhyWhole
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Errorf("when the other two agree: %s", d)
		}
		c.Replicas[3].SetDown(entropytest.ErrAway)
		c.Replicas[2].Write(1, "cpu,host=a", "value", at, 2.0)
		want.Value, want.Why, want.Open, want.Held = "", patch.WhyAbsent, true, held[:2]
		held[1].Value = "2"
		if d := cmp.Diff([]entropy.Decision{want}, diff()); d != "" {
			t.Errorf("when the third is away: %s", d)
		}
	})
}
