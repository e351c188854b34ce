package devcluster_test

import (
	"strings"
	"testing"

	"concord/internal/datanode"
	"concord/internal/handoff"
)

// TestFailedDeleteRunsAgain has an owner whose store fails while a delete runs on all others.
func TestFailedDeleteRunsAgain(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) { cfg.AntiEntropy.Enabled = false })
	mustQuery(ctx, t, c, 0, "", "CREATE DATABASE d WITH REPLICATION 3")
	for _, tt := range []struct {
		name            string
		through, failed int
	}{
		{"through another node", 0, 1},
		{"through the node itself", 2, 2},
	} {
		if err := c.Client(0).Write(ctx, "d", "all", points(yesterday(), 0, 20)); err != nil {
			t.Fatal(err)
		}
		id := c.Shards("d")[0].ID
		sh := c.Data[tt.failed].Store.Shard(id)
		sh.SetEnabled(false)
		_, err := c.Client(tt.through).Query(ctx, "d", "DELETE FROM m")
		if err == nil || !strings.Contains(err.Error(), "is run again there") {
			t.Errorf("%s: the delete fails with: %v", tt.name, err)
		}
		// A newer point stays, also where the delete runs after it.
		if err := c.Client(0).Write(ctx, "d", "one", points(yesterday(), 7, 1)); err != nil {
			t.Fatal(err)
		}
		sh.SetEnabled(true)
		if err := c.Wait(ctx, func() bool {
			for i, n := range c.Data {
				// While a queue has the delete, a write at all is not acknowledged.
				if len(storedValues(t, c, i, id)) != 1 || n.HintsPending(id) || n.HintsPending(handoff.WholeDatabase) {
					return false
				}
			}
			return true
		}); err != nil {
			t.Errorf("%s: nodes have %d, %d and %d points, not the one that was written after the delete", tt.name,
				len(storedValues(t, c, 0, id)), len(storedValues(t, c, 1, id)), len(storedValues(t, c, 2, id)))
		}
	}
}
