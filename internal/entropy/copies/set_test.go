package copies

import (
	"slices"
	"testing"

	"concord/internal/copystate"
	"concord/internal/entropy"
)

// A copy that was made of another one's files has no vote beside those that lack writes: it would vote twice for that
// one.
func TestDoubtful(t *testing.T) {
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
		if got := s.Doubtful(); !slices.Equal(got, tt.want) {
			t.Errorf("of %+v those are in doubt: %v, want %v", tt.states, got, tt.want)
		}
	}
}
