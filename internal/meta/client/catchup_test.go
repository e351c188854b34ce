package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/cluster"
	"concord/internal/meta/client"
	"concord/internal/meta/metatest"
	"concord/internal/meta/server"
	"concord/internal/metanode"
)

// hold keeps back what the long poll brings, as long as the client follows.
func hold(ctx context.Context) { <-ctx.Done() }

// joinedAlone is a data node that the meta nodes cannot reach, and whose long poll brings nothing after it joined.
func joinedAlone(t *testing.T, m *metatest.Meta) *client.Client {
	t.Helper()
	var joined atomic.Bool
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir(), Late: func(ctx context.Context) {
		if joined.Load() {
			hold(ctx)
		}
	}})
	n := m.AddNode(t, "127.0.0.1:1")
	metatest.OK(t, c.Join(n.ID, m.State().Data.ClusterID, []string{m.HTTPAddr()}))
	joined.Store(true)
	return c
}

// A change is true on all data nodes when it is confirmed, also on those whose long poll has not brought it yet.
func TestChangeIsEverywhereWhenItIsConfirmed(t *testing.T) {
	t.Parallel()
	core, log := observer.New(zap.WarnLevel)
	m := metatest.Start(t, func(d *metanode.Deps) { d.Config.SingleServer, d.Log = true, zap.New(core) })
	inTime := func() bool { return log.FilterMessageSnippet("does not take changes").Len() == 0 }
	late := make(chan struct{})
	a, b := metatest.Joined(t, m), metatest.NewData(t, func(d *client.Deps) {
		d.Late = func(ctx context.Context) {
			select {
			case <-late:
				hold(ctx)
			default:
			}
		}
	})
	_, err := m.AddData(metatest.Context(t), b.Addr)
	metatest.OK(t, err)
	close(late)
	for i := range 3 {
		name := fmt.Sprint("db", i)
		_, err := a.CreateDatabase(name)
		metatest.OK(t, err)
		if b.Engine().Database(name) == nil && inTime() {
			t.Errorf("%s is confirmed, and another node does not have it", name)
		}
		metatest.OK(t, b.DropDatabase(name))
		if a.Engine().Database(name) != nil && inTime() {
			t.Errorf("%s is dropped, and another node still has it", name)
		}
	}
	// And so are those of the meta node's own API.
	if code, body := metatest.Post(t, m.URL("/user"), `{"action":"create","user":{"name":"ann","password":"p"}}`); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	if b.State().User("ann") == nil && inTime() {
		t.Error("a user of influxd-ctl is confirmed, and a data node does not have it")
	}
}

// A change goes to the leader, also when this node's copy says that there is nothing to do.
func TestOldCopyDoesNotAnswerChanges(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	c := joinedAlone(t, m)
	_, err := c.CreateDatabase("db")
	metatest.OK(t, err)
	_, err = c.CreateUser("ann", "p", false)
	metatest.OK(t, err)
	for _, op := range []cluster.Op{cluster.DropDatabase{Name: "db"}, cluster.DropUser{Name: "ann"}} {
		_, err := m.Execute(op)
		metatest.OK(t, err)
	}
	_, err = c.CreateDatabase("db")
	metatest.OK(t, err)
	_, err = c.CreateUser("ann", "p", false)
	metatest.OK(t, err)
	if m.State().Data.Database("db") == nil || m.State().User("ann") == nil {
		t.Error("what was created again is not there")
	}
	group := cluster.CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: time.Unix(0, 0)}
	metatest.OK(t, c.Execute(group))
	index := m.State().Index
	_, err = c.CreateDatabase("db")
	metatest.OK(t, err, c.Execute(group))
	if m.State().Index != index {
		t.Errorf("what is there already changed the metadata from %d to %d", index, m.State().Index)
	}
	if _, err := c.CreateUser("ann", "p", false); err != nil {
		t.Errorf("an equal user: %v", err)
	}
	if _, err := c.CreateUser("ann", "other", false); err != emeta.ErrUserExists {
		t.Errorf("another user: %v", err)
	}
}

