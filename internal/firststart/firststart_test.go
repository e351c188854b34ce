package firststart_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/firststart"
	"concord/internal/meta/httpclient"
	"concord/internal/meta/metatest"
)

const pause = 5 * time.Millisecond

// first runs the first start of a meta node until the test ends, and returns a function that waits for its end.
func first(t *testing.T, m *metatest.Meta, join ...string) (wait func()) {
	t.Helper()
	start := m.FirstStart(join)
	start.Pause = pause
	return beside(t, start.Run)
}

// beside runs a task until the test ends, and returns a function that waits for its end.
func beside(t *testing.T, task func(context.Context)) (wait func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(metatest.Context(t))
	done := make(chan struct{})
	go func() { defer close(done); task(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return func() { <-done }
}

func newMeta(t *testing.T) *metatest.Meta { return metatest.Start(t, metatest.Quick) }

// data is the first start of a data node.
func data(d *metatest.DataNode, plan firststart.Plan) firststart.Data {
	return firststart.Data{
		Plan: plan, Addr: d.Addr, Dir: d.Dir, Auth: true, Meta: d.Client, Ask: httpclient.New(nil, "").Ask,
		Log: zap.NewNop(), Pause: pause,
	}
}

func TestMetaNodesFormOneCluster(t *testing.T) {
	t.Parallel()
	var nodes []*metatest.Meta
	var join []string
	for range 3 {
		m := newMeta(t)
		nodes, join = append(nodes, m), append(join, m.HTTPAddr())
	}
	var waits []func()
	for i := range nodes {
		waits = append(waits, first(t, nodes[len(nodes)-1-i], join...)) // the one that begins comes last
	}
	for _, wait := range waits {
		wait()
	}
	if !metatest.Until(t, func() bool { return len(nodes[2].State().MetaNodes) == 3 }) {
		t.Fatalf("the cluster has %d meta nodes", len(nodes[2].State().MetaNodes))
	}
	want := nodes[0].State().Data.ClusterID
	for _, m := range nodes {
		if id := m.State().Data.ClusterID; id == 0 || id != want {
			t.Errorf("meta node %s is in cluster %d, the first one in %d", m.HTTPAddr(), id, want)
		}
	}
}

// While another meta node does not answer, it may be in a cluster: the first one does not begin another.
func TestNoClusterBeginsBesideOneThatMayBe(t *testing.T) {
	t.Parallel()
	one, other := newMeta(t), newMeta(t)
	addr := other.HTTPAddr()
	metatest.OK(t, other.Stop())
	core, logged := observer.New(zapcore.InfoLevel)
	start := one.FirstStart([]string{one.HTTPAddr(), addr})
	start.Pause, start.Log = pause, zap.New(core)
	wait := beside(t, start.Run)
	if !metatest.Until(t, func() bool { return logged.FilterMessage("Waiting to join a cluster").Len() > 0 }) {
		t.Fatal("the log does not say what the node waits for")
	}
	if id := one.State().Data.ClusterID; id != 0 {
		t.Fatalf("it began cluster %d", id)
	}
	other.Start(t)
	wait()
	if one.State().Data.ClusterID == 0 {
		t.Error("it did not begin a cluster when the other one said that it is in none")
	}
}

func TestAMetaNodeThatLostItsFolderComesBack(t *testing.T) {
	t.Parallel()
	nodes := metatest.NewCluster(t, 3)
	id := nodes[0].State().Data.ClusterID
	var join []string
	for _, m := range nodes {
		join = append(join, m.HTTPAddr())
	}
	metatest.OK(t, nodes[0].Stop())
	metatest.OK(t, os.RemoveAll(nodes[0].Deps.Config.Meta.Dir))
	nodes[0].Start(t)
	first(t, nodes[0], join...)()
	if !metatest.Until(t, func() bool { return nodes[0].State().Data.ClusterID == id }) {
		t.Errorf("it is in cluster %d, not in %d", nodes[0].State().Data.ClusterID, id)
	}
}

// plan is what most tests ask for.
func plan(join string) firststart.Plan {
	return firststart.Plan{
		Join: []string{"127.0.0.1:1", join}, Labels: map[string]string{"az": "north"},
		Setup: firststart.Setup{
			Database: "plant", Replicas: 1,
			Admin:  firststart.Account{Name: "root", Password: "1"},
			User:   firststart.Account{Name: "ann", Password: "2"},
			Reader: firststart.Account{Name: "rita", Password: "3"},
			Writer: firststart.Account{Name: "will", Password: "4"},
		},
	}
}

func TestDataNodeJoinsWhenAMetaNodeAnswersAndSetsUpTheCluster(t *testing.T) {
	t.Parallel()
	m, d := newMeta(t), metatest.NewData(t)
	core, logged := observer.New(zapcore.InfoLevel)
	start := data(d, plan(m.HTTPAddr()))
	start.Log = zap.New(core)
	wait := beside(t, start.Run)
	if !metatest.Until(t, func() bool { return logged.FilterMessage("Waiting to join a cluster").Len() > 0 }) {
		t.Fatal("the log does not say what the node waits for")
	}
	first(t, m, m.HTTPAddr())
	wait()
	if d.NodeID() == 0 {
		t.Fatal("the data node is in no cluster")
	}
	if n, _ := m.State().DataNode(d.NodeID()); n.Labels["az"] != "north" {
		t.Errorf("the data node has the labels %v", n.Labels)
	}
	if rp, err := d.RetentionPolicy("plant", "autogen"); err != nil || rp == nil || rp.ReplicaN != 1 {
		t.Errorf("the database has the policy %+v, %v", rp, err)
	}
	for name, want := range map[string]influxql.Privilege{
		"ann": influxql.AllPrivileges, "rita": influxql.ReadPrivilege, "will": influxql.WritePrivilege,
	} {
		if got, err := d.UserPrivilege(name, "plant"); err != nil || *got != want {
			t.Errorf("%s has the privilege %v, %v", name, got, err)
		}
	}
	u, err := d.Authenticate("root", "1")
	if err != nil || !u.(interface{ AuthorizeUnrestricted() bool }).AuthorizeUnrestricted() {
		t.Errorf("root is no administrator: %v", err)
	}
	left(t, d, nil)
}

// left compares the files that a first start left.
func left(t *testing.T, d *metatest.DataNode, want []string) {
	t.Helper()
	got, err := filepath.Glob(filepath.Join(d.Dir, "first-start"))
	metatest.OK(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files of the first start:\n%s", diff)
	}
}

// What was dropped does not come back, neither when a node starts again, nor when another one is added.
func TestTheSetupIsDoneOnce(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	one, two := metatest.NewData(t), metatest.NewData(t)
	start := data(one, plan(m.HTTPAddr()))
	start.Run(metatest.Context(t))
	metatest.OK(t, one.DropDatabase("plant"))
	metatest.OK(t, one.DropUser("ann"))
	start.Run(metatest.Context(t))
	data(two, plan(m.HTTPAddr())).Run(metatest.Context(t))
	if two.NodeID() == 0 {
		t.Fatal("the second node did not join")
	}
	for _, d := range []*metatest.DataNode{one, two} {
		metatest.OK(t, d.Refresh())
		if d.Database("plant") != nil || d.UserInfo("ann") != nil {
			t.Errorf("node %d brought back what was dropped", d.NodeID())
		}
		left(t, d, nil)
	}
}

// fails is metadata that breaks once a user is to be made, as a crash would.
type fails struct {
	firststart.Metadata
	crash func()
}

func (f fails) CreateUser(string, string, bool) (emeta.User, error) {
	f.crash()
	return nil, errors.New("the process is gone")
}

func TestACrashInTheMiddleIsFinishedByTheNextProcess(t *testing.T) {
	t.Parallel()
	m, d := metatest.New(t, true), metatest.NewData(t)
	ctx, crash := context.WithCancel(metatest.Context(t))
	start := data(d, plan(m.HTTPAddr()))
	start.Meta = fails{d.Client, sync.OnceFunc(crash)}
	start.Run(ctx)
	if d.Database("plant") == nil || d.UserInfo("ann") != nil {
		t.Fatal("the crash was not in the middle")
	}
	left(t, d, []string{filepath.Join(d.Dir, "first-start")})
	data(d, plan(m.HTTPAddr())).Run(metatest.Context(t))
	if d.UserInfo("ann") == nil || d.UserInfo("will") == nil {
		t.Error("the users were never made")
	}
	left(t, d, nil)
}

// Without authentication nobody logs in, and there are no users; as with the images of InfluxDB.
func TestUsersNeedAuthentication(t *testing.T) {
	t.Parallel()
	m, d := metatest.New(t, true), metatest.NewData(t)
	start := data(d, plan(m.HTTPAddr()))
	start.Auth = false
	start.Run(metatest.Context(t))
	if d.Database("plant") == nil || d.UserInfo("root") != nil {
		t.Error("there is no database, or there are users")
	}
}

// A node that an operator adds by hand does the rest by itself.
func TestSetupWaitsForAnOperator(t *testing.T) {
	t.Parallel()
	m, d := metatest.New(t, true), metatest.NewData(t)
	by := plan(m.HTTPAddr())
	by.Join = nil
	core, logged := observer.New(zapcore.InfoLevel)
	start := data(d, by)
	start.Log = zap.New(core)
	wait := beside(t, start.Run)
	if !metatest.Until(t, func() bool { return logged.FilterMessage("Waiting to set up the cluster").Len() > 0 }) {
		t.Fatal("the log does not say what the node waits for")
	}
	_, err := m.AddData(metatest.Context(t), d.Addr)
	metatest.OK(t, err)
	wait()
	if d.Database("plant") == nil || d.UserInfo("root") == nil {
		t.Error("the cluster has no database, or no administrator")
	}
}
