package devcluster_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/devcluster"
)

// longQuery computes for minutes. It is no query whose answer nobody reads: the system may take all of that.
const longQuery = "SELECT count(x) FROM (SELECT max(v) AS x FROM m0 WHERE v > 0 AND time >= 0 AND time < now() " +
	"GROUP BY time(1s) fill(0))"

// begin starts the long query at a node, and ends it with the test.
func begin(ctx context.Context, t *testing.T, c *devcluster.Cluster, node int) {
	t.Helper()
	ctx, end := context.WithCancel(ctx)
	var runs sync.WaitGroup
	runs.Go(func() {
		_, err := c.Client(node).Query(ctx, "db", longQuery)
		if ctx.Err() == nil && !strings.Contains(fmt.Sprint(err), "query interrupted") {
			t.Errorf("the long query has ended: %v", err)
		}
	})
	t.Cleanup(func() { end(); runs.Wait() })
}

func TestQueriesOfAllNodesAreListedAndKilled(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 3)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	if err := c.Client(0).Write(ctx, "db", "all", fmt.Appendf(nil, "m0 v=1 %d", yesterday().UnixNano())); err != nil {
		t.Fatal(err)
	}
	begin(ctx, t, c, 1)
	begin(ctx, t, c, 2)
	// list are the queries that run, as node, database, text, status, and their numbers by node.
	away := false // a node does not answer
	list := func(t *testing.T, node int) (out []string, qid map[string]string, warnings []string) {
		t.Helper()
		rows, warnings, err := c.Client(node).Ask(ctx, "", "SHOW QUERIES")
		if err != nil {
			t.Fatal(err)
		}
		expected := 0
		if away {
			expected = 1
		}
		// A busy machine is not a node that hangs.
		for tries := 0; len(warnings) > expected && tries < 5; tries++ {
			if rows, warnings, err = c.Client(node).Ask(ctx, "", "SHOW QUERIES"); err != nil {
				t.Fatal(err)
			}
		}
		qid = make(map[string]string)
		for _, r := range rows {
			if len(r) != 8 {
				t.Fatalf("a row of SHOW QUERIES is %v", r)
			}
			text := fmt.Sprint(r[3])
			if strings.HasPrefix(text, "SELECT count(x) FROM (SELECT max(v) AS x FROM ") {
				text = "long query"
			}
			if text != "SHOW QUERIES" {
				out = append(out, fmt.Sprint(r[1], " ", r[2], " ", r[4], " ", text, " ", r[6]))
				qid[fmt.Sprint(r[2])] = fmt.Sprint(r[0])
			}
		}
		return out, qid, warnings
	}
	row := func(node int) string {
		n := c.Data[node]
		return fmt.Sprint(n.Meta.NodeID(), " ", n.TCPAddr(), " db long query running")
	}
	want := []string{row(1), row(2)}
	slices.Sort(want)
	if err := c.Wait(ctx, func() bool { got, _, _ := list(t, 0); return len(got) == 2 || t.Failed() }); err != nil {
		t.Fatal("the queries do not begin")
	}
	host := c.Data[1].TCPAddr()
	var qid map[string]string
	t.Run("each node lists those of all", func(t *testing.T) {
		for node := range 3 {
			got, ids, warnings := list(t, node)
			slices.Sort(got)
			if d := cmp.Diff(want, got); d != "" || len(warnings) > 0 {
				t.Errorf("at node %d (-want +got):\n%s\nwarnings: %v", node+1, d, warnings)
			}
			qid = ids
		}
	})
	t.Run("columns have the documented names", func(t *testing.T) {
		_, body := mustGet(ctx, t, c, 0, "/query?q="+url.QueryEscape("SHOW QUERIES"))
		if !strings.Contains(body, `"columns":["qid","node_id","tcp_host","query","database","duration","status","user"]`) {
			t.Errorf("SHOW QUERIES answers %s", body)
		}
	})
	t.Run("a statement that is wrong kills nothing", func(t *testing.T) {
		for text, want := range map[string]string{
			`KILL QUERY 4000000`:                         "no such query id: 4000000",
			`KILL QUERY 4000000 ON "` + host + `"`:       "data node " + host + ": query 4000000 has ended, or never was",
			`KILL QUERY ` + qid[host] + ` ON "nobody:1"`: `nobody:1" is not a data node: give the tcp_host of SHOW QUERIES`,
		} {
			var err error
			for range 6 { // a node on a busy machine may answer too late
				_, err = c.Client(0).Query(ctx, "", text)
				if !strings.Contains(fmt.Sprint(err), "does not answer") {
					break
				}
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", text, err)
			}
		}
		if got, _, warnings := list(t, 0); len(got) != 2 {
			t.Fatalf("the queries are %v, and the warnings %v", got, warnings)
		}
	})
	t.Run("one of another node is killed", func(t *testing.T) {
		if err := c.Wait(ctx, func() bool {
			// Again where the node was late. A second time is an error, and kills nothing else.
			_, _ = c.Client(0).Query(ctx, "", `KILL QUERY `+qid[host]+` ON "`+host+`"`)
			got, _, _ := list(t, 0)
			return slices.Equal(got, []string{row(2)}) ||
				slices.Equal(got, []string{strings.Replace(row(1), "running", "killed", 1), row(2)})
		}); err != nil {
			t.Error("the query that was killed still runs")
		}
	})

	// The rows of the others are there when one node hangs or cannot be reached, and soon.
	away = true
	for how, change := range map[string]func(int){"cut off": func(i int) { c.Cut(i) }, "hung": c.Hang} {
		t.Run("beside a node that is "+how, func(t *testing.T) {
			change(1)
			began := time.Now()
			got, _, warnings := list(t, 0)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it holds the answer up for %v", took)
			}
			if !slices.Contains(got, row(2)) || len(warnings) != 1 || !strings.Contains(warnings[0], host) {
				t.Errorf("%v, %v", got, warnings)
			}
			_, err := c.Client(0).Query(ctx, "", `KILL QUERY 1 ON "`+host+`"`)
			if err == nil || !strings.Contains(err.Error(), "data node "+host+" does not answer") {
				t.Errorf("KILL QUERY: %v", err)
			}
			c.Heal(1)
			c.GoOn(1)
		})
	}
}