// What a node's copy lacks is asked of the leader before it counts as unknown.
func TestUnknownNamesAreAskedOfTheLeader(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	c := joinedAlone(t, m)
	change := func(op cluster.Op) { t.Helper(); _, err := m.Execute(op); metatest.OK(t, err) }
	known := func(what string, ok func() bool) {
		t.Helper()
		if !metatest.Until(t, ok) { // a busy leader may answer later than a request waits
			t.Errorf("%s is not known", what)
		}
	}
	change(cluster.CreateDatabase{Name: "db"})
	if c.Engine().Database("db") != nil {
		t.Fatal("the copy is not old")
	}
	known("a database", func() bool { return c.Database("db") != nil })
	change(cluster.CreateRetentionPolicy{Database: "db", Spec: emeta.RetentionPolicySpec{Name: "rp"}})
	known("a policy", func() bool { rp, err := c.RetentionPolicy("db", "rp"); return rp != nil && err == nil })
	change(cluster.CreateUser{Name: "ann", Hash: "x"})
	known("a user", func() bool { return c.UserInfo("ann") != nil })
	change(cluster.CreateUser{Name: "bob", Hash: "x", Admin: true})
	known("an administrator", c.AdminUserExists)
	change(cluster.CreateUser{Name: "eve", Hash: "x"})
	change(cluster.SetPrivilege{User: "eve", Database: "db", Privilege: influxql.ReadPrivilege})
	known("a privilege", func() bool {
		p, err := c.UserPrivileges("eve")
		return err == nil && p["db"] == influxql.ReadPrivilege
	})
	if c.Database("nope") != nil || c.UserInfo("nope") != nil {
		t.Error("nobody made these")
	}
}

// fakeMetaNode is a client of one meta node that answers as the handler does.
func fakeMetaNode(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
	c.Become(1, 1, strings.TrimPrefix(s.URL, "http://"))
	return c
}

// Many requests for names that nobody knows are few questions for the leader.
func TestFloodOfUnknownNamesIsFewQuestions(t *testing.T) {
	t.Parallel()
	var asked, under, most atomic.Int64
	c := fakeMetaNode(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		most.Store(max(most.Load(), under.Add(1)))
		defer under.Add(-1)
		w.WriteHeader(http.StatusNoContent)
	})
	start := time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 4 {
				if c.Database("nope") != nil {
					t.Error("found")
				}
			}
		})
	}
	wg.Wait()
	if limit := int64(time.Since(start)/client.RefreshEvery) + 2; asked.Load() > limit || most.Load() > 1 {
		t.Errorf("200 requests in %s were %d questions, %d at once; want at most %d, one at once",
			time.Since(start), asked.Load(), most.Load(), limit)
	}
}

