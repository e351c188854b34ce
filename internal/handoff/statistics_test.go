package handoff

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStatisticsTellHowLongEntriesWait(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg, r)
	type waits struct{ All, Deletes int64 }
	want := func(w waits) {
		t.Helper()
		for _, st := range s.Statistics(nil) {
			if st.Name != "hh_node" {
				continue
			}
			got := waits{st.Values["oldestSec"].(int64), st.Values["oldestDeleteSec"].(int64)}
			if d := cmp.Diff(w, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		}
	}
	pass := func(d time.Duration) { r.set(func() { r.now = r.now.Add(d) }) }

	mustAppend(t, s, 2, 7, "first")
	pass(time.Minute)
	mustAppend(t, s, 2, 8, "second")
	mustDelete(t, s, 2, WholeDatabase, "a delete")
	want(waits{All: 60})
	pass(time.Hour)
	want(waits{All: 3660, Deletes: 3600})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, cfg, r) // it is on disk
	want(waits{All: 3660, Deletes: 3600})
	r.back()
	s.Back(2)
	r.await(t, "all is delivered", func() bool { return len(r.got["2/7"])+len(r.got["2/8"])+len(r.got["2/0"]) == 3 })
	r.await(t, "nothing is queued", func() bool { return !s.Pending(2, 7) && !s.Pending(2, 8) && !s.Pending(2, WholeDatabase) })
	want(waits{})
}
