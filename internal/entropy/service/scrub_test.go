package service

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/toml"

	"concord/internal/entropy"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/routes"
	"concord/internal/entropy/tsmfile"
	"concord/internal/entropy/view"
)

// scrubbed is a node's copies, of which some are damaged or cannot be verified.
type scrubbed struct {
	*entropytest.Replica
	mu      sync.Mutex
	when    map[uint64][]time.Time // each was verified
	fails   map[uint64]error
	damaged map[uint64]string
}

func newScrubbed(r *entropytest.Replica) *scrubbed {
	return &scrubbed{
		Replica: r, when: make(map[uint64][]time.Time), fails: make(map[uint64]error), damaged: make(map[uint64]string),
	}
}

func (s *scrubbed) Scrub(_ context.Context, id uint64) ([]*tsmfile.Damage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.when[id] = append(s.when[id], time.Now())
	if err := s.fails[id]; err != nil {
		return nil, err
	}
	if m := s.damaged[id]; m != "" {
		return []*tsmfile.Damage{{File: m}}, nil
	}
	return nil, nil
}

func (s *scrubbed) Damaged() (map[uint64]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[uint64]string)
	for id, m := range s.damaged {
		if m != "" {
			out[id] = m + " is damaged"
		} else {
			out[id] = "it was damaged"
		}
	}
	return out, nil
}

func (s *scrubbed) Sound(id uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.damaged, id)
	return nil
}

// counts are how often copies were verified.
func (s *scrubbed) counts(ids ...uint64) (out []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		out = append(out, len(s.when[id]))
	}
	return out
}

// times are those at which a copy was verified, in hours since a start.
func (s *scrubbed) times(id uint64, since time.Time) (out []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.when[id] {
		out = append(out, int(at.Sub(since).Round(time.Hour)/time.Hour))
	}
	return out
}

func scrubEvery(interval time.Duration, dir string, local Local) func(*entropy.Config, *Deps) {
	return func(cfg *entropy.Config, deps *Deps) {
		cfg.ScrubInterval = toml.Duration(interval)
		deps.Dir, deps.Local = dir, local
	}
}

// A node that restarts more often than scrub-interval verifies each copy once in it, and not at each start, nor never.
func TestScrubTimesOutliveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, dir, start := entropytest.NewCluster(), t.TempDir(), time.Now()
		local := newScrubbed(c.Replicas[1])
		for range 10 {
			s := mustOpen(t, c, scrubEvery(100*time.Hour, dir, local))
			pass(24 * time.Hour)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			pass(time.Hour)
		}
		for _, id := range []uint64{1, 2} {
			if got := local.times(id, start); !slices.Equal(got, []int{100, 200}) {
				t.Errorf("shard %d was verified after %v hours, want 100 and 200", id, got)
			}
		}
	})
}

// One copy that cannot be verified delays none of the others, and is tried again.
func TestScrubGoesOnAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := entropytest.NewCluster()
		local := newScrubbed(c.Replicas[1])
		local.fails[1], local.fails[2] = errors.New("no"), entropy.ErrNoCopy
		c.SetGroups(0, time.Now().Add(-3*entropytest.Week), time.Now().Add(-2*entropytest.Week),
			time.Now().Add(-entropytest.Week/2))
		s := mustOpen(t, c, scrubEvery(100*time.Hour, t.TempDir(), local))
		pass(100*time.Hour + time.Second)
		if n := local.counts(1, 2, 3); !slices.Equal(n, []int{1, 1, 1}) {
			t.Fatalf("in the first round verified %v times", n)
		}
		if n := s.report.Errors.Load(); n != 1 {
			t.Errorf("%d errors: a shard that the node does not have is none", n)
		}
		pass(time.Hour)
		if n := local.counts(1, 2, 3); n[0] < 5 || n[0] > 8 || n[2] != 1 {
			t.Errorf("an hour later verified %v times", n)
		}
		local.mu.Lock()
		clear(local.fails)
		local.mu.Unlock()
		pass(time.Hour)
		before := local.counts(1)[0]
		pass(50 * time.Hour)
		if after := local.counts(1)[0]; after != before {
			t.Errorf("verified %d times more after it could be", after-before)
		}
	})
}

// The only copy of a shard: a repair says that it cannot help, and a check verifies it again, also where the scrub is
// off.
func TestDamagedOnlyCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := entropytest.NewCluster()
		st := c.State()
		sh := &st.Data.Databases[0].RetentionPolicies[0].ShardGroups[0].Shards[0]
		sh.Owners = sh.Owners[:1]
		local := newScrubbed(c.Replicas[1])
		local.damaged[1] = "01.tsm"
		s := mustOpen(t, c, scrubEvery(0, t.TempDir(), local))
		c.Controls[1] = s
		pass(200 * time.Hour)
		if n := local.counts(1, 2); n[0]+n[1] > 0 {
			t.Errorf("verified %v times without being asked to", n)
		}
		got := mustStatus(t, s)
		if len(got.Shards) != 1 || got.Shards[0].Status != entropy.Corrupt ||
			got.Shards[0].Message != "data1:8088: 01.tsm is damaged; no other owner has the shard" {
			t.Errorf("status %+v", got.Shards)
		}
		h := handlerOf(c)
		if w := do(h, http.MethodGet, "/shard-repair/status"); !strings.Contains(w.Body.String(),
			`"status":"corrupt","message":"data1:8088: 01.tsm is damaged; no other owner has the shard"`) {
			t.Errorf("%s", w.Body)
		}
		if w := do(h, http.MethodPost, "/shard-repair/repair?id=1"); w.Code != http.StatusInternalServerError ||
			!strings.Contains(w.Body.String(), "the only copy of shard 1 is damaged, and no other owner has what is "+
				"lost: 01.tsm") {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if st := mustStatus(t, s); len(st.Queued) > 0 {
			t.Errorf("queued %v", st.Queued)
		}
		for round, damage := range []string{"01.tsm", ""} { // still there, then put right
			local.mu.Lock()
			local.damaged[1] = damage
			local.mu.Unlock()
			if w := do(h, http.MethodPost, "/shard-repair/check?id=1"); w.Code != http.StatusAccepted {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			pass(time.Minute)
			if n := local.counts(1)[0]; n != round+1 {
				t.Errorf("verified %d times after check %d", n, round+1)
			}
			if left := len(mustStatus(t, s).Shards); left != 1-round {
				t.Errorf("%d shards are shown after check %d", left, round+1)
			}
		}
	})
}

// handlerOf serves /shard-repair of the node under test.
func handlerOf(c *entropytest.Cluster) http.Handler {
	v := &view.View{State: c.State, Transport: c, NodeID: c.NodeID, Self: c.Controls[c.ID]}
	return routes.NewHandler(v, func(*http.Request) meta.User { return nil })
}

func do(h http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}
