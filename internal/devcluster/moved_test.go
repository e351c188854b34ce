package devcluster_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// A data node that is cut off from the meta nodes goes on to take writes, and sends them to the owner that it knows. So
// the only copy of a shard stays there until that node has heard of the new owner. No acknowledged point is lost.
func TestMoveWaitsForADataNodeThatIsCutOffFromTheMetaNodes(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 1`)
	at, n := yesterday(), 0
	var acknowledged []int64
	write := func(node int) {
		n++
		ns := at.Add(time.Duration(n) * time.Second).UnixNano()
		err := c.Client(node).Write(ctx, "db", "all", fmt.Appendf(nil, "m v=%di %d\n", n, ns))
		if err == nil {
			acknowledged = append(acknowledged, ns)
		}
		t.Logf("node %d, write %d: %v", node+1, n, err)
	}
	write(0)
	all := c.Shards("db")
	var owner int
	sh := all[slices.IndexFunc(all, func(sh cluster.Shard) bool { // the one that was written to
		owner = slices.IndexFunc(c.Meta.State().DataNodes, func(n cluster.Node) bool { return sh.Owned(n.ID) })
		return c.Data[owner].Store.Shard(sh.ID) != nil
	})]
	cutOff := (owner + 1) % 3
	awaitMetadata(ctx, t, c, cutOff)
	c.CutMeta(cutOff)
	waited := false
	err := rebalance(ctx, c, func(e wire.RebalanceEvent) {
		write(cutOff)
		t.Logf("%s %s", e.State, e.Note)
		if e.State == wire.StepWaiting && strings.Contains(e.Note, "has not said that it knows who owns which shards") {
			waited = true
			for range 20 {
				write(cutOff)
			}
			c.HealMeta(cutOff)
		}
	}, "-drain", addrOf(c, sh.Owners[0]))
	if err != nil || !waited {
		t.Errorf("the rebalance waited: %t, and ended with %v", waited, err)
	}
	write(cutOff)
	c.HealMeta(cutOff)
	awaitMetadata(ctx, t, c, (owner+2)%3)
	if n := owned(c, sh.Owners[0]); n != 0 {
		t.Errorf("the drained node owns %d shards", n)
	}
	if c.Data[owner].Store.Shard(sh.ID) != nil {
		t.Error("the files of the drained node are still there, or were made again")
	}
	var lost []int64
	have := make(map[int64]bool)
	for _, row := range mustQuery(ctx, t, c, 0, "db", "SELECT v FROM m") {
		ns, err := row[0].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		have[ns] = true
	}
	for _, ns := range acknowledged {
		if !have[ns] {
			lost = append(lost, ns)
		}
	}
	if len(lost) > 0 || len(acknowledged) < 20 {
		t.Errorf("of %d acknowledged points, %d are lost", len(acknowledged), len(lost))
	}
}
