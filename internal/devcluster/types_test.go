package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxql"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/entropy/api"
)

// resolve posts to /shard-repair/resolve of a data node, and returns the files that owners made.
func resolve(ctx context.Context, c *devcluster.Cluster, node int, shard, typ string) (kept []string, err error) {
	form := url.Values{"id": {shard}, "measurement": {"m"}, "field": {"f"}, "type": {typ}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Client(node).Base+"/shard-repair/resolve",
		strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", resp.Status, b)
	}
	var out api.Resolved
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, err
	}
	for _, o := range out.Owners {
		if o.Kept != "" {
			kept = append(kept, o.Kept)
		}
	}
	return kept, nil
}

// conflict gives the owners of a shard another type of the same field each, in different series, and node 0 good
// points that node 1 lacks.
func conflict(ctx context.Context, t *testing.T, c *devcluster.Cluster, good int) (shard string, at time.Time) {
	t.Helper()
	at = yesterday()
	write := func(node int, level, line string) {
		t.Helper()
		if err := c.Client(node).Write(ctx, "db", level, []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	write(0, "all", fmt.Sprintf("m,host=a g=1 %d", at.UnixNano()))
	c.Cut(1)
	write(1, "one", fmt.Sprintf("m,host=y f=7i %d", at.UnixNano()))
	write(0, "one", fmt.Sprintf("m,host=x f=1.5 %d", at.UnixNano()))
	var b strings.Builder
	for i := range good {
		fmt.Fprintf(&b, "m,host=x good=%d %d\n", i, at.Add(time.Duration(i)*time.Second).UnixNano())
	}
	if good > 0 {
		write(0, "one", b.String())
	}
	c.Heal(1)
	return fmt.Sprint(c.Shards("db")[0].ID), at
}

func mustWait(ctx context.Context, t *testing.T, c *devcluster.Cluster, what string, ok func() bool) {
	t.Helper()
	if err := c.Wait(ctx, ok); err != nil {
		s, raw, serr := c.Client(0).EntropyStatus(ctx)
		t.Fatalf("%s: %v: %+v %s %v", what, err, s, raw, serr)
	}
}

// Points of a type that an owner refuses keep no others from it, and an operator ends the conflict, through any node.
func TestTypeConflictEndsAsAnOperatorChooses(t *testing.T) {
	t.Parallel()
	ctx, c := mustStart(t, 2)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	id, _ := conflict(ctx, t, c, 3000)
	status := func() string {
		s, _, err := c.Client(1).EntropyStatus(ctx)
		if err != nil || len(s.Shards) != 1 || len(s.Queued) > 0 {
			return ""
		}
		return s.Shards[0].Status + " " + s.Shards[0].Message
	}
	inConflict := func() bool {
		s := status()
		return strings.HasPrefix(s, `conflict measurement "m" field "f" is `) && strings.Contains(s, "float on ") &&
			strings.Contains(s, "integer on ")
	}
	mustWait(ctx, t, c, "the conflict is found", inConflict)
	if err := c.Client(0).Repair(ctx, id); err != nil {
		t.Fatal(err)
	}
	mustWait(ctx, t, c, "the rest is repaired", func() bool {
		rows, err := c.Client(1).Query(ctx, "db", `SELECT count(good) FROM m`)
		return err == nil && len(rows) == 1 && fmt.Sprint(rows[0][1]) == "3000" && inConflict()
	})
	kept, err := resolve(ctx, c, 1, id, "float")
	if err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}
	if b, err := os.ReadFile(kept[0]); err != nil || !strings.Contains(string(b), "\nm,host=y f=7i ") {
		t.Errorf("%q, %v", b, err)
	}
	mustWait(ctx, t, c, "the owners agree", func() bool {
		s, _, err := c.Client(0).EntropyStatus(ctx)
		return err == nil && s.Clean()
	})
	for _, restarted := range []bool{false, true} {
		for node := range 2 {
			if restarted {
				if err := c.StopData(node); err != nil {
					t.Fatal(err)
				}
				if err := c.StartData(node); err != nil {
					t.Fatal(err)
				}
			}
			if got := fmt.Sprint(
				mustQuery(ctx, t, c, node, "db", `SHOW FIELD KEYS FROM m`),
			); got != "[[f float] [g float] [good float]]" {
				t.Errorf("node %d, restarted %v: fields %s", node+1, restarted, got)
			}
			if got := fmt.Sprint(mustQuery(ctx, t, c, node, "db",
				`SELECT count(f), sum(f), count(good) FROM m`)); !strings.HasSuffix(got, " 1 1.5 3000]]") {
				t.Errorf("node %d, restarted %v: %s", node+1, restarted, got)
			}
		}
	}
	mustWait(ctx, t, c, "node 1 reaches node 2, which was restarted", func() bool {
		_, err = resolve(ctx, c, 0, id, "string")
		return err == nil || !strings.Contains(err.Error(), " is away, ")
	})
	if err == nil || !strings.Contains(err.Error(), "400 Bad Request") || !strings.Contains(err.Error(), "it is float on ") {
		t.Error(err)
	}
}

// Writes that are acknowledged while values are set aside are on all owners in the end.
func TestWritesGoOnWhileATypeConflictIsResolved(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(*datanode.Config) {})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	id, at := conflict(ctx, t, c, 0)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	acknowledged := make([]atomic.Int64, 2)
	for node := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				line := fmt.Sprintf("m,host=w%d f=%d.5 %d", node, i,
					at.Add(time.Duration(i)*time.Millisecond).UnixNano())
				if c.Client(node).Write(ctx, "db", "one", []byte(line)) == nil {
					acknowledged[node].Add(1)
				}
				c.Client(node).Write(ctx, "db", "one",
					fmt.Appendf(nil, "m,host=i%d f=%di %d", node, i,
						at.Add(time.Duration(i)*time.Millisecond).UnixNano()))
			}
		}()
	}
	mustWait(ctx, t, c, "writes are acknowledged", func() bool { return acknowledged[0].Load() > 20 })
	var err error
	mustWait(ctx, t, c, "the conflict is resolved", func() bool {
		_, err = resolve(ctx, c, 0, id, "float")
		return err == nil
	})
	close(stop)
	wg.Wait()
	mustWait(ctx, t, c, "the owners agree", func() bool {
		c.Client(0).Repair(ctx, id)
		for node := range 2 {
			for w := range acknowledged {
				n := acknowledged[w].Load()
				if n == 0 {
					continue
				}
				rows, err := c.Client(node).Query(ctx, "db", fmt.Sprintf(`SELECT count(f) FROM m WHERE host = 'w%d'`, w))
				if err != nil || len(rows) != 1 {
					return false
				}
				count, _ := rows[0][1].(json.Number)
				if got, err := count.Int64(); err != nil || got < n {
					return false
				}
			}
		}
		s, _, err := c.Client(1).EntropyStatus(ctx)
		return err == nil && s.Clean()
	})
	for node := range 2 {
		if got := fmt.Sprint(mustQuery(ctx, t, c, node, "db", `SHOW FIELD KEYS FROM m`)); got != "[[f float] [g float]]" {
			t.Errorf("node %d: fields %s", node+1, got)
		}
	}
}

