package devcluster_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cli"
	"concord/internal/cluster"
	"concord/internal/ctl"
	"concord/internal/devcluster"
	"concord/internal/meta/wire"
	"concord/internal/operator/balance"
	"concord/internal/rpc"
)

// mustFill makes databases with one and with two copies of each shard, over several weeks: a shard group each.
func mustFill(ctx context.Context, t *testing.T, c *devcluster.Cluster, weeks, points int) {
	t.Helper()
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE one WITH REPLICATION 1`)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE two WITH REPLICATION 2`)
	for week := range weeks {
		at := yesterday().AddDate(0, 0, -7*week)
		for _, db := range []string{"one", "two"} {
			mustWriteAll(ctx, t, c, db, lines(points, at, time.Second))
		}
	}
}

// dryRun is the plan that influxd-ctl prints.
func dryRun(t *testing.T, c *devcluster.Cluster, args ...string) (p wire.RebalancePlan) {
	t.Helper()
	out := mustCtl(t.Context(), t, c, append([]string{"rebalance", "-dry-run", "-json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// checkBalanced checks that nothing is left to do, and that all nodes have nearly as many bytes.
func checkBalanced(t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	p := dryRun(t, c)
	var bytes []int64
	var total int64
	for _, n := range p.Nodes {
		bytes = append(bytes, n.Before)
		total += n.Before
	}
	spread, mean := slices.Max(bytes)-slices.Min(bytes), total/int64(len(bytes))
	if float64(spread) > balance.Tolerance*float64(mean) || len(p.Steps) > 0 {
		t.Errorf("the nodes have %v bytes, and %+v is left to do", bytes, p.Steps)
	}
}

// owned counts the shards of a node.
func owned(c *devcluster.Cluster, node uint64) (n int) {
	for _, sh := range c.Meta.State().Shards() {
		if sh.Owned(node) {
			n++
		}
	}
	return n
}

// events gets what a run prints with -json, and calls fn for each event.
type events struct {
	line []byte
	fn   func(wire.RebalanceEvent)
}

func (e *events) Write(b []byte) (int, error) {
	e.line = append(e.line, b...)
	for {
		line, rest, ok := bytes.Cut(e.line, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		var event wire.RebalanceEvent
		if err := json.Unmarshal(line, &event); err != nil {
			return 0, err
		}
		e.line = rest
		e.fn(event)
	}
}

// rebalance runs influxd-ctl rebalance, and calls fn for each event.
func rebalance(ctx context.Context, c *devcluster.Cluster, fn func(wire.RebalanceEvent), args ...string) error {
	root := &cobra.Command{Use: "influxd-ctl", SilenceUsage: true, SilenceErrors: true}
	ctl.Setup(root)
	root.SetOut(&events{fn: fn})
	root.SetArgs(cli.DoubleDash(append([]string{"-bind", c.Meta.HTTPAddr(), "rebalance", "-json"}, args...)))
	return root.ExecuteContext(ctx)
}

// slowly is a rate at which a copy of the shard of mustStartLarge takes about 20 seconds. On a busy machine, a test
// needs some of them for what it does meanwhile. The tests wait until the copy ends, so it is not slower.
const slowly = "200k"

// mustStartLarge returns a cluster with one shard of some megabytes and one copy, and the node that has it. What is in
// the shard is hardly compressed.
func mustStartLarge(t *testing.T) (context.Context, *devcluster.Cluster, cluster.Shard) {
	t.Helper()
	ctx, c := mustStart(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	random := make([]byte, 40<<10)
	source := rand.NewChaCha8([32]byte{1})
	for i := range 100 {
		source.Read(random)
		mustWriteAll(ctx, t, c, "db", fmt.Appendf(nil, "m,host=a s=%q,i=%di %d\n",
			base64.StdEncoding.EncodeToString(random), i, yesterday().Add(time.Duration(i)*time.Second).UnixNano()))
	}
	mustCtl(ctx, t, c, "rebalance", "-dry-run") // writes it to files
	for _, sh := range c.Shards("db") {
		owner := slices.IndexFunc(c.Meta.State().DataNodes, func(n cluster.Node) bool { return sh.Owned(n.ID) })
		if held := c.Data[owner].Store.Shard(sh.ID); held != nil {
			if size, err := held.DiskSize(); err == nil && size > 3<<20 {
				return ctx, c, sh
			}
		}
	}
	t.Fatal("there is no large shard")
	return nil, nil, cluster.Shard{}
}

// copyingOf is the step of a copy of a shard that has begun; nil for all other events.
func copyingOf(e wire.RebalanceEvent, shard uint64) *wire.RebalanceStep {
	if e.State == wire.StepCopying && e.Step.ShardID == shard && e.Copied > 0 {
		return e.Step
	}
	return nil
}

func addrOf(c *devcluster.Cluster, node uint64) string {
	n, _ := c.Meta.State().DataNode(node)
	return n.TCPAddr
}

// Under writes, at all times: no acknowledged point is lost.
func TestDrainEmptiesANodeAndLosesNothing(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 4)
	const weeks, points = 6, 500
	mustFill(ctx, t, c, weeks, points)
	acknowledged, stop := map[int64]bool{}, make(chan struct{})
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			at := yesterday().Add(time.Duration(i) * time.Second).UnixNano()
			if c.Client(i%3).Write(ctx, "one", "all", fmt.Appendf(nil, "w,host=h%d v=%di %d\n", i%7, i, at)) == nil {
				acknowledged[at] = true
			}
		}
	}()
	drained := c.Meta.State().DataNodes[3]
	before := owned(c, drained.ID)
	out := mustCtl(ctx, t, c, "rebalance", "-drain", drained.TCPAddr)
	close(stop)
	<-wrote
	t.Logf("%d acknowledged points\n%s", len(acknowledged), out)
	if n := owned(c, drained.ID); n != 0 || before == 0 {
		t.Errorf("the node owns %d shards, and owned %d", n, before)
	}
	want := drained.TCPAddr + " is empty: remove it with influxd-ctl remove-data " + drained.TCPAddr
	if !strings.Contains(out, want) {
		t.Errorf("it printed\n%s\nwithout %s", out, want)
	}
	want = fmt.Sprintf("Removed data node %d at %s\n", drained.ID, drained.TCPAddr)
	if out := mustCtl(ctx, t, c, "remove-data", drained.TCPAddr); out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	for _, db := range []string{"one", "two"} {
		waitCount(ctx, t, c, db, fmt.Sprint(weeks*points))
	}
	for _, row := range mustQuery(ctx, t, c, 0, "one", "SELECT v FROM w") {
		at, err := row[0].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		delete(acknowledged, at)
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged points are lost", len(acknowledged))
	}
	mustCtl(ctx, t, c, "rebalance") // of what was written meanwhile
	checkBalanced(t, c)
}

// The command ends while a copy is made. The copy goes on, and the next run waits for it and makes no other one.
func TestRebalanceGoesOnAfterItsCommandEnded(t *testing.T) {
	t.Parallel()
	ctx, c, sh := mustStartLarge(t)
	from := addrOf(c, sh.Owners[0])
	interrupted, interrupt := context.WithCancel(ctx)
	defer interrupt()
	err := rebalance(interrupted, c, func(e wire.RebalanceEvent) {
		if copyingOf(e, sh.ID) != nil {
			interrupt()
		}
	}, "-drain", from, "-max-rate", slowly)
	for _, want := range []string{fmt.Sprintf("influxd-ctl kill-copy-shard %s ", from), "-undrain " + from} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the command says %v, without %s", err, want)
		}
	}
	waited, copied := false, false
	if c.Wait(ctx, func() bool { // the server may not have noticed yet that the first command has ended
		err = rebalance(ctx, c, func(e wire.RebalanceEvent) {
			waited = waited || len(e.Waiting) > 0
			copied = copied || copyingOf(e, sh.ID) != nil
		})
		return err == nil || !strings.Contains(err.Error(), "running already")
	}) != nil || err != nil {
		t.Error(err)
	}
	if !waited || copied {
		t.Errorf("it waited for the copy: %t; it made another one: %t", waited, copied)
	}
	if n := owned(c, sh.Owners[0]); n != 0 {
		t.Errorf("the drained node owns %d shards", n)
	}
	waitCount(ctx, t, c, "db", "100")
}

// A copy that was killed is not made again by itself, and the drain can be ended.
func TestKilledCopyEndsItsStep(t *testing.T) {
	t.Parallel()
	ctx, c, sh := mustStartLarge(t)
	from := addrOf(c, sh.Owners[0])
	killed := false
	err := rebalance(ctx, c, func(e wire.RebalanceEvent) {
		if s := copyingOf(e, sh.ID); s != nil && !killed {
			killed = true
			mustCtl(ctx, t, c, "kill-copy-shard", s.Source, s.To, fmt.Sprint(s.ShardID))
		}
	}, "-drain", from, "-max-rate", "300k") // it is killed: no need to be quicker
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("shard %d: ", sh.ID)) ||
		!strings.Contains(err.Error(), "the copy was killed") {
		t.Errorf("it ended with %v", err)
	}
	if now, _ := c.Meta.State().Shard(sh.ID); !slices.Equal(now.Owners, sh.Owners) {
		t.Errorf("the owners are %v, were %v", now.Owners, sh.Owners)
	}
	if out := mustCtl(ctx, t, c, "show"); !strings.Contains(out, from+", gets no new shards") {
		t.Error(out)
	}
	mustCtl(ctx, t, c, "rebalance", "-undrain", from)
	if n, _ := c.Meta.State().DataNode(sh.Owners[0]); n.Draining {
		t.Error("it is still being drained")
	}
	if _, err := runCtl(ctx, c, "rebalance", "-undrain", from); err == nil {
		t.Error("a drain ended twice")
	}
}

