package devcluster_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"

	"concord/internal/datanode"
)

// TestRequestsThatAreTooMuchAreRefused sends to each node what once ended its process, and then an ordinary query.
func TestRequestsThatAreTooMuchAreRefused(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 2, func(cfg *datanode.Config) { cfg.HTTPD.MaxBodySize = 7 << 19 })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db`)
	query := func(q string) []byte { return []byte(url.Values{"db": {"db"}, "q": {q}}.Encode()) }
	gigabyte := append(binary.AppendUvarint(nil, 1<<30),
		bytes.Repeat(snappy.Encode(nil, make([]byte, 1<<16))[3:], 1<<10)...)
	for node := range c.Data {
		for _, tt := range []struct {
			name, path string
			body       []byte
			want       int
		}{
			{
				"a million parentheses", "/query", query("SELECT " + strings.Repeat("(", 1_000_000)),
				http.StatusBadRequest,
			},
			{
				"signs", "/query", query("SELECT " + strings.Repeat("-(", 10_000) + "v" + strings.Repeat(")", 10_000) + " FROM m"),
				http.StatusBadRequest,
			},
			{"subqueries", "/query", query("SELECT v FROM " +
				strings.Repeat("(SELECT v FROM ", 6666) + "m" + strings.Repeat(")", 6666)), http.StatusBadRequest},
			{"a delete", "/api/v2/delete?bucket=db/autogen", []byte(
				`{"start":"2020-01-01T00:00:00Z","stop":"2021-01-01T00:00:00Z","predicate":"` + strings.Repeat("(", 200_000) + `"}`,
			), http.StatusBadRequest},
			{
				"a long query", "/query", query("SELECT v FROM " + strings.Repeat("x", 4<<20)),
				http.StatusRequestEntityTooLarge,
			},
			{"compressed zeros", "/api/v1/prom/read?db=db", gigabyte, http.StatusRequestEntityTooLarge},
			{"compressed zeros to write", "/api/v1/prom/write?db=db", gigabyte, http.StatusRequestEntityTooLarge},
		} {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.Data[node].HTTPAddr()+tt.path,
				bytes.NewReader(tt.body))
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

// TestQueryThatNeedsTooMuchMemoryEndsAlone asks a node that owns nothing for more than its owners, or it, may hold.
func TestQueryThatNeedsTooMuchMemoryEndsAlone(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) { cfg.Cluster.MaxQueryMemory = 12 << 20 })
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE db WITH REPLICATION 2`)
	at := yesterday()
	wide := []byte("wide ")
	for i := range 10_000 {
		wide = fmt.Appendf(wide, "f%d=%d,", i, i)
	}
	wide = fmt.Appendf(wide, "last=1 %d", at.UnixNano())
	if err := c.Client(0).Write(ctx, "db", "all",
		append(append(wide, '\n'), lines(1000, at, time.Second)...)); err != nil {
		t.Fatal(err)
	}
	span := fmt.Sprintf("time >= %d AND time < %d", at.UnixNano(), at.Add(24*time.Hour).UnixNano())
	for node := range c.Data {
		for _, q := range []string{
			"SELECT * FROM wide",
			"SELECT max(*) FROM wide",
			"SELECT max(f) FROM m WHERE " + span + " GROUP BY time(1s) fill(0)",
			"SELECT top(f, 1000000000) FROM m",
			"SELECT moving_average(f, 1000000000) FROM m",
		} {
			if _, err := c.Client(node).Query(ctx, "db", q); err == nil ||
				!strings.Contains(err.Error(), "needs more memory than [cluster] max-query-memory") {
				t.Errorf("node %d: %s: %v", node+1, q, err)
			}
		}
		rows := mustQuery(ctx, t, c, node, "db", "SELECT max(f), percentile(f, 50) FROM m WHERE "+
			span+" GROUP BY time(1m), host fill(none)")
		if len(rows) < 7 {
			t.Errorf("node %d: an ordinary query has %d rows", node+1, len(rows))
		}
		// What a client takes as it comes may be of any size.
		form := url.Values{
			"db": {"db"}, "chunked": {"true"}, "q": {"SELECT max(f) FROM m WHERE " + span + " GROUP BY time(1s) fill(0)"},
		}
		resp, err := http.PostForm("http://"+c.Data[node].HTTPAddr()+"/query", form)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if n := bytes.Count(answer, []byte("],[")); err != nil || n < 80_000 ||
			bytes.Contains(answer, []byte("error")) {
			t.Errorf("node %d: in chunks: %d rows, %v", node+1, n, err)
		}
	}
}