// Two nodes that write a new field with different types at the same time end with one type on all owners, and with one
// client that is told so.
func TestTypesOfNewFieldsAreDecidedOnce(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 3`)
	at := yesterday().UnixNano()
	if err := c.Client(0).Write(ctx, "db", "all", fmt.Appendf(nil, "m g=1 %d", at)); err != nil {
		t.Fatal(err)
	}
	const tries = 40
	for _, level := range []string{"all", "one", "quorum"} {
		for i := range tries {
			field := fmt.Sprintf("%s%d", level, i)
			results := make(chan error, 2)
			for node, value := range []string{"1.5", "7i"} {
				go func() {
					results <- c.Client((i+node)%3).Write(ctx, "db", level,
						fmt.Appendf(nil, "m %s=%s %d", field, value, at))
				}()
			}
			refused := 0
			for range 2 {
				if err := <-results; err != nil &&
					strings.Contains(err.Error(), `400 Bad Request: {"error":"partial write: field type conflict`) {
					refused++
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if refused != 1 {
				t.Fatalf("%s: %d writes were refused, want 1", field, refused)
			}
		}
	}
	id := c.Shards("db")[0].ID
	types := func(node int) map[string]influxql.DataType {
		return c.Data[node].Store.Shard(id).MeasurementFields([]byte("m")).FieldSet()
	}
	mustWait(ctx, t, c, "all owners have the same types", func() bool {
		return len(types(0)) == 3*tries+1 && maps.Equal(types(0), types(1)) && maps.Equal(types(0), types(2))
	})
	resp, err := http.Post(c.Client(0).Base+"/shard-repair/check", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	mustWait(ctx, t, c, "the owners agree", func() bool {
		s, _, err := c.Client(0).EntropyStatus(ctx)
		return err == nil && s.Clean()
	})
}
