package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/internal/meta/metaconfig"
)

// as sends a request of a user, and returns the status and the answer.
func as(ctx context.Context, t *testing.T, user, method, addr, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(user, "pw")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// The documented requests, on a cluster in which most owners are remote.
func TestRestrictionsHoldOnTheWholeCluster(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c, err := devcluster.Start(ctx, devcluster.Options{
		Dir: t.TempDir(), DataNodes: 3,
		MetaConfig: func(c *metaconfig.Config) { c.Meta.AuthEnabled, c.Meta.InternalSharedSecret = true, testSecret },
		DataConfig: func(c *datanode.Config) {
			c.Meta.AuthEnabled, c.Meta.InternalSharedSecret, c.HTTPD.AuthEnabled = true, testSecret, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	query := func(t *testing.T, user string, node int, q string) string {
		t.Helper()
		_, body := as(ctx, t, user, "POST", c.Data[node].HTTPAddr(), "/query?db=dc&q="+url.QueryEscape(q), "")
		return strings.TrimSpace(body)
	}
	for _, q := range []string{
		`CREATE USER admin WITH PASSWORD 'pw' WITH ALL PRIVILEGES`, `CREATE DATABASE dc WITH REPLICATION 1`,
		`CREATE USER east WITH PASSWORD 'pw'`, `GRANT ALL ON dc TO east`, `CREATE USER stranger WITH PASSWORD 'pw'`,
	} {
		if body := query(t, "admin", 0, q); strings.Contains(body, "error") {
			t.Fatalf("%s: %s", q, body)
		}
	}
	more := `{"action": "add-permissions", "user": {"name": "east", "permissions": {"dc": ["DropData", "ManageContinuousQuery"]}}}`
	if code, body := as(ctx, t, "admin", "POST", c.Meta.HTTPAddr(), "/user", more); code != http.StatusOK {
		t.Fatalf("add-permissions: %d %s", code, body)
	}
	mustKnow(ctx, t, c)
	write := func(t *testing.T, user string, node int, lines string) int {
		t.Helper()
		code, _ := as(ctx, t, user, "POST", c.Data[node].HTTPAddr(), "/write?db=dc", lines)
		return code
	}
	var lines strings.Builder
	for day := range 6 {
		for _, where := range []string{"east", "west"} {
			fmt.Fprintf(&lines, "network,datacenter=%s v=1,value=3,only_%s=2 %d\n", where, where,
				time.Now().AddDate(0, 0, -7*day).UnixNano())
		}
	}
	if code := write(t, "admin", 0, lines.String()); code != http.StatusNoContent {
		t.Fatal(code)
	}
	meta := c.Meta.HTTPAddr()
	const acl = "/influxdb/v2/acl/"
	const network = `"database": {"match": "exact", "value": "dc"}, "measurement": {"match": "exact", "value": "network"}`
	code, body := as(ctx, t, "admin", "POST", meta, acl+"restrictions",
		`{`+network+`, "permissions": ["read", "write"]}`)
	var made struct{ ID string }
	if json.Unmarshal([]byte(body), &made); code != http.StatusOK || made.ID == "" {
		t.Fatalf("POST: %d %s", code, body)
	}
	if code, body := as(ctx, t, "admin", "POST", meta, acl+"grants", `{`+network+`, "permissions": ["read", "write"],
		"tags": [{"match": "exact", "key": "datacenter", "value": "east"}], "users": [{"name": "east"}]}`); code != http.StatusOK {
		t.Fatalf("POST: %d %s", code, body)
	}
	mustKnow(ctx, t, c)

	t.Run("administrators list them", func(t *testing.T) {
		if code, body := as(ctx, t, "east", "GET", meta, acl+"restrictions", ""); code != http.StatusForbidden {
			t.Errorf("a user lists restrictions: %d %s", code, body)
		}
		for path, want := range map[string]string{"restrictions": `"value":"network"`, "grants": `"name":"east"`} {
			code, body := as(ctx, t, "admin", "GET", meta, acl+path, "")
			if code != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("GET %s: %d %s", path, code, body)
			}
		}
	})
	for node := range c.Data {
		t.Run(fmt.Sprintf("reads and writes through node %d", node+1), func(t *testing.T) {
			for _, q := range []string{
				`SELECT * FROM network`, `SHOW TAG VALUES WITH KEY = datacenter`, `SHOW SERIES`, `SHOW FIELD KEYS`,
			} {
				if body := query(t, "east", node, q); strings.Contains(body, "west") || !strings.Contains(body, "east") {
					t.Errorf("%s: %s", q, body)
				}
				if body := query(t, "admin", node, q); !strings.Contains(body, "west") {
					t.Errorf("an administrator: %s: %s", q, body)
				}
			}
			if body := query(t, "east", node, `SHOW SERIES CARDINALITY`); !strings.Contains(body, "[[1]]") {
				t.Error(body)
			}
			if body := query(t, "east", node, `SELECT count(v) FROM network`); !strings.Contains(body, ",6]") {
				t.Error(body)
			}
			const both = "network,datacenter=east v=3 1\nnetwork,datacenter=west v=3 1"
			if code := write(t, "east", node, both); code != http.StatusForbidden {
				t.Errorf("a forbidden write: %d", code)
			}
		})
	}
	t.Run("Prometheus reads", func(t *testing.T) { testPromReads(ctx, t, c) })
	t.Run("what queries write", func(t *testing.T) {
		body := query(t, "east", 0, `SELECT v INTO other FROM network; SELECT v INTO network FROM other`)
		if !strings.Contains(body, "not authorized") {
			t.Errorf("SELECT INTO: %s", body)
		}
		body = query(t, "east", 0,
			`CREATE CONTINUOUS QUERY q ON dc BEGIN SELECT mean(v) INTO other FROM network GROUP BY time(1m) END`)
		if !strings.Contains(body, "without restrictions") {
			t.Errorf("a continuous query: %s", body)
		}
	})
	t.Run("deletes", func(t *testing.T) {
		deleted := fmt.Sprintf(`{"start": "1970-01-02T00:00:00Z", "stop": %q, "predicate": "_measurement=\"network\""}`,
			time.Now().AddDate(0, 0, -10).Format(time.RFC3339))
		code, body := as(ctx, t, "east", "POST", c.Data[1].HTTPAddr(), "/api/v2/delete?bucket=dc", deleted)
		if code != http.StatusOK {
			t.Errorf("a delete: %d %s", code, body)
		}
		const counts = `SELECT count(v) FROM network GROUP BY datacenter`
		if body := query(t, "admin", 2, counts); !strings.Contains(body, ",6]") || !strings.Contains(body, ",2]") {
			t.Errorf("after /api/v2/delete: %s", body)
		}
		query(t, "east", 0, `DELETE FROM network`)
		if body := query(t, "admin", 2, counts); !strings.Contains(body, ",6]") || strings.Contains(body, "east") {
			t.Errorf("after DELETE: %s", body)
		}
	})
	t.Run("without restrictions", func(t *testing.T) {
		for range 2 { // the second one finds nothing
			code, body = as(ctx, t, "admin", "DELETE", meta, acl+"restrictions/"+made.ID, "")
		}
		if code != http.StatusBadRequest || !strings.Contains(body, "not found") {
			t.Errorf("a second DELETE: %d %s", code, body)
		}
		mustKnow(ctx, t, c)
		if body := query(t, "east", 1, `SHOW SERIES`); !strings.Contains(body, "west") {
			t.Error(body)
		}
	})
}

// testPromReads reads the measurement network as Prometheus does: as an administrator, as a user who may see what is in
// the east, and as one who may read nothing.
func testPromReads(ctx context.Context, t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	question := promQuestion(t, &prompb.Query{
		EndTimestampMs: time.Now().UnixMilli(),
		Matchers:       []*prompb.LabelMatcher{match(prompb.LabelMatcher_EQ, "__name__", "network")},
	})
	for node, n := range c.Data {
		read := func(user string) string {
			code, body := as(ctx, t, user, "POST", n.HTTPAddr(), "/api/v1/prom/read?db=dc", string(question))
			return promText(t, code, []byte(body))
		}
		for user, want := range map[string][]string{"admin": {"east", "west"}, "east": {"east"}} {
			got := read(user)
			for _, where := range []string{"east", "west"} {
				label := fmt.Sprintf("datacenter=%q", where)
				if strings.Contains(got, label) != slices.Contains(want, where) {
					t.Errorf("node %d: %s reads %s, want series of %v", node, user, got, want)
				}
			}
			if points := strings.Count(got, "3@"); points != 6*len(want) {
				t.Errorf("node %d: %s reads %d points: %s", node, user, points, got)
			}
		}
		if got := read("stranger"); !strings.Contains(got, `403 `) || !strings.Contains(got, "not authorized to read") {
			t.Errorf("node %d: one who may read nothing: %s", node, got)
		}
	}
}