// What nobody has is not waited for by each request anew.
func TestMetadataThatNobodyHasIsNotWaitedForAgain(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	c := fakeMetaNode(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	ctx := metatest.Context(t)
	if err := c.CatchUp(ctx, 7, ""); err == nil {
		t.Fatal("caught up with what nobody has")
	}
	before := asked.Load()
	for range 20 {
		if err := c.CatchUp(ctx, 8, ""); err == nil {
			t.Error("caught up with what nobody has")
		}
	}
	if again := asked.Load() - before; again != 0 {
		t.Errorf("20 requests asked %d times again", again)
	}
}

// A node knows that it is behind from when another one relied on what it cannot have.
func TestNodeKnowsThatItIsBehind(t *testing.T) {
	t.Parallel()
	c := fakeMetaNode(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	ctx := metatest.Context(t)
	metatest.OK(t, c.CatchUpWithOthers(ctx))
	if err := c.CatchUp(ctx, 7, ""); err == nil {
		t.Fatal("caught up with what nobody has")
	}
	metatest.OK(t, c.CatchUp(ctx, 0, "")) // somebody else relies on less
	if err := c.CatchUpWithOthers(ctx); err == nil || !strings.Contains(err.Error(), "behind: it has change 0, not 7") {
		t.Errorf("behind others: %v", err)
	}
	c.Become(1, 2, "127.0.0.1:1") // another cluster counts its own changes
	metatest.OK(t, c.CatchUpWithOthers(ctx))
	m := metatest.New(t, true)
	late := joinedAlone(t, m)
	m.AddNode(t, "127.0.0.1:2")
	var err error
	if !metatest.Until(t, func() bool { // a busy meta node may answer later than CatchUp waits
		err = late.CatchUp(ctx, m.State().Index, "")
		return err == nil
	}) {
		t.Error(err)
	}
	metatest.OK(t, late.CatchUpWithOthers(ctx))
}

// A meta node that hangs and is the first in the list costs a second, once.
func TestMetaNodeThatHangsHoldsUpNothing(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	hung := metatest.MustHang(t)
	for name, change := range map[string]func(*client.Client) error{
		"a change":                     func(c *client.Client) error { return c.DropDatabase("db") },
		"one that must not come twice": func(c *client.Client) error { return c.DropUser("nope") },
		"a lease":                      func(c *client.Client) error { _, err := c.AcquireLease("x"); return err },
	} {
		c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
		c.Become(m.AddNode(t, "127.0.0.1:1").ID, m.State().Data.ClusterID, hung, m.HTTPAddr())
		if err := change(c); err != nil && !errors.Is(err, emeta.ErrUserNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if first := c.AskedFirst(); first != m.HTTPAddr() {
			t.Errorf("after %s %s is asked first, which hangs", name, first)
		}
	}
}

// A data node joins and follows also when the first meta node of its list hangs.
func TestMetaNodeThatHangsIsNotFollowed(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
	n, hung := m.AddNode(t, "127.0.0.1:1"), metatest.MustHang(t)
	var err error
	if !metatest.Until(t, func() bool { // a busy meta node may answer later than Join waits
		err = c.Join(n.ID, m.State().Data.ClusterID, []string{hung, m.HTTPAddr()})
		return err == nil
	}) {
		t.Fatal(err)
	}
	_, err = m.Execute(cluster.CreateDatabase{Name: "db"})
	metatest.OK(t, err)
	metatest.AwaitCopy(t, c, metatest.HasDatabase("db"))
}

// A removed meta node says that it is in no cluster, and who followed it follows another one.
func TestRemovedMetaNodeIsNotFollowed(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	leader := metatest.LeaderOf(t, nodes)
	gone := metatest.Others(nodes, leader)[0]
	c := metatest.OpenClient(t, client.Deps{Dir: t.TempDir()})
	// The leader cannot tell it anything.
	n := metatest.MustExecute(t, nodes, cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"}).(cluster.Node)
	metatest.OK(t, c.Join(n.ID, leader.State().Data.ClusterID, []string{gone.HTTPAddr(), leader.HTTPAddr()}))
	metatest.OK(t, c.CatchUp(metatest.Context(t), 0, gone.HTTPAddr())) // asked first from now on
	var err error
	if !metatest.Until(t, func() bool { // on a busy machine the leader may change meanwhile, and have removed it
		_, err = metatest.LeaderOf(t, nodes).RemoveMeta(metatest.Context(t), gone.HTTPAddr(), false)
		return err == nil || gone.State().Data.ClusterID == 0
	}) {
		t.Fatal(err)
	}
	code, body := metatest.Call(t, "GET", "http://"+gone.HTTPAddr()+"/state?index=99999")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, server.ErrNotInitialised.Error()) {
		t.Errorf("the removed node: %d %s", code, body)
	}
	metatest.MustExecute(t, metatest.Others(nodes, gone), cluster.CreateDatabase{Name: "db"})
	metatest.AwaitCopy(t, c, metatest.HasDatabase("db"))
	_, err = c.CreateDatabase("db2")
	metatest.OK(t, err)
}

// The clock of the leader decides what is expired, and when something was deleted.
func TestClockOfTheLeaderDecides(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var ahead atomic.Int64
	m := metatest.Start(t, func(d *metanode.Deps) {
		d.Config.SingleServer = true
		d.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	})
	d := metatest.Joined(t, m)
	hour := time.Hour
	spec := &emeta.RetentionPolicySpec{Name: "rp", Duration: &hour, ShardGroupDuration: hour}
	_, err := d.CreateDatabaseWithRetentionPolicy("db", spec)
	metatest.OK(t, err)
	g, err := d.CreateShardGroup("db", "rp", now)
	metatest.OK(t, err)
	// The data node's clock may be days ahead.
	if err := d.DeleteShardGroup("db", "rp", g.ID); err == nil || err.Error() != cluster.ErrNotExpired.Error() {
		t.Errorf("a group of now: %v", err)
	}
	if at, known := d.Now(); !known || at.Sub(now).Abs() > 10*time.Second {
		t.Errorf("the leader's time is %s, known %v; want %s", at, known, now)
	}
	ahead.Store(int64(5 * time.Hour))
	metatest.OK(t, d.DeleteShardGroup("db", "rp", g.ID))
	got := d.State().Data.Database("db").RetentionPolicy("rp").ShardGroups[0].DeletedAt
	if want := m.Deps.Now(); !got.Equal(want.UTC()) {
		t.Errorf("deleted at %s, want %s", got, want)
	}
	if at, _ := d.Now(); at.Sub(m.Deps.Now()).Abs() > 10*time.Second {
		t.Errorf("the leader's time is %s, want %s", at, m.Deps.Now())
	}
}

func TestDeletedShardIsKnown(t *testing.T) {
	t.Parallel()
	d := metatest.Joined(t, metatest.New(t, true))
	_, err := d.CreateDatabase("db")
	metatest.OK(t, err)
	g, err := d.CreateShardGroup("db", "autogen", time.Unix(0, 0))
	metatest.OK(t, err)
	id, index := g.Shards[0].ID, d.Index()
	for at, want := range map[uint64]bool{0: false, index: false, index + 1: false} {
		if d.Deleted(id, at) != want {
			t.Errorf("at %d of %d: want %v", at, index, want)
		}
	}
	metatest.OK(t, d.DropDatabase("db"))
	for at, want := range map[uint64]bool{0: false, index: true, d.Index(): true, d.Index() + 1: false} {
		if d.Deleted(id, at) != want {
			t.Errorf("dropped, at %d of %d: want %v", at, d.Index(), want)
		}
	}
}

// A password counts at once on a node that is behind, also when the node was asked for it before. A wrong one costs a
// question to the leader for a user that there is, and for one that there is not.
func TestPasswordsOfOtherNodesCountAtOnce(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	c := joinedAlone(t, m)
	refused := func(name, given string) {
		t.Helper()
		if _, err := c.Authenticate(name, given); err == nil {
			t.Fatalf("%s may log in with %s", name, given)
		}
	}
	change := func(action, given string) {
		t.Helper()
		body := fmt.Sprintf(`{"action":%q,"user":{"name":"ann","password":%q}}`, action, given)
		if code, body := metatest.Post(t, m.URL("/user"), body); code != 200 {
			t.Fatalf("%d %s", code, body)
		}
	}
	refused("ann", "p1")
	for i, action := range []string{"create", "change-password"} {
		given := fmt.Sprint("p", i+1)
		change(action, given)
		var err error
		if !metatest.Until(t, func() bool { // a busy leader may answer later than a login waits
			_, err = c.Authenticate("ann", given)
			return err == nil
		}) {
			t.Errorf("%s: %v", action, err)
		}
	}
	refused("ann", "p1")
	for _, name := range []string{"ann", "nobody"} {
		if code, body := metatest.Post(t, m.URL("/user"),
			fmt.Sprintf(`{"action":"create","user":{"name":"of-%s","password":"p"}}`, name)); code != 200 {
			t.Fatalf("%d %s", code, body)
		}
		if !metatest.Until(t, func() bool {
			refused(name, "wrong")
			return c.State().Index == m.State().Index
		}) {
			t.Errorf("the leader is not asked for a wrong password of %s", name)
		}
	}
}
