package page

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/rpc"
)

// A delete that several nodes keep is there once, with all nodes that it waits for, and for administrators alone.
func TestDeletesThatWaitAreListed(t *testing.T) {
	t.Parallel()
	c, p := secured(t, nil)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	waiting := func(id string, since time.Time, node uint64) *rpc.WaitingDelete {
		return &rpc.WaitingDelete{
			Id: id, Database: []byte("open"), Text: []byte("DELETE FROM " + id), Since: since.UnixNano(), Node: node,
		}
	}
	c.Nodes[0].Change(func(r *rpc.ReportResponse) {
		r.Deletes = []*rpc.WaitingDelete{waiting("a", at.Add(time.Second), 3), waiting("a", at.Add(time.Second), 2)}
		r.MoreDeletes = true
	})
	c.Nodes[1].Change(func(r *rpc.ReportResponse) {
		r.Deletes = []*rpc.WaitingDelete{waiting("a", at, 3), waiting("", at, 3)}
	})
	got := stateOf(t, p, as("root"))
	want := map[string]Delete{
		"a": {Database: "open", Text: "DELETE FROM a", Since: &at, For: []string{"2", "3"}, Kept: []string{"1", "2"}},
		"2-" + id(uint64(at.UnixNano())): {
			Database: "open", Text: "DELETE FROM ", Since: &at, For: []string{"3"}, Kept: []string{"2"},
		},
	}
	if diff := cmp.Diff(want, got.Deletes); diff != "" {
		t.Error(diff)
	}
	if got.Summary.Deletes != 2 || !got.Summary.MoreDeletes {
		t.Errorf("the summary counts %d, more %v", got.Summary.Deletes, got.Summary.MoreDeletes)
	}
	got = stateOf(t, p, as("paul"))
	if got.Deletes != nil || got.Summary.Deletes != 0 || got.Summary.MoreDeletes {
		t.Errorf("a reader sees deletes: %v", got.Summary)
	}
}
