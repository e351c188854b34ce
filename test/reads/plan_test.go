package reads

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func all(kind) bool { return true }

func TestPlanFollowsItsSeed(t *testing.T) {
	t.Parallel()
	opt := cmp.AllowUnexported(fault{})
	if d := cmp.Diff(newPlan(7, 100, 4, all), newPlan(7, 100, 4, all), opt); d != "" {
		t.Error(d)
	}
	if cmp.Equal(newPlan(7, 100, 4, all), newPlan(8, 100, 4, all), opt) {
		t.Error("another seed makes the same plan")
	}
}

func TestPlanHasEveryKindAndNamesNodesOfTheCluster(t *testing.T) {
	t.Parallel()
	seen := make(map[kind]int)
	for _, f := range newPlan(1, 2000, 4, all) {
		seen[f.kind]++
		if f.node < 0 || f.node >= 4 || f.peer < 0 || f.peer >= 4 || f.node == f.peer {
			t.Errorf("%v", f)
		}
		if f.kind == hang && (f.hold < time.Second || f.hold > 20*time.Second) {
			t.Errorf("%v", f)
		}
	}
	for k := range kinds {
		if seen[k] < 20 {
			t.Errorf("%d of 2000 faults are of the kind %v", seen[k], k)
		}
	}
	for _, f := range newPlan(1, 50, 3, func(k kind) bool { return k == wipe }) {
		if f.kind != wipe || f.node > 2 || f.peer > 2 {
			t.Errorf("%v", f)
		}
	}
}
