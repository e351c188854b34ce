package distquery

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/influxdata/influxdb/query"

	"concord/internal/budget"
)

// A node whose metadata is behind may lack shards without knowing them. Its answers say so, and reads that have no
// place for a warning fail.
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
	if n, err := said(`SHOW DATABASES`); n != 0 || err != nil {
		t.Errorf("SHOW DATABASES of a node that is behind: %d warnings, %v", n, err)
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