// The node that gets the copy stops while it is made, and comes back: the run goes on.
func TestRebalanceWaitsForANodeThatWentAway(t *testing.T) {
	t.Parallel()
	ctx, c, sh := mustStartLarge(t)
	from := addrOf(c, sh.Owners[0])
	to := slices.IndexFunc(c.Meta.State().DataNodes, func(n cluster.Node) bool { return n.ID != sh.Owners[0] })
	stopped, waited := false, false
	if err := rebalance(ctx, c, func(e wire.RebalanceEvent) {
		if copyingOf(e, sh.ID) != nil && !stopped {
			stopped = true
			if err := c.StopData(to); err != nil {
				t.Error(err)
			}
		}
		if stopped && !waited && e.State == wire.StepWaiting {
			waited = true
			if err := c.StartData(to); err != nil {
				t.Error(err)
			}
		}
	}, "-drain", from, "-max-rate", slowly); err != nil {
		t.Error(err)
	}
	if !waited {
		t.Error("it never waited")
	}
	if n := owned(c, sh.Owners[0]); n != 0 {
		t.Errorf("the drained node owns %d shards", n)
	}
	waitCount(ctx, t, c, "db", "100")
}

func TestDrainIsRefusedWithNowhereToGo(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	sh := c.Shards("db")[0]
	for _, args := range [][]string{{"-drain", addr(t, c, 1)}, {"-dry-run", "-drain", addr(t, c, 1)}} {
		_, err := runCtl(ctx, c, append([]string{"rebalance"}, args...)...)
		want := fmt.Sprintf("data node %s cannot be drained: shard %d of db.autogen stays on", addr(t, c, 1), sh.ID)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if n := c.Meta.State().DataNodes[1]; n.Draining {
		t.Error("it is being drained")
	}
	mustQuery(ctx, t, c, 0, "", `ALTER RETENTION POLICY autogen ON db REPLICATION 1`)
	mustCtl(ctx, t, c, "rebalance", "-drain", addr(t, c, 1))
	waitCount(ctx, t, c, "db", "100")
	if sh, _ := c.Meta.State().Shard(sh.ID); !slices.Equal(sh.Owners, []uint64{c.Meta.State().DataNodes[0].ID}) {
		t.Errorf("the owners are %v", sh.Owners)
	}
}

// A policy that asks for more copies gets them.
func TestRebalanceMakesTheCopiesOfAPolicy(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	mustQuery(ctx, t, c, 0, "", `ALTER RETENTION POLICY autogen ON db REPLICATION 2`)
	for _, s := range dryRun(t, c).Steps {
		if s.Kind != "copy" || s.Reason != string(balance.TooFew) {
			t.Errorf("a step is %+v", s)
		}
	}
	mustCtl(ctx, t, c, "rebalance")
	for _, sh := range c.Shards("db") {
		if len(sh.Owners) != 2 {
			t.Errorf("shard %d has the owners %v", sh.ID, sh.Owners)
		}
	}
	if left := dryRun(t, c).Steps; len(left) > 0 {
		t.Errorf("%+v is left to do", left)
	}
}

func TestOneRebalanceRunsAtATime(t *testing.T) {
	t.Parallel()
	ctx, c, sh := mustStartLarge(t)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := false
	rebalance(ctx, c, func(e wire.RebalanceEvent) {
		s := copyingOf(e, sh.ID)
		if s == nil || asked {
			return
		}
		asked = true
		err := rebalance(ctx, c, func(wire.RebalanceEvent) {})
		if err == nil || !strings.Contains(err.Error(), "running already") {
			t.Errorf("a second run: %v", err)
		}
		mustCtl(ctx, t, c, "kill-copy-shard", s.Source, s.To, fmt.Sprint(s.ShardID))
		cancel()
	}, "-drain", addrOf(c, sh.Owners[0]), "-max-rate", "100k")
	if !asked {
		t.Error("no copy was made")
	}
}

// A copy that its node is told to doubt is not whole until it was compared.
func TestDoubtedCopyIsComparedAgain(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	mustWriteAll(ctx, t, c, "db", lines(100, yesterday(), time.Second))
	sh := c.Shards("db")[0]
	conn, err := c.Meta.Pool().Conn(addr(t, c, 1))
	if err != nil {
		t.Fatal(err)
	}
	shards := rpc.NewShardsClient(conn)
	notWhole := func() string {
		d, err := shards.Describe(ctx, &rpc.DescribeRequest{ShardIds: []uint64{sh.ID}})
		if err != nil {
			t.Fatal(err)
		}
		return d.Shards[0].NotWhole
	}
	if err := c.Wait(ctx, func() bool { return notWhole() == "" }); err != nil {
		t.Fatal(err)
	}
	c.Cut(0) // nothing is compared meanwhile
	if _, err := shards.Doubt(ctx, &rpc.DoubtRequest{ShardId: sh.ID}); err != nil {
		t.Fatal(err)
	}
	if notWhole() == "" {
		t.Error("it is whole")
	}
	c.Heal(0)
	if err := c.Wait(ctx, func() bool { return notWhole() == "" }); err != nil {
		t.Error("it is never whole again")
	}
	if _, err := shards.Doubt(ctx, &rpc.DoubtRequest{ShardId: 999}); status.Code(err) != codes.NotFound {
		t.Errorf("of a shard that is not there: %v", err)
	}
}

// A node that was lost, and drives the repairs of its shards, is drained: the copies are made of the other owner's.
func TestDrainOfANodeThatIsAway(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	for week := range 3 {
		mustWriteAll(ctx, t, c, "db", lines(100, yesterday().AddDate(0, 0, -7*week), time.Second))
	}
	settled(ctx, t, c)
	gone := c.Meta.State().DataNodes[0]
	if err := c.StopData(0); err != nil {
		t.Fatal(err)
	}
	mustCtl(ctx, t, c, "rebalance", "-drain", gone.TCPAddr)
	mustCtl(ctx, t, c, "remove-data", "-force", gone.TCPAddr)
	for _, sh := range c.Shards("db") {
		if len(sh.Owners) != 2 {
			t.Errorf("shard %d has the owners %v", sh.ID, sh.Owners)
		}
	}
	if rows := mustQuery(ctx, t, c, 1, "db", "SELECT count(i) FROM m"); len(rows) != 1 ||
		fmt.Sprint(rows[0][1]) != "300" {
		t.Errorf("the other nodes have %v", rows)
	}
}
