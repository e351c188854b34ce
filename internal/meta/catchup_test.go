package meta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
)

// hold keeps back what the long poll brings, as long as the client follows.
func hold(ctx context.Context) { <-ctx.Done() }

// joinedAlone is a data node that the meta nodes cannot reach, and whose long poll brings nothing after it joined.
func joinedAlone(t *testing.T, m *testMeta) *Client {
	t.Helper()
	c := NewClient(t.TempDir(), nil)
	var joined atomic.Bool
	c.Late = func(ctx context.Context) {
		if joined.Load() {
			hold(ctx)
		}
	}
	ok(t, c.Open())
	t.Cleanup(func() { c.Close() })
	n, err := m.node(cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"})
	ok(t, err, c.Join(n.ID, m.State().Data.ClusterID, []string{m.HTTPAddr()}))
	joined.Store(true)
	return c
}

// A change is true on all data nodes when it is confirmed, also on those whose long poll has not brought it yet.
func TestChangeIsEverywhereWhenItIsConfirmed(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	a, b := joined(t, m), newData(t)
	late := make(chan struct{})
	b.Late = func(ctx context.Context) {
		select {
		case <-late:
			hold(ctx)
		default:
		}
	}
	_, err := m.AddData(testContext(t), b.addr)
	ok(t, err)
	close(late)
	for i := range 3 {
		name := fmt.Sprint("db", i)
		_, err := a.CreateDatabase(name)
		ok(t, err)
		if b.Client.Client.Database(name) == nil {
			t.Errorf("%s is confirmed, and another node does not have it", name)
		}
		ok(t, b.DropDatabase(name))
		if a.Client.Client.Database(name) != nil {
			t.Errorf("%s is dropped, and another node still has it", name)
		}
	}
	// And so are those of the meta node's own API.
	ok(t, m.changeUser("create", userBody{Name: "ann", Password: "p"}))
	if b.State().User("ann") == nil {
		t.Error("a user of influxd-ctl is confirmed, and a data node does not have it")
	}
}

// A change goes to the leader, also when this node's copy says that there is nothing to do.
func TestOldCopyDoesNotAnswerChanges(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	c := joinedAlone(t, m)
	_, err := c.CreateDatabase("db")
	ok(t, err)
	_, err = c.CreateUser("ann", "p", false)
	ok(t, err)
	for _, op := range []cluster.Op{cluster.DropDatabase{Name: "db"}, cluster.DropUser{Name: "ann"}} {
		_, err := m.Execute(op)
		ok(t, err)
	}
	_, err = c.CreateDatabase("db")
	ok(t, err)
	_, err = c.CreateUser("ann", "p", false)
	ok(t, err)
	if m.State().Data.Database("db") == nil || m.State().User("ann") == nil {
		t.Error("what was created again is not there")
	}
	group := cluster.CreateShardGroup{Database: "db", RetentionPolicy: "autogen", Time: time.Unix(0, 0)}
	ok(t, c.Execute(group))
	index := m.State().Index
	_, err = c.CreateDatabase("db")
	ok(t, err, c.Execute(group))
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
	m := newMeta(t, true)
	c := joinedAlone(t, m)
	change := func(op cluster.Op) { t.Helper(); _, err := m.Execute(op); ok(t, err) }
	change(cluster.CreateDatabase{Name: "db"})
	if c.Client.Database("db") != nil {
		t.Fatal("the copy is not old")
	}
	if c.Database("db") == nil {
		t.Error("a database")
	}
	change(cluster.CreateRetentionPolicy{Database: "db", Spec: emeta.RetentionPolicySpec{Name: "rp"}})
	if rp, err := c.RetentionPolicy("db", "rp"); rp == nil || err != nil {
		t.Errorf("a policy: %v", err)
	}
	change(cluster.CreateUser{Name: "ann", Hash: "x"})
	if c.UserInfo("ann") == nil {
		t.Error("a user")
	}
	change(cluster.CreateUser{Name: "bob", Hash: "x", Admin: true})
	if !c.AdminUserExists() {
		t.Error("an administrator")
	}
	change(cluster.CreateUser{Name: "eve", Hash: "x"})
	change(cluster.SetPrivilege{User: "eve", Database: "db", Privilege: influxql.ReadPrivilege})
	if p, err := c.UserPrivileges("eve"); err != nil || p["db"] != influxql.ReadPrivilege {
		t.Errorf("privileges: %v, %v", p, err)
	}
	if c.Database("nope") != nil || c.UserInfo("nope") != nil {
		t.Error("nobody made these")
	}
}

// fakeMetaNode is a client of one meta node that answers as the handler does.
func fakeMetaNode(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c := NewClient(t.TempDir(), nil)
	c.who.Store(&identity{NodeID: 1, ClusterID: 1, MetaServers: []string{strings.TrimPrefix(s.URL, "http://")}})
	t.Cleanup(c.http.close)
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
	if limit := int64(time.Since(start)/refreshEvery) + 2; asked.Load() > limit || most.Load() > 1 {
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
	ctx := testContext(t)
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

// mustHang is the address of a meta node that takes connections and says nothing.
func mustHang(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	var mu sync.Mutex
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
		for _, c := range conns {
			c.Close()
		}
	})
	return ln.Addr().String()
}

// A meta node that hangs and is the first in the list costs a second, once.
func TestMetaNodeThatHangsHoldsUpNothing(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	hung := mustHang(t)
	for name, change := range map[string]func(*Client) error{
		"a change":                     func(c *Client) error { return c.DropDatabase("db") },
		"one that must not come twice": func(c *Client) error { return c.DropUser("nope") },
		"a lease":                      func(c *Client) error { _, err := c.AcquireLease("x"); return err },
	} {
		c := newClient(t, t.TempDir())
		n, err := m.node(cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"})
		ok(t, err)
		c.taking.Lock()
		c.who.Store(&identity{NodeID: n.ID, ClusterID: m.State().Data.ClusterID, MetaServers: []string{hung, m.HTTPAddr()}})
		c.taking.Unlock()
		if err := change(c); err != nil && !errors.Is(err, emeta.ErrUserNotFound) {
			t.Errorf("%s: %v", name, err)
		}
		if first := c.http.order(c.MetaServers())[0]; first != m.HTTPAddr() {
			t.Errorf("after %s %s is asked first, which hangs", name, first)
		}
	}
}

// A data node joins and follows also when the first meta node of its list hangs.
func TestMetaNodeThatHangsIsNotFollowed(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	c := newClient(t, t.TempDir())
	n, err := m.node(cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"})
	ok(t, err, c.Join(n.ID, m.State().Data.ClusterID, []string{mustHang(t), m.HTTPAddr()}))
	_, err = m.Execute(cluster.CreateDatabase{Name: "db"})
	ok(t, err, c.wait(testContext(t), hasDatabase("db")))
}

// A data node that hangs holds up one change, and the next one that it may hear of in time.
func TestDataNodeThatHangsIsWaitedForOnce(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	a := joined(t, m)
	_, err := m.node(cluster.CreateDataNode{TCPAddr: mustHang(t)})
	ok(t, err)
	start := time.Now()
	for i := range 5 {
		_, err := a.CreateDatabase(fmt.Sprint("db", i))
		ok(t, err)
	}
	if took := time.Since(start); took > 4*spreadTimeout {
		t.Errorf("five changes took %s", took)
	}
}

// A removed meta node says that it is in no cluster, and who followed it follows another one.
func TestRemovedMetaNodeIsNotFollowed(t *testing.T) {
	t.Parallel()
	nodes := newMetas(t, 3)
	leader := leaderOf(t, nodes)
	gone := others(nodes, leader)[0]
	c := newClient(t, t.TempDir())
	n, err := leader.node(cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"}) // the leader cannot tell it anything
	ok(t, err, c.Join(n.ID, leader.State().Data.ClusterID, []string{gone.HTTPAddr(), leader.HTTPAddr()}))
	c.http.prefer(gone.HTTPAddr())
	if _, err := leader.RemoveMeta(testContext(t), gone.HTTPAddr(), false); err != nil {
		t.Fatal(err)
	}
	code, body := call(t, "GET", "http://"+gone.HTTPAddr()+"/state?index=99999")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, ErrNotInitialised.Error()) {
		t.Errorf("the removed node: %d %s", code, body)
	}
	_, err = leaderOf(t, others(nodes, gone)).Execute(cluster.CreateDatabase{Name: "db"})
	ok(t, err, c.wait(testContext(t), hasDatabase("db")))
	_, err = c.CreateDatabase("db2")
	ok(t, err)
}

// A meta node that has lost the others does not say that nothing changed.
func TestMetaNodeWithoutALeaderIsNotFollowed(t *testing.T) {
	t.Parallel()
	nodes := newMetas(t, 3)
	last := nodes[0]
	for _, m := range nodes[1:] {
		m.Close()
	}
	ok(t, until(testContext(t), func() bool {
		code, _ := call(t, "GET", "http://"+last.HTTPAddr()+"/state?wait=10ms&index="+fmt.Sprint(last.State().Index))
		return code == http.StatusServiceUnavailable
	}))
}

// The clock of the leader decides what is expired, and when something was deleted.
func TestClockOfTheLeaderDecides(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	now := time.Now()
	var ahead atomic.Int64
	m.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	d := joined(t, m)
	hour := time.Hour
	spec := &emeta.RetentionPolicySpec{Name: "rp", Duration: &hour, ShardGroupDuration: hour}
	_, err := d.CreateDatabaseWithRetentionPolicy("db", spec)
	ok(t, err)
	g, err := d.CreateShardGroup("db", "rp", now)
	ok(t, err)
	// The data node's clock may be days ahead.
	if err := d.DeleteShardGroup("db", "rp", g.ID); err == nil || err.Error() != cluster.ErrNotExpired.Error() {
		t.Errorf("a group of now: %v", err)
	}
	if at, known := d.Now(); !known || at.Sub(now).Abs() > 10*time.Second {
		t.Errorf("the leader's time is %s, known %v; want %s", at, known, now)
	}
	ahead.Store(int64(5 * time.Hour))
	ok(t, d.DeleteShardGroup("db", "rp", g.ID))
	got := d.State().Data.Database("db").RetentionPolicy("rp").ShardGroups[0].DeletedAt
	if want := m.Now(); !got.Equal(want.UTC()) {
		t.Errorf("deleted at %s, want %s", got, want)
	}
	if at, _ := d.Now(); at.Sub(m.Now()).Abs() > 10*time.Second {
		t.Errorf("the leader's time is %s, want %s", at, m.Now())
	}
}

func TestDeletedShardIsKnown(t *testing.T) {
	t.Parallel()
	d := joined(t, newMeta(t, true))
	_, err := d.CreateDatabase("db")
	ok(t, err)
	g, err := d.CreateShardGroup("db", "autogen", time.Unix(0, 0))
	ok(t, err)
	id, index := g.Shards[0].ID, d.Index()
	for at, want := range map[uint64]bool{0: false, index: false, index + 1: false} {
		if d.Deleted(id, at) != want {
			t.Errorf("at %d of %d: want %v", at, index, want)
		}
	}
	ok(t, d.DropDatabase("db"))
	for at, want := range map[uint64]bool{0: false, index: true, d.Index(): true, d.Index() + 1: false} {
		if d.Deleted(id, at) != want {
			t.Errorf("dropped, at %d of %d: want %v", at, d.Index(), want)
		}
	}
}
