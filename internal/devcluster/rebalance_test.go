package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"concord/internal/devcluster"
	"concord/internal/meta/wire"
	"concord/internal/operator/balance"
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

// loads are the bytes of copies on each node that owns some, as a plan counts them, and the steps that are left to do.
func loads(t *testing.T, c *devcluster.Cluster) (bytes map[string]int64, steps []wire.RebalanceStep) {
	t.Helper()
	var p wire.RebalancePlan
	if err := json.Unmarshal([]byte(mustCtl(t.Context(), t, c, "rebalance", "-dry-run", "-json")), &p); err != nil {
		t.Fatal(err)
	}
	bytes = make(map[string]int64)
	for _, n := range p.Nodes {
		if !n.Draining {
			bytes[n.TCPAddr] = n.Before
		}
	}
	return bytes, p.Steps
}

// checkBalanced checks that all nodes have nearly as many bytes.
func checkBalanced(t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	bytes, steps := loads(t, c)
	var least, most, total int64
	for _, b := range bytes {
		if least == 0 || b < least {
			least = b
		}
		most, total = max(most, b), total+b
	}
	mean := total / int64(len(bytes))
	if float64(most-least) > balance.Tolerance*float64(mean) || len(steps) > 0 {
		t.Errorf("the nodes have %v, and %+v is left to do", bytes, steps)
	}
}

// owned counts the shards of a node.
func owned(c *devcluster.Cluster, node int) (n int) {
	st := c.Meta.State()
	for _, sh := range st.Shards() {
		if slices.Contains(sh.Owners, st.DataNodes[node].ID) {
			n++
		}
	}
	return n
}

func TestDrainEmptiesANodeAndLosesNothing(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 4)
	const weeks, points = 6, 500
	mustFill(ctx, t, c, weeks, points)
	drained := addr(t, c, 3)
	out := mustCtl(ctx, t, c, "rebalance", "-drain", drained)
	t.Log(out)
	if n := owned(c, 3); n != 0 {
		t.Errorf("the node owns %d shards", n)
	}
	if want := drained + " is empty: remove it with influxd-ctl remove-data " + drained; !strings.Contains(out, want) {
		t.Errorf("it printed\n%s\nwithout %s", out, want)
	}
	if out := mustCtl(ctx, t, c, "remove-data", drained); strings.Contains(out, "lost") {
		t.Error(out)
	}
	for _, db := range []string{"one", "two"} {
		waitCount(ctx, t, c, db, fmt.Sprint(weeks*points))
	}
	checkBalanced(t, c)
}
