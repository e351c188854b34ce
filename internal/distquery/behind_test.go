package distquery

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/query"

	"concord/internal/budget"
)

// A node whose metadata is behind may lack shards without knowing them: its answers say so, deletes and reads that have
// no place for a warning fail, and what an answer would be stored of waits.
func TestAnswersOfANodeThatIsBehindSaySo(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	c.write(t, lines(5))
	node, _ := c.limited(t, newPool(t), 1<<30, &budget.Requests{})
	reader := c.seriesReader(t, node)
	said := func(text string) (warnings int, err error) {
		node.results(t, text, query.ExecutionOptions{}, func(r *query.Result) {
			for _, m := range r.Messages {
				if m.Text == "this answer may be incomplete: change 10 is missing" {
					warnings++
				}
			}
			err = errors.Join(err, r.Err)
		})
		return warnings, err
	}
	statements := []string{
		`SELECT v FROM cpu`, `SELECT v FROM nothing`, `SHOW SERIES`, `SHOW TAG VALUES WITH KEY = host`, `SHOW MEASUREMENTS`,
	}
	for _, text := range statements {
		if n, err := said(text); n != 0 || err != nil {
			t.Errorf("%s: %d warnings, %v", text, n, err)
		}
	}
	c.behind = errors.New("change 10 is missing")
	for _, text := range statements {
		if n, err := said(text); n != 1 || err != nil {
			t.Errorf("%s of a node that is behind: %d warnings, %v", text, n, err)
		}
	}
	for _, text := range []string{
		`DELETE FROM cpu`, `DROP SERIES FROM cpu WHERE host = 'h01'`, `DROP MEASUREMENT cpu`,
	} {
		if _, err := said(text); err == nil || !strings.Contains(err.Error(), "change 10 is missing") {
			t.Errorf("%s of a node that is behind: %v", text, err)
		}
	}
	if _, err := reader.ReadFilter(context.Background(), readRequest(t, nil, 0, math.MaxInt64)); !errors.Is(err, ErrIncomplete) {
		t.Errorf("a read of a node that is behind: %v", err)
	}
	executor := node.exec.StatementExecutor.(*Executor)
	executor.Strict = true
	if _, err := said(`SELECT v FROM cpu`); !errors.Is(err, ErrIncomplete) {
		t.Errorf(`with incomplete-reads = "error": %v`, err)
	}
}
