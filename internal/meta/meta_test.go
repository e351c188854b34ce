package meta

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"github.com/influxdata/influxdb/coordinator"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/retention"
	"github.com/influxdata/influxql"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/meta/metaconfig"
	"concord/internal/rpc"
)

var (
	_ coordinator.MetaClient = (*Client)(nil)
	_ retention.MetaClient   = (*Client)(nil)
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// testMeta is a meta node that can be stopped and started on its ports.
type testMeta struct {
	*Server
	cfg         *metaconfig.Config
	tune        func(*raft.Config)
	log         *zap.Logger
	ShardRepair http.Handler
}

func newMeta(t *testing.T, single bool) *testMeta {
	t.Helper()
	m := &testMeta{cfg: metaconfig.New()}
	m.cfg.Meta.Dir = t.TempDir()
	m.cfg.Meta.BindAddress, m.cfg.Meta.HTTPBindAddress = "127.0.0.1:0", "127.0.0.1:0"
	m.cfg.SingleServer = single
	m.start(t)
	t.Cleanup(func() { m.Close() })
	return m
}

func (m *testMeta) start(t *testing.T) {
	t.Helper()
	if err := until(testContext(t), func() bool {
		m.Server = NewServer(m.cfg, m.log)
		m.Server.tune, m.Server.ShardRepair = m.tune, m.ShardRepair
		err := m.Open(testContext(t))
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) { // a client of another test may have its port for a moment
			t.Fatal(err)
		}
		return err == nil
	}); err != nil {
		t.Fatal("a port of its stays in use")
	}
	m.cfg.Meta.BindAddress, m.cfg.Meta.HTTPBindAddress = m.RaftAddr(), m.HTTPAddr()
}

// dataNode is the membership service of a data node over a real client.
type dataNode struct {
	rpc.UnimplementedMembershipServer
	*Client
	addr string
}

func (d *dataNode) Identify(context.Context, *rpc.IdentifyRequest) (*rpc.IdentifyResponse, error) {
	return &rpc.IdentifyResponse{NodeId: d.NodeID(), ClusterId: d.ClusterID(), HttpAddr: "http:1", Version: "v"}, nil
}

func (d *dataNode) Join(_ context.Context, r *rpc.JoinRequest) (*rpc.JoinResponse, error) {
	if err := d.Client.Join(r.NodeId, r.ClusterId, r.MetaServers); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &rpc.JoinResponse{}, nil
}

func (d *dataNode) Leave(context.Context, *rpc.LeaveRequest) (*rpc.LeaveResponse, error) {
	return &rpc.LeaveResponse{}, d.Client.Leave()
}

func (d *dataNode) CatchUp(ctx context.Context, r *rpc.CatchUpRequest) (*rpc.CatchUpResponse, error) {
	if d.ClusterID() != r.ClusterId {
		return nil, status.Error(codes.FailedPrecondition, "another cluster")
	}
	if err := d.Client.CatchUp(ctx, r.Index, r.Leader); err != nil {
		return nil, status.Error(codes.DeadlineExceeded, err.Error())
	}
	return &rpc.CatchUpResponse{}, nil
}

func newClient(t *testing.T, dir string) *Client {
	t.Helper()
	c := NewClient(dir, nil)
	if err := c.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func newData(t *testing.T) *dataNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dataNode{Client: newClient(t, t.TempDir()), addr: ln.Addr().String()}
	s := rpc.NewServer()
	rpc.RegisterMembershipServer(s, d)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return d
}

