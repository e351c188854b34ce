package distquery

import (
	"context"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"

	"concord/internal/budget"
	"concord/internal/copystate"
)

// Where one owner alone has a whole copy, a query waits longer for the writes that are on their way to it: they were
// acknowledged, and arrive in a moment.
func TestLastWholeCopyIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, arrive := range map[string]bool{"they arrive": true, "they do not": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, testOptions{nodes: 2, replicas: 2})
			c.write(t, lines(5))
			c.nodes[1].server.whole.Unfit = func(_ context.Context, ids ...uint64) map[uint64]copystate.Unfit {
				unfit := make(map[uint64]copystate.Unfit)
				for _, id := range ids {
					unfit[id] = copystate.Unfit{Reason: "its disk is new", Readable: true, Rank: 5}
				}
				return unfit
			}
			n, _ := c.executing(t, c.nodes[0], newPool(t), 1<<30, &budget.Requests{})
			n.mapper.whole = Whole{
				Heard: plenty, Unfit: func(context.Context, ...uint64) map[uint64]copystate.Unfit { return nil },
				AwaitWrites: func(ctx context.Context, node uint64, ids []uint64) []uint64 {
					if until, ok := ctx.Deadline(); node != 1 || ok && time.Until(until) > awaitSoon && arrive {
						return nil
					}
					return ids
				},
			}
			rows, warnings := 0, 0
			n.results(t, "SELECT v FROM cpu", query.ExecutionOptions{}, func(r *query.Result) {
				if r.Err != nil {
					t.Error(r.Err)
				}
				for _, s := range r.Series {
					rows += len(s.Values)
				}
				warnings += len(r.Messages)
			})
			if rows == 0 || (warnings > 0) == arrive {
				t.Errorf("%d rows and %d warnings", rows, warnings)
			}
		})
	}
}
