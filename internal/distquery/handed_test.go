package distquery

import (
	"strings"
	"testing"

	"github.com/influxdata/influxdb/query"

	"concord/internal/budget"
	"concord/internal/enginetest"
)

// The engine cannot compile percentile of a string, and forgets what it opened until then.
func TestStatementThatFailsKeepsNoFileOpen(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 1, replicas: 1})
	c.write(t, "number,h=a f=1 1\nnumber,h=b f=2 2\ntext,h=a f=\"x\" 1\ntext,h=b f=\"y\" 2")
	n, _ := c.limited(t, newPool(t), 1<<30, &budget.Requests{})
	for _, id := range n.store.ShardIDs() {
		if err := enginetest.Engine(t, n.store.Shard(id)).WriteSnapshot(); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []string{
		"SELECT percentile(f, 50) FROM text GROUP BY *",
		"EXPLAIN ANALYZE SELECT percentile(f, 50) FROM text",
		"SELECT max(p) FROM (SELECT percentile(f, 50) AS p FROM text GROUP BY h)",
	} {
		answer := n.run(t, q, query.ExecutionOptions{})
		for _, id := range n.store.ShardIDs() {
			sh := n.store.Shard(id)
			if err := sh.SetNewReadersBlocked(true); err != nil {
				t.Fatal(err)
			}
			if used, err := sh.InUse(); used || err != nil {
				t.Errorf("after %s, shard %d is in use: %t, %v; the answer is %s", q, id, used, err, answer)
			}
			if err := sh.SetNewReadersBlocked(false); err != nil {
				t.Fatal(err)
			}
		}
		if !strings.HasPrefix(answer, "error: ") {
			t.Errorf("%s: %s", q, answer)
		}
	}
}