func joined(t *testing.T, m *testMeta) *dataNode {
	t.Helper()
	d := newData(t)
	n, err := m.AddData(testContext(t), d.addr)
	if err != nil {
		t.Fatal(err)
	}
	if d.NodeID() != n.ID || n.ID == 0 {
		t.Fatalf("node %d joined as %d", n.ID, d.NodeID())
	}
	return d
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// call returns status code and body of a request to the meta node's API.
func call(t *testing.T, method, url string) (int, string) {
	t.Helper()
	return do(t, &http.Client{}, method, url)
}

// callOnly does not follow to the leader.
func callOnly(t *testing.T, method, url string) (int, string) {
	t.Helper()
	return do(t, &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, method, url)
}

func do(t *testing.T, c *http.Client, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(testContext(t), method, url, nil)
	ok(t, err)
	c.Transport = &http.Transport{DisableKeepAlives: true}
	resp, err := c.Do(req)
	ok(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ok(t, err)
	return resp.StatusCode, string(b)
}

func TestClusterStartsThroughTheAPI(t *testing.T) {
	t.Parallel()
	m, d := newMeta(t, false), newData(t)
	base := "http://" + m.HTTPAddr()
	if code, body := call(t, "GET", base+"/status"); code != 200 || !strings.Contains(body, `"leader":""`) {
		t.Fatalf("status before joining: %d %s", code, body)
	}
	if code, body := call(t, "POST", base+"/add-data?addr="+d.addr); code != 503 || !strings.Contains(body, ErrNotInitialised.Error()) {
		t.Fatalf("add-data before add-meta: %d %s", code, body)
	}
	if code, body := call(t, "POST", base+"/add-meta?addr=192.0.2.1:8091"); code != 400 || !strings.Contains(body, "is in no cluster yet") {
		t.Fatalf("add-meta of another node: %d %s", code, body)
	}
	var first, again cluster.Node
	for _, n := range []*cluster.Node{&first, &again} {
		code, body := call(t, "POST", base+"/add-meta?addr="+m.HTTPAddr())
		if code != 200 || json.Unmarshal([]byte(body), n) != nil {
			t.Fatalf("add-meta: %d %s", code, body)
		}
	}
	if first.ID != again.ID || first.HTTPAddr != m.HTTPAddr() || first.TCPAddr != m.RaftAddr() {
		t.Errorf("add-meta gave %+v, then %+v", first, again)
	}
	for range 2 {
		code, body := call(t, "POST", base+"/add-data?addr="+d.addr)
		var n cluster.Node
		if code != 200 || json.Unmarshal([]byte(body), &n) != nil || n.ID != d.NodeID() {
			t.Fatalf("add-data: %d %s", code, body)
		}
	}
	_, err := d.CreateDatabase("db")
	ok(t, err)
	_, err = d.CreateShardGroup("db", "autogen", time.Unix(0, 0))
	ok(t, err)
	for path, want := range map[string]string{
		"/show-cluster": d.addr, "/show-shards": `"owners":[{"id":2,"tcpAddr":"` + d.addr, "/status": `"leader":"` + m.RaftAddr(),
	} {
		if code, body := call(t, "GET", base+path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, _ := call(t, "GET", base+"/ping"); code != 204 {
		t.Errorf("ping: %d", code)
	}
	if code, body := call(t, "POST", base+"/remove-data?addr="+d.addr); code != 200 || d.NodeID() != 0 {
		t.Errorf("remove-data: %d %s, node is still %d", code, body, d.NodeID())
	}
}

func TestAddDataRefusesWithAReason(t *testing.T) {
	t.Parallel()
	m, other := newMeta(t, true), newMeta(t, true)
	d := joined(t, other)
	for addr, want := range map[string]string{
		d.addr: "belongs to another cluster", "127.0.0.1:1": "is unreachable", "data1": "give host:8088",
	} {
		if _, err := m.AddData(testContext(t), addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", addr, err, want)
		}
	}
	if n := len(m.State().DataNodes); n != 0 {
		t.Errorf("%d data nodes were added", n)
	}
}

func TestUnreachableDataNodeIsRemovedOnlyByForce(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	_, err := m.node(cluster.CreateDataNode{TCPAddr: "127.0.0.1:1"})
	ok(t, err)
	if _, err := m.RemoveData(testContext(t), "127.0.0.1:1", false); err == nil || len(m.State().DataNodes) != 1 {
		t.Errorf("removed without force: %v", err)
	}
	if _, err := m.RemoveData(testContext(t), "127.0.0.1:1", true); err != nil || len(m.State().DataNodes) != 0 {
		t.Errorf("not removed with force: %v", err)
	}
}

func TestNothingIsLostByARestart(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	d := joined(t, m)
	_, err := d.CreateDatabase("before")
	ok(t, err)
	want, _ := m.State().MarshalBinary()
	ok(t, m.st().raft.Snapshot().Error())
	_, err = d.CreateDatabase("after-snapshot")
	ok(t, err)
	index := m.State().Index
	ok(t, m.Close())
	if _, err := d.CreateDatabase("down"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("change without meta nodes: %v", err)
	}
	m.start(t)
	if m.State().Index != index || m.State().Data.Database("before") == nil || m.State().Data.Database("after-snapshot") == nil {
		t.Errorf("index %d, want %d", m.State().Index, index)
	}
	var first cluster.State
	ok(t, first.UnmarshalBinary(want))
	if d := cmp.Diff(first.MetaNodes, m.State().MetaNodes); d != "" {
		t.Error(d)
	}
	_, err = d.CreateDatabase("again") // the client follows again on its own
	ok(t, err)
}

func TestClientServesFromDiskWithTheMetaNodeDown(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	d := joined(t, m)
	_, err := d.CreateDatabase("db")
	ok(t, err)
	_, err = d.CreateUser("ann", "secret", true)
	ok(t, err)
	ok(t, d.Close(), m.Close())

	c := newClient(t, d.dir)
	if c.NodeID() != d.NodeID() || c.ClusterID() != d.ClusterID() || c.ClusterID() == 0 || len(c.DataNodes()) != 1 {
		t.Errorf("node %d of %x, nodes %v", c.NodeID(), c.ClusterID(), c.DataNodes())
	}
	if c.Database("db") == nil || c.State().Index != d.State().Index || !c.AdminUserExists() {
		t.Error("the database or the user is gone")
	}
	_, err = c.Authenticate("ann", "secret")
	ok(t, err)
	ok(t, c.Close())

	// A damaged copy is no reason not to start.
	path := filepath.Join(d.dir, stateFile)
	b, err := os.ReadFile(path)
	ok(t, err)
	ok(t, os.WriteFile(path, bytes.Replace(b, []byte("db"), []byte("xx"), 1), 0o600))
	m.start(t)
	c = newClient(t, d.dir)
	ok(t, c.wait(testContext(t), func(s *cluster.State) bool { return s.Data.Database("db") != nil }))
}

func TestChangeReachesOtherNodes(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	a, b := joined(t, m), joined(t, m)
	changed, data := b.Changed(), b.WaitForDataChanged()
	if b.State().Index < m.State().Index {
		ok(t, b.wait(testContext(t), func(s *cluster.State) bool { return s.Index >= m.State().Index }))
		changed, data = b.Changed(), b.WaitForDataChanged()
	}
	start := time.Now()
	_, err := a.CreateDatabase("db")
	ok(t, err)
	for _, c := range []<-chan struct{}{changed, data} {
		select {
		case <-c:
		case <-testContext(t).Done():
			t.Fatal("no change seen")
		}
	}
	ok(t, b.wait(testContext(t), func(s *cluster.State) bool { return s.Data.Database("db") != nil }))
	if took := time.Since(start); took > time.Second {
		t.Errorf("the change took %s", took)
	}
	if got := b.Database("db").RetentionPolicies[0].ReplicaN; got != 2 {
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
	m := newMeta(t, true)
	a, b := joined(t, m), joined(t, m)
	_, err := a.CreateUser("ann", "old", false)
	ok(t, err)
	ok(t, b.wait(testContext(t), func(s *cluster.State) bool { return s.Data.User("ann") != nil }))
	for _, c := range []*dataNode{a, b, b} { // b has it in its cache now
		_, err := c.Authenticate("ann", "old")
		ok(t, err)
	}
	ok(t, a.UpdateUser("ann", "new"))
	ok(t, b.wait(testContext(t), func(s *cluster.State) bool { return s.Index >= a.State().Index }))
	for _, c := range []*dataNode{a, b} {
		if _, err := c.Authenticate("ann", "old"); !errors.Is(err, emeta.ErrAuthenticate) {
			t.Errorf("old password: %v", err)
		}
		_, err := c.Authenticate("ann", "new")
		ok(t, err)
	}
	if _, err := a.Authenticate("bob", ""); !errors.Is(err, emeta.ErrUserNotFound) {
		t.Errorf("unknown user: %v", err)
	}
}

func TestEveryChangeAndItsErrors(t *testing.T) {
	t.Parallel()
	d := joined(t, newMeta(t, true))
	one, two, day := 1, 2, 24*time.Hour
	_, err := d.CreateDatabaseWithRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "week", Duration: &day})
	ok(t, err)
	if _, err := d.CreateDatabaseWithRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "other"}); err != emeta.ErrRetentionPolicyConflict {
		t.Errorf("conflict: %v", err)
	}
	_, err = d.CreateRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "rp", ReplicaN: &one}, false)
	ok(t, err)
	if _, err := d.CreateRetentionPolicy("db", &emeta.RetentionPolicySpec{Name: "rp2", ReplicaN: &two}, false); err == nil || !strings.Contains(err.Error(), "number of data nodes, 1") {
		t.Errorf("factor: %v", err)
	}
	if _, err := d.CreateShardGroup("nope", "rp", time.Now()); err == nil || err.Error() != "database not found: nope" {
		t.Errorf("missing database: %v", err)
	}
	g, err := d.CreateShardGroup("db", "rp", time.Now())
	ok(t, err)
	index := d.State().Index
	again, err := d.CreateShardGroup("db", "rp", time.Now())
	ok(t, err)
	if again.ID != g.ID || d.State().Index != index {
		t.Error("an existing group took a round trip")
	}
	newName := "renamed"
	_, err = d.CreateUser("ann", "x", false)
	ok(t, err,
		d.UpdateRetentionPolicy("db", "week", &emeta.RetentionPolicyUpdate{Name: &newName}, false),
		d.CreateContinuousQuery("db", "cq", "q"), d.CreateSubscription("db", "rp", "s", "ALL", []string{"http://h:1"}),
		d.SetPrivilege("ann", "db", influxql.ReadPrivilege), d.SetAdminPrivilege("ann", true),
		d.TruncateShardGroups(time.Now()), d.PrecreateShardGroups(time.Now(), time.Now().Add(day)), d.PruneShardGroups())
	if p, err := d.UserPrivilege("ann", "db"); err != nil || *p != influxql.ReadPrivilege || !d.AdminUserExists() {
		t.Errorf("privilege %v, %v", p, err)
	}
	if db := d.Database("db"); db.DefaultRetentionPolicy != newName || len(db.ContinuousQueries) != 1 || len(db.RetentionPolicy("rp").Subscriptions) != 1 {
		t.Errorf("got %+v", db)
	}
	if _, err := d.CreateUser("ann", "y", true); err != emeta.ErrUserExists {
		t.Errorf("user: %v", err)
	}
	if err := d.DropSubscription("db", "rp", "nope"); err != emeta.ErrSubscriptionNotFound {
		t.Errorf("subscription: %v", err)
	}
	ok(t, d.DropSubscription("db", "rp", "s"), d.DropContinuousQuery("db", "cq"),
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
	c := newClient(t, t.TempDir())
	if _, err := c.CreateDatabase("db"); !errors.Is(err, ErrNotJoined) {
		t.Errorf("got %v", err)
	}
	if c.State() == nil || len(c.Databases()) != 0 || c.NodeID() != 0 {
		t.Error("a new node knows something")
	}
}

