package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxdb/coordinator"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/retention"
	"github.com/influxdata/influxql"
	"go.uber.org/goleak"

	"concord/internal/cluster"
	"concord/internal/meta/client"
	"concord/internal/meta/metatest"
)

var (
	_ coordinator.MetaClient = (*client.Client)(nil)
	_ retention.MetaClient   = (*client.Client)(nil)
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClientServesFromDiskWithTheMetaNodeDown(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	d := metatest.Joined(t, m)
	_, err := d.CreateDatabase("db")
	metatest.OK(t, err)
	_, err = d.CreateUser("ann", "secret", true)
	metatest.OK(t, err)
	metatest.OK(t, d.Close(), m.Stop())

	c := metatest.OpenClient(t, client.Deps{Dir: d.Dir})
	if c.NodeID() != d.NodeID() || c.ClusterID() != d.ClusterID() || c.ClusterID() == 0 || len(c.DataNodes()) != 1 {
		t.Errorf("node %d of %x, nodes %v", c.NodeID(), c.ClusterID(), c.DataNodes())
	}
	if c.Database("db") == nil || c.State().Index != d.State().Index || !c.AdminUserExists() {
		t.Error("the database or the user is gone")
	}
	_, err = c.Authenticate("ann", "secret")
	metatest.OK(t, err)
	metatest.OK(t, c.Close())

	// A damaged copy is no reason not to start.
	path := filepath.Join(d.Dir, client.StateFile)
	b, err := os.ReadFile(path)
	metatest.OK(t, err)
	metatest.OK(t, os.WriteFile(path, bytes.Replace(b, []byte("db"), []byte("xx"), 1), 0o600))
	m.Start(t)
	c = metatest.OpenClient(t, client.Deps{Dir: d.Dir})
	metatest.AwaitCopy(t, c, func(s *cluster.State) bool { return s.Data.Database("db") != nil })
}

func TestChangeReachesOtherNodes(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	a, b := metatest.Joined(t, m), metatest.Joined(t, m)
	took := time.Duration(math.MaxInt64)
	for i := 0; took > time.Second && i < 30; i++ { // a busy machine may be slow once
		metatest.AwaitCopy(t, b.Client, func(s *cluster.State) bool { return s.Index >= m.State().Index })
		changed, data := b.Changed(), b.WaitForDataChanged()
		db := fmt.Sprint("db", i)
		start := time.Now()
		_, err := a.CreateDatabase(db)
		metatest.OK(t, err)
		for _, c := range []<-chan struct{}{changed, data} {
			select {
			case <-c:
			case <-metatest.Context(t).Done():
				t.Fatal("no change seen")
			}
		}
		metatest.AwaitCopy(t, b.Client, metatest.HasDatabase(db))
		took = time.Since(start)
	}
	if took > time.Second {
		t.Errorf("the change took %s", took)
	}
	if got := b.Database("db0").RetentionPolicies[0].ReplicaN; got != 2 {
		t.Errorf("%d replicas, want 2", got)
	}
	_, errA := a.AcquireLease("cq")
	_, errB := b.AcquireLease("cq")
	if errA != nil || errB == nil {
		t.Errorf("leases: %v, %v; want the first alone", errA, errB)
	}
}

func TestChangedPasswordCountsAtOnce(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	a, b := metatest.Joined(t, m), metatest.Joined(t, m)
	_, err := a.CreateUser("ann", "old", false)
	metatest.OK(t, err)
	metatest.AwaitCopy(t, b.Client, func(s *cluster.State) bool { return s.Data.User("ann") != nil })
	for _, c := range []*metatest.DataNode{a, b, b} { // b has it in its cache now
		_, err := c.Authenticate("ann", "old")
		metatest.OK(t, err)
	}
	metatest.OK(t, a.UpdateUser("ann", "new"))
	metatest.AwaitCopy(t, b.Client, func(s *cluster.State) bool { return s.Index >= a.State().Index })
	for _, c := range []*metatest.DataNode{a, b} {
		if _, err := c.Authenticate("ann", "old"); !errors.Is(err, emeta.ErrAuthenticate) {
			t.Errorf("old password: %v", err)
		}
		_, err := c.Authenticate("ann", "new")
		metatest.OK(t, err)
	}
	if _, err := a.Authenticate("bob", ""); !errors.Is(err, emeta.ErrUserNotFound) {
		t.Errorf("unknown user: %v", err)
	}
}

func TestEveryChangeAndItsErrors(t *testing.T) {
	t.Parallel()
	d := metatest.Joined(t, metatest.New(t, true))
	one, two, day := 1, 2, 24*time.Hour
	_, err := d.CreateDatabaseWithRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "week", Duration: &day})
	metatest.OK(t, err)
	if _, err := d.CreateDatabaseWithRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "other"}); err != emeta.ErrRetentionPolicyConflict {
		t.Errorf("conflict: %v", err)
	}
	_, err = d.CreateRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "rp", ReplicaN: &one}, false)
	metatest.OK(t, err)
	if _, err := d.CreateRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "rp2", ReplicaN: &two}, false); err == nil || !strings.Contains(err.Error(), "number of data nodes, 1") {
		t.Errorf("factor: %v", err)
	}
	if _, err := d.CreateShardGroup("nope", "rp", time.Now()); err == nil || err.Error() != "database not found: nope" {
		t.Errorf("missing database: %v", err)
	}
	g, err := d.CreateShardGroup("db", "rp", time.Now())
	metatest.OK(t, err)
	index := d.State().Index
	again, err := d.CreateShardGroup("db", "rp", time.Now())
	metatest.OK(t, err)
	if again.ID != g.ID || d.State().Index != index {
		t.Error("an existing group took a round trip")
	}
	newName := "renamed"
	_, err = d.CreateUser("ann", "x", false)
	metatest.OK(t, err,
		d.UpdateRetentionPolicy("db", "week", &emeta.RetentionPolicyUpdate{Name: &newName}, false),
		d.CreateContinuousQuery("db", "cq", "q"), d.CreateSubscription("db", "rp", "s", "ALL", []string{"http://h:1"}),
		d.SetPrivilege("ann", "db", influxql.ReadPrivilege), d.SetAdminPrivilege("ann", true),
		d.TruncateShardGroups(time.Now()), d.PrecreateShardGroups(time.Now(), time.Now().Add(day)), d.PruneShardGroups())
	if p, err := d.UserPrivilege("ann", "db"); err != nil || *p != influxql.ReadPrivilege || !d.AdminUserExists() {
		t.Errorf("privilege %v, %v", p, err)
	}
	if db := d.Database("db"); db.DefaultRetentionPolicy != newName || len(db.ContinuousQueries) != 1 ||
		len(db.RetentionPolicy("rp").Subscriptions) != 1 {
		t.Errorf("got %+v", db)
	}
	if _, err := d.CreateUser("ann", "y", true); err != emeta.ErrUserExists {
		t.Errorf("user: %v", err)
	}
	if err := d.DropSubscription("db", "rp", "nope"); err != emeta.ErrSubscriptionNotFound {
		t.Errorf("subscription: %v", err)
	}
	metatest.OK(t, d.DropSubscription("db", "rp", "s"), d.DropContinuousQuery("db", "cq"),
		d.DropShard(g.Shards[0].ID), d.RemoveShardOwner(g.Shards[0].ID, d.NodeID()),
		d.DropUser("ann"), d.DropRetentionPolicy("db", "rp"), d.DropDatabase("db"))
	if len(d.Databases()) != 0 || len(d.Users()) != 0 {
		t.Error("something is left")
	}
	if err := d.DropUser("ann"); err != emeta.ErrUserNotFound {
		t.Errorf("user: %v", err)
	}
	if err := d.DropShard(g.Shards[0].ID); err == nil || err.Error() != "shard not found" {
		t.Errorf("shard: %v", err)
	}
}

func TestNodeOutsideOfAClusterRefusesChanges(t *testing.T) {
	t.Parallel()
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
	if _, err := c.CreateDatabase("db"); !errors.Is(err, client.ErrNotJoined) {
		t.Errorf("got %v", err)
	}
	if c.State() == nil || len(c.Databases()) != 0 || c.NodeID() != 0 {
		t.Error("a new node knows something")
	}
}

func TestMemberOfAnotherClusterDoesNotJoin(t *testing.T) {
	t.Parallel()
	d := metatest.Joined(t, metatest.New(t, true))
	if err := d.Client.Join(d.NodeID(), d.ClusterID(), d.MetaServers()); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if err := d.Client.Join(1, d.ClusterID()+1, d.MetaServers()); err == nil ||
		!strings.Contains(err.Error(), "another cluster") {
		t.Errorf("got %v", err)
	}
}
