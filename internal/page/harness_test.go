package page

import (
	"testing"

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
