package server

import (
	"bytes"
	"io"
	"os"
	"testing"

	"go.uber.org/zap"

	"concord/internal/cluster"
)

// A snapshot of Raft that a build without permissions made is taken, and the next command is carried out on it.
func TestSnapshotOfAnEarlierVersionIsRestored(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../../cluster/testdata/users-before-permissions.state")
	if err != nil {
		t.Fatal(err)
	}
	f := openFSM(t.TempDir(), zap.NewNop())
	defer f.close()
	mustAll(t, f.Restore(io.NopCloser(bytes.NewReader(b))))
	st := f.applied()
	if u := st.User("ann"); u == nil || !u.AuthorizeUnrestricted() || st.Data.Database("telegraf") == nil {
		t.Errorf("the restored state has the user %+v", u)
	}
	c, err := cluster.NewCommand(cluster.ChangeRole{Name: "readers", RemoveUsers: []string{"paul"}})
	mustAll(t, err)
	next, _, err := st.Next(st.Index+1, c)
	mustAll(t, err)
	if next.User("paul").Grants.Has(cluster.ReadData, "ops") || !st.User("paul").Grants.Has(cluster.ReadData, "ops") {
		t.Error("the role of the restored state does not change")
	}
}
