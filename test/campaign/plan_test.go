package campaign

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanFollowsItsSeed(t *testing.T) {
	t.Parallel()
	opt := cmp.AllowUnexported(plan{}, fault{})
	a, b := newPlan(7, 100, 0, 0), newPlan(7, 100, 0, 0)
	if d := cmp.Diff(a, b, opt); d != "" {
		t.Error(d)
	}
	if cmp.Equal(a, newPlan(8, 100, 0, 0), opt) {
		t.Error("another seed makes the same plan")
	}
	if n := len(a.data) + len(a.meta); n != 100 {
		t.Errorf("%d faults of 100", n)
	}
}

func TestPlanNamesNodesOfTheCluster(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		p := newPlan(seed, 50, 0, 4)
		for _, f := range p.data {
			if f.node >= 4 || f.peer >= 4 || f.node == f.peer || f.kind >= metaKill {
				t.Errorf("seed %d: %v", seed, f)
			}
		}
		for _, f := range p.meta {
			if f.node >= p.metaNodes || f.kind < metaKill {
				t.Errorf("seed %d: %v", seed, f)
			}
		}
	}
}
