package page

import (
	"errors"
	"testing"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// A node that was away is up since it started, when that is later than it was last asked for. Nobody asks while no page
// is open.
func TestNodeIsUpSinceItStarted(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return time.Unix(int64(1_800_000_000+s), 0) }
	answer := func(started time.Time, err error) rpc.Answer[cluster.Node, *rpc.ReportResponse] {
		a := rpc.Answer[cluster.Node, *rpc.ReportResponse]{Node: cluster.Node{ID: 2}, Err: err}
		if err == nil {
			a.Value = &rpc.ReportResponse{Started: started.UnixNano()}
		}
		return a
	}
	away := errors.New("away")
	s := newSource(Deps{})
	for _, step := range []struct {
		what      string
		answer    rpc.Answer[cluster.Node, *rpc.ReportResponse]
		now, want int
	}{
		{"first asked", answer(at(0), nil), 10, 0},
		{"away", answer(at(0), away), 20, 20},
		{"started anew", answer(at(25), nil), 90, 25},
		{"cut off", answer(at(0), away), 100, 100},
		{"reached again", answer(at(25), nil), 110, 110},
	} {
		if got := s.take(step.answer, at(step.now)).since; !got.Equal(at(step.want)) {
			t.Errorf("%s: since %v, want %v", step.what, got, at(step.want))
		}
	}
}
