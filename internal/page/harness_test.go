package page

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"concord/internal/page/pagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCluster is a cluster, and what a page of it is made of.
type testCluster struct {
	*pagetest.Cluster
	deps Deps
}

// newCluster has three data nodes.
func newCluster(t testing.TB, shards int) *testCluster {
	t.Helper()
	c := pagetest.New(t, 3, shards)
	return &testCluster{c, Deps{
		Address: "data:8086", Kind: "data", Version: "1", State: c.State, Pool: c.Pool, View: c.View, AskRaft: c.AskRaft,
		Logins: NewLogins(LoginDeps{State: c.State}), Log: zap.NewNop(),
	}}
}

// patience is for how long a test waits until all nodes have answered. On a busy machine a node may take longer than
// askTimeout, and then counts as away.
const patience = time.Minute

// late reports whether a node did not answer in time for a state.
func late(s State) bool {
	for _, n := range s.Nodes {
		if !n.Up {
			return true
		}
	}
	admin := s.Meta != nil
	return len(s.Nodes) == 0 || admin && len(s.Settings) < len(s.Nodes)
}

// stateOf asks a page for its state until all nodes have answered.
func stateOf(t *testing.T, p *Page, change func(*http.Request)) State {
	t.Helper()
	for began := time.Now(); ; {
		var s State
		w := request(p, http.MethodGet, "/state", "", change)
		if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
			t.Fatal(err, w.Body)
		}
		if !late(s) {
			return s
		}
		if time.Since(began) > patience {
			t.Fatalf("not all nodes answer: %s", w.Body)
		}
		_, _ = p.hub.now(t.Context(), 0) // or the page may answer out of the same snapshot
	}
}
