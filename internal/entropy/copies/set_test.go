package copies

import (
	"slices"
	"testing"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy"
)

// A copy that was made of another one's files has no vote beside those that lack writes: it would vote twice for that
// one.
func TestWithoutVote(t *testing.T) {
	t.Parallel()
	whole := entropy.ShardState{Version: entropy.Version{Exists: true}}
	made, damaged, missed, stale := whole, whole, whole, whole
	made.Beginning = copystate.FromFiles
	damaged.Corrupt = "000001.tsm"
	missed.Lack.Kind, stale.Lack.Kind = copystate.Missed, copystate.Stale
	for _, tt := range []struct {
		states []entropy.ShardState
		want   []bool
	}{
		{[]entropy.ShardState{whole, whole, whole}, []bool{false, false, false}},
		{[]entropy.ShardState{whole, missed, made}, []bool{false, true, true}},
		{[]entropy.ShardState{missed, missed, made}, []bool{false, false, true}},
		{[]entropy.ShardState{missed, made}, []bool{false, false}}, // one would decide alone
		{[]entropy.ShardState{missed, stale, damaged}, []bool{false, true, false}},
		{[]entropy.ShardState{stale, stale}, []bool{true, true}},
	} {
		var s Set
		for _, state := range tt.states {
			s.Copies = append(s.Copies, Copy{State: state})
		}
		if got := s.WithoutVote(); !slices.Equal(got, tt.want) {
			t.Errorf("of %+v those have no vote: %v, want %v", tt.states, got, tt.want)
		}
	}
}

// The node of a copy that lacks writes may have had the newest one alone, unless the copy is not what its node was
// sent.
func TestMayHaveNewest(t *testing.T) {
	t.Parallel()
	whole := entropy.ShardState{Version: entropy.Version{Exists: true}}
	missed, lost, stale := whole, whole, whole
	missed.Lack.Kind, lost.Lack.Kind, stale.Lack.Kind = copystate.Missed, copystate.Lost, copystate.Stale
	made, damaged := missed, missed
	made.Beginning, damaged.Corrupt = copystate.FromFiles, "000001.tsm"
	var s Set
	for _, state := range []entropy.ShardState{whole, missed, lost, stale, made, damaged} {
		s.Copies = append(s.Copies, Copy{State: state})
	}
	if got, want := s.MayHaveNewest(), []bool{false, true, false, false, false, false}; !slices.Equal(got, want) {
		t.Errorf("those may have the newest value: %v, want %v", got, want)
	}
}

// A copy is made anew of others that are not whole only where a write that a majority has acknowledged is in these.
func TestReplaces(t *testing.T) {
	t.Parallel()
	whole := entropy.ShardState{Version: entropy.Version{Exists: true}}
	missed, lost, outdated, made := whole, whole, whole, whole
	missed.Lack.Kind, lost.Lack.Kind, outdated.Lack.Kind = copystate.Missed, copystate.Lost, copystate.Outdated
	rolledBack, deletes := whole, whole
	rolledBack.Lack = copystate.Lack{Kind: copystate.Stale, After: copystate.Outdated}
	deletes.Lack = copystate.Lack{Kind: copystate.Stale, After: copystate.Missed}
	made.Beginning = copystate.FromFiles
	for _, tt := range []struct {
		states []entropy.ShardState
		owners int
		want   bool
	}{
		{[]entropy.ShardState{missed, outdated, missed}, 3, true},
		{[]entropy.ShardState{outdated, missed}, 2, true},
		{[]entropy.ShardState{missed, rolledBack, missed}, 3, true},
		{[]entropy.ShardState{missed, deletes, missed}, 3, false},    // it is merged when these have run
		{[]entropy.ShardState{missed, outdated}, 3, false},           // a third is away
		{[]entropy.ShardState{missed, outdated, lost}, 3, false},     // the third may have had what the first missed
		{[]entropy.ShardState{missed, outdated, outdated}, 3, false}, // as here
		{[]entropy.ShardState{missed, outdated, made}, 3, false},     // and what it was made of may have missed it
		{[]entropy.ShardState{missed, outdated, {}}, 3, false},
	} {
		s := Set{Shard: cluster.Shard{Owners: make([]uint64, tt.owners)}}
		for _, state := range tt.states {
			s.Copies = append(s.Copies, Copy{State: state})
		}
		if got := s.Replaces(); got != tt.want {
			t.Errorf("of %d owners the copies are %+v: %t, want %t", tt.owners, tt.states, got, tt.want)
		}
	}
}
