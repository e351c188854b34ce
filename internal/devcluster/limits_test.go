package devcluster_test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/golang/snappy"

	"concord/internal/datanode"
)

// TestRequestsThatAreTooMuchAreRefused sends to each node what once ended its process, and then an ordinary query.
func TestRequestsThatAreTooMuchAreRefused(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.HTTPD.MaxBodySize = 7 << 19 })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	query := func(q string) []byte { return []byte(url.Values{"db": {"db"}, "q": {q}}.Encode()) }
	gigabyte := append(binary.AppendUvarint(nil, 1<<30), bytes.Repeat(snappy.Encode(nil, make([]byte, 1<<16))[3:], 1<<10)...)
	for node := range c.Data {
		for _, tt := range []struct {
			name, path string
			body       []byte
			want       int
		}{
			{"a million parentheses", "/query", query("SELECT " + strings.Repeat("(", 1_000_000)), http.StatusBadRequest},
			{"signs", "/query", query("SELECT " + strings.Repeat("-(", 10_000) + "v" + strings.Repeat(")", 10_000) + " FROM m"), http.StatusBadRequest},
			{"subqueries", "/query", query("SELECT v FROM " + strings.Repeat("(SELECT v FROM ", 6666) + "m" + strings.Repeat(")", 6666)), http.StatusBadRequest},
			{"a delete", "/api/v2/delete?bucket=db/autogen", []byte(`{"start":"2020-01-01T00:00:00Z","stop":"2021-01-01T00:00:00Z","predicate":"` + strings.Repeat("(", 200_000) + `"}`), http.StatusBadRequest},
			{"a long query", "/query", query("SELECT v FROM " + strings.Repeat("x", 4<<20)), http.StatusRequestEntityTooLarge},
			{"compressed zeros", "/api/v1/prom/read?db=db", gigabyte, http.StatusRequestEntityTooLarge},
			{"compressed zeros to write", "/api/v1/prom/write?db=db", gigabyte, http.StatusRequestEntityTooLarge},
		} {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.Data[node].HTTPAddr()+tt.path, bytes.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Errorf("node %d: %s: %v", node+1, tt.name, err)
				continue
			}
			resp.Body.Close()
			if resp.StatusCode != tt.want || resp.Header.Get("X-Influxdb-Error") == "" {
				t.Errorf("node %d: %s: %s %q", node+1, tt.name, resp.Status, resp.Header.Get("X-Influxdb-Error"))
			}
		}
		mustQuery(ctx, t, c, node, "db", "SHOW MEASUREMENTS")
	}
}
