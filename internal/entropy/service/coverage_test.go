package service

import (
	"slices"
	"testing"
	"testing/synctest"

	"concord/internal/entropy/entropytest"
)

func TestCoverageSaysWhichShardsWereNotComparedYet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := entropytest.NewCluster()
		s := mustOpen(t, c, nil)
		before := s.Coverage()
		if !before.Checked.IsZero() || len(before.Unchecked) == 0 {
			t.Fatalf("before the first check: %+v", before)
		}
		mustCheck(t, s)
		after := s.Coverage()
		if after.Checked.IsZero() || len(after.Unchecked) != 0 {
			t.Errorf("after a check: %+v, and before it %v were not checked", after, before.Unchecked)
		}
		for _, id := range before.Unchecked {
			if s.Compared(id).IsZero() {
				t.Errorf("shard %d was not compared", id)
			}
		}
		if slices.Contains(before.Unchecked, 0) {
			t.Error("shard 0 does not exist")
		}
	})
}

func TestMaxRateChangesWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := mustOpen(t, entropytest.NewCluster(), nil)
		for _, bytes := range []uint64{1 << 20, 0, 5 << 20} {
			if err := s.SetMaxRate(t.Context(), bytes); err != nil {
				t.Fatal(err)
			}
			if all, err := s.Repairs(t.Context()); err != nil || all.MaxRate != bytes {
				t.Errorf("%v: the rate is %d, not %d", err, all.MaxRate, bytes)
			}
		}
	})
}
