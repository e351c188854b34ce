package devcluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/datanode"
)

// form is the form of a JSON value: the names of an object with the types of their values, and the first element of a
// list.
func form(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, value := range v {
			out[name] = form(value)
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{form(v[0])}
	case nil:
		return "null"
	}
	return fmt.Sprintf("%T", v)
}

func formOf(t *testing.T, body string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return form(v)
}

// mustGetURL returns the body of an answer.
func mustGetURL(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v %s", url, resp.Status, err, b)
	}
	return string(b)
}

// The names and types are those of the documentation of InfluxDB Enterprise and of influxdb-cluster, together with
// those that Concord had before.
func TestAnswersHaveTheDocumentedForms(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) {
		cfg.HTTPD.BuildType, cfg.Monitor.StoreEnabled = "ENT", false
	})
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	if err := c.Client(0).Write(ctx, "db", "all", lines(10, yesterday(), time.Second)); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	type list = []any
	header, status := mustGet(ctx, t, c, 0, "/shard-status")
	if build := header.Get("X-Influxdb-Build"); build != "ENT" {
		t.Errorf("X-Influxdb-Build is %q", build)
	}
	meta := "http://" + c.Meta.HTTPAddr()
	cluster := ""
	mustWait(ctx, t, c, "all members say what time it is", func() bool { // one may be late on a busy machine
		cluster = mustGetURL(ctx, t, meta+"/show-cluster")
		return strings.Count(cluster, "clockSkewMs") == 3
	})
	for name, tt := range map[string]struct {
		body string
		want any
	}{
		"/shard-status": {status, object{"databases": list{object{
			"name": "string",
			"retention_policies": list{object{
				"name": "string", "replication_factor": "float64",
				"shards": list{object{"id": "float64", "size": "float64", "is_hot": "bool", "state": "string"}},
			}},
			"retention-policies": list{object{
				"name": "string", "replication-factor": "float64",
				"shards": list{object{"id": "string", "size": "string", "is_hot": "bool", "state": "string"}},
			}},
		}}}},
		"/show-cluster": {cluster, object{
			"data": list{object{
				"id": "float64", "tcpAddr": "string", "httpAddr": "string", "addr": "string", "httpScheme": "string",
				"version": "string", "status": "string", "labels": object{}, "identity": "string",
				"clockSkewMs": "float64",
			}},
			"meta": list{object{
				"id": "float64", "tcpAddr": "string", "httpAddr": "string", "addr": "string", "httpScheme": "string",
				"version": "string", "status": "string", "labels": object{}, "clockSkewMs": "float64",
			}},
		}},
		"/show-shards": {mustGetURL(ctx, t, meta+"/show-shards"), list{object{
			"id": "float64", "database": "string", "retention-policy": "string", "replica-n": "float64",
			"shard-group-id": "float64", "start-time": "string", "end-time": "string", "expire-time": "null",
			"truncated-at": "null", "owners": list{object{"id": "float64", "tcpAddr": "string"}},
		}}},
		"/show-shards?verbose=true": {mustGetURL(ctx, t, meta+"/show-shards?verbose=true"), list{object{
			"id": "float64", "database": "string", "retention-policy": "string", "replica-n": "float64",
			"shard-group-id": "float64", "start-time": "string", "end-time": "string", "expire-time": "null",
			"truncated-at": "null", "owners": list{object{
				"id": "float64", "tcpAddr": "string", "state": "string", "last-modified": "string", "size": "float64",
				"err": "string",
			}},
		}}},
	} {
		if diff := cmp.Diff(tt.want, formOf(t, tt.body)); diff != "" {
			t.Errorf("%s: -want +got:\n%s%s", name, diff, tt.body)
		}
	}
}
