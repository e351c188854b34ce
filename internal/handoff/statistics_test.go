package handoff

import (
	"strings"
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

func TestStatisticsOfEachQueueDatabaseAndNode(t *testing.T) {
	t.Parallel()
	r := newAway()
	cfg := testConfig(t.TempDir())
	s := mustOpen(t, cfg, r)
	// values are some of the fields of all rows of a statistic, by its tags.
	values := func(name string, fields ...string) map[string][]int64 {
		out := make(map[string][]int64)
		for _, st := range s.Statistics(map[string]string{"hostname": "here"}) {
			if st.Name != name {
				continue
			}
			if st.Tags["hostname"] != "here" {
				t.Errorf("%s has the tags %v", name, st.Tags)
			}
			key := strings.TrimPrefix(st.Tags["path"]+st.Tags["db"], cfg.Dir)
			for _, f := range fields {
				out[key] = append(out[key], st.Values[f].(int64))
			}
		}
		return out
	}
	want := func(name string, fields []string, want map[string][]int64) {
		t.Helper()
		if d := cmp.Diff(want, values(name, fields...)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	mustAppend(t, s, 2, 7, "a", "b")
	mustAppend(t, s, 2, 8, "c")
	mustAppend(t, s, 2, 9, "d")
	mustDelete(t, s, 2, WholeDatabase, "e")
	queued := []string{"writeShardReq", "writeShardReqPoints", "queueDepth", "writeNodeReqPoints"}
	want("hh_processor", queued, map[string][]int64{
		"/2/0": {1, 0, 1, 0}, "/2/7": {2, 2, 1, 0}, "/2/8": {1, 1, 1, 0}, "/2/9": {1, 1, 1, 0},
	})
	want("hh_database", queued, map[string][]int64{"db": {3, 3, 2, 0}, "other": {1, 1, 1, 0}})
	want("hh_node", []string{"queueDepth"}, map[string][]int64{"/2": {4}})
	var sum int64
	for _, v := range values("hh_processor", "queueBytes") {
		sum += v[0]
	}
	want("hh_node", []string{"queueTotalSize", "queueBytes"}, map[string][]int64{"/2": {sum, sum}})
	want("hh", []string{"writeShardReqPoints"}, map[string][]int64{"": {0}})

	r.back()
	s.Back(2)
	r.await(t, "nothing is queued", func() bool {
		return !s.Pending(2, 7) && !s.Pending(2, 8) && !s.Pending(2, 9) && !s.Pending(2, WholeDatabase)
	})
	want("hh_processor", queued, map[string][]int64{
		"/2/0": {1, 0, 0, 0}, "/2/7": {2, 2, 0, 2}, "/2/8": {1, 1, 0, 1}, "/2/9": {1, 1, 0, 1},
	})
	want("hh_database", queued, map[string][]int64{"db": {3, 3, 0, 3}, "other": {1, 1, 0, 1}})
	want("hh", []string{"writeShardReqPoints"}, map[string][]int64{"": {4}})

	// What is gone is forgotten, and does not lower what the node has counted.
	r.set(func() { r.gone = map[uint64]bool{9: true, 8: true} })
	s.Purge()
	want("hh_processor", queued, map[string][]int64{"/2/0": {1, 0, 0, 0}, "/2/7": {2, 2, 0, 2}})
	want("hh_database", queued, map[string][]int64{"db": {3, 3, 0, 3}})
	want("hh_node", []string{"writeNodeReqPoints"}, map[string][]int64{"/2": {4}})
}