func TestMemberOfAnotherClusterDoesNotJoin(t *testing.T) {
	t.Parallel()
	d := joined(t, newMeta(t, true))
	if err := d.Client.Join(d.NodeID(), d.ClusterID(), d.MetaServers()); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if err := d.Client.Join(1, d.ClusterID()+1, d.MetaServers()); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c")
	load := func(text string, env map[string]string) (*metaconfig.Config, error) {
		ok(t, os.WriteFile(path, []byte(text), 0o600))
		return metaconfig.Program.Load(path, func(k string) string { return env[k] })
	}
	c, err := load("[meta]\ndir=\"/y\"", map[string]string{"INFLUXDB_META_DIR": "/x", "INFLUXDB_HOSTNAME": "meta1"})
	ok(t, err)
	if c.Meta.Dir != "/x" || c.Advertised(":8091", hostPort("0.0.0.0:8091")) != "meta1:8091" {
		t.Errorf("got %+v", c)
	}
	for text, want := range map[string]string{
		"[meta]\nhttps-enabled=true": ":2: [meta] https-enabled: needs https-certificate",
		"[meta]\nauth-enabled=true":  ":2: [meta] auth-enabled: needs internal-shared-secret",
		"[meta]\ndri=\"x\"":          ":2: [meta] dri: unknown setting",
		"[meta]\nbind-address=\"x\"": ":2: [meta] bind-address: ",
		"[meta]\ndir=3":              ":2: [meta] dir: ",
	} {
		if _, err := load(text, nil); err == nil || !strings.HasPrefix(err.Error(), path+want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
