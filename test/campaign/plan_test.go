package campaign

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlanFollowsItsSeed(t *testing.T) {
	t.Parallel()
	opt := cmp.AllowUnexported(plan{}, fault{})
	a, b := newPlan(7, 100, 0, 0, 0), newPlan(7, 100, 0, 0, 0)
	if d := cmp.Diff(a, b, opt); d != "" {
		t.Error(d)
	}
	if cmp.Equal(a, newPlan(8, 100, 0, 0, 0), opt) {
		t.Error("another seed makes the same plan")
	}
	if n := len(a.data) + len(a.clocks) + len(a.meta); n != 100 {
		t.Errorf("%d faults of 100", n)
	}
}

func TestPlanNamesNodesOfTheCluster(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		p := newPlan(seed, 50, 0, 4, 0)
		for _, f := range p.data {
			if f.node >= 4 || f.peer >= 4 || f.node == f.peer || f.kind >= clock {
				t.Errorf("seed %d: %v", seed, f)
			}
		}
		for _, f := range p.clocks {
			if f.node >= 4 || f.kind != clock || f.skew.Abs() > maxSkew {
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

func TestPlansHaveEveryKindAndTwoOrThreeCopies(t *testing.T) {
	t.Parallel()
	weights := 0
	for _, s := range sorts {
		weights += s.weight
	}
	if weights != 100 {
		t.Errorf("the weights of the kinds are %d in a hundred", weights)
	}
	seen := make(map[kind]int)
	copies := make(map[int]int)
	for seed := range uint64(20) {
		p := newPlan(seed, 100, 0, 0, 0)
		if copies[p.copies]++; p.dataNodes < p.copies || p.dataNodes >= 2*p.copies {
			t.Errorf("seed %d: %d data nodes, %d copies: not one shard in a group", seed, p.dataNodes, p.copies)
		}
		for _, f := range slices.Concat(p.data, p.clocks, p.meta) {
			seen[f.kind]++
		}
	}
	for k := range kinds {
		if seen[k] < 10 {
			t.Errorf("%d of 2000 faults are of the kind %v", seen[k], k)
		}
	}
	if copies[2] < 3 || copies[3] < 3 || len(copies) != 2 {
		t.Errorf("campaigns by copies: %v", copies)
	}
}
