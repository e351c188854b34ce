package devcluster_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/prompb"

	"concord/internal/datanode"
	"concord/internal/devcluster"
	"concord/test/compare/plain"
)

// post sends a body to an address and returns the status and the answer.
func post(ctx context.Context, t *testing.T, method, addr, path string, body []byte) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, b
}

// promRead reads as Prometheus does, and returns the answer as promText does.
func promRead(ctx context.Context, t *testing.T, addr, db string, q *prompb.Query) string {
	t.Helper()
	for began := time.Now(); ; {
		status, answer := post(ctx, t, http.MethodPost, addr, "/api/v1/prom/read?db="+db, promQuestion(t, q))
		text := promText(t, status, answer)
		// On a busy machine, a node may not know for a moment whether its copies are whole.
		if !strings.Contains(text, "no whole copy can be read") || time.Since(began) > time.Minute {
			return text
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// promQuestion is the body of a read of Prometheus.
func promQuestion(t *testing.T, q *prompb.Query) []byte {
	t.Helper()
	b, err := (&prompb.ReadRequest{Queries: []*prompb.Query{q}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, b)
}

// promText is the answer to a read of Prometheus as text: the series in their order, or the status and the error.
func promText(t *testing.T, status int, answer []byte) string {
	t.Helper()
	if status != http.StatusOK {
		return fmt.Sprintf("%d %s", status, answer)
	}
	answer, err := snappy.Decode(nil, answer)
	if err != nil {
		t.Fatal(err)
	}
	var resp prompb.ReadResponse
	if err := resp.Unmarshal(answer); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, s := range resp.Results[0].Timeseries {
		for _, l := range s.Labels {
			fmt.Fprintf(&out, "%s=%q ", l.Name, l.Value)
		}
		for _, p := range s.Samples {
			fmt.Fprintf(&out, " %v@%d", p.Value, p.Timestamp)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// promWrite writes as Prometheus does.
func promWrite(ctx context.Context, t *testing.T, addr, db string, series []prompb.TimeSeries) {
	t.Helper()
	b, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := "/api/v1/prom/write?db=" + db + "&consistency=all"
	if status, answer := post(ctx, t, http.MethodPost, addr, path,
		snappy.Encode(nil, b)); status != http.StatusNoContent {
		t.Fatalf("%s: %d %s", addr, status, answer)
	}
}

// samples are series of several metrics, with samples every hour over days.
func samples(from time.Time, hours int) (out []prompb.TimeSeries) {
	for _, labels := range [][]string{
		{"__name__", "up", "job", "node", "instance", "a:9100"},
		{"__name__", "up", "job", "node", "instance", "b:9100", "zone", "z"},
		{"__name__", "up", "job", "prom", "instance", "c:9090"},
		{"__name__", "up", "job", "node"},
		{"__name__", "http_requests_total", "code", "200", "path", `/a "quoted", \ and = path`},
		{"__name__", "http_requests_total", "code", "404", "path", "/ü"},
		{"__name__", "http_requests_total", "code", "500"},
		{"__name__", "http_errors_total", "code", "500", "value", "a label that is called as the field is"},
		{"job", "nameless"},
	} {
		var s prompb.TimeSeries
		for i := 0; i < len(labels); i += 2 {
			s.Labels = append(s.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
		}
		for h := range hours {
			at := from.Add(time.Duration(h)*time.Hour + time.Duration(len(out))*time.Second)
			s.Samples = append(s.Samples, prompb.Sample{
				Timestamp: at.UnixMilli(), Value: float64(h) + float64(len(out))/10,
			})
		}
		out = append(out, s)
	}
	return out
}

// mustPlain is a single node of the engine to compare with.
func mustPlain(t *testing.T, index string) *plain.Node {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plain")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := plain.Start(plain.Options{Dir: dir, Index: index})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func match(typ prompb.LabelMatcher_Type, name, value string) *prompb.LabelMatcher {
	return &prompb.LabelMatcher{Type: typ, Name: name, Value: value}
}

// TestPrometheusReadsTheSameThroughEveryNode compares with a plain node that has all data.
func TestPrometheusReadsTheSameThroughEveryNode(t *testing.T) {
	t.Parallel()
	const is, not, like, unlike = prompb.LabelMatcher_EQ, prompb.LabelMatcher_NEQ, prompb.LabelMatcher_RE,
		prompb.LabelMatcher_NRE
	from := yesterday().AddDate(0, 0, -4)
	const hours = 96
	for _, index := range []string{"inmem", "tsi1"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			ctx, c := mustStartWith(t, 3, func(cfg *datanode.Config) { cfg.Data.Index = index })
			p := devcluster.Client{Base: "http://" + mustPlain(t, index).HTTPAddr()}
			for replicas := 1; replicas <= 3; replicas++ {
				db := fmt.Sprintf("db%d", replicas)
				mustQuery(ctx, t, c, 0, "",
					fmt.Sprintf(`CREATE DATABASE %s WITH DURATION 52w REPLICATION %d SHARD DURATION 1d NAME "rp"`, db,
						replicas))
				if _, err := p.Query(ctx, "",
					fmt.Sprintf(`CREATE DATABASE %s WITH DURATION 52w SHARD DURATION 1d NAME "rp"`, db)); err != nil {
					t.Fatal(err)
				}
				plainAddr := strings.TrimPrefix(p.Base, "http://")
				promWrite(ctx, t, plainAddr, db, samples(from, hours))
				promWrite(ctx, t, c.Data[0].HTTPAddr(), db, samples(from, hours))
				// What Prometheus cannot have written is left out, by both.
				other := fmt.Appendf(nil, "down value=7i %d\nup,job=node other=1 %[1]d\ncpu,host=a usage=1 %[1]d\n",
					from.UnixNano())
				other = fmt.Appendf(other, "mem,host=a value=\"text\" %d\n", from.UnixNano())
				for _, to := range []devcluster.Client{p, c.Client(1)} {
					if err := to.Write(ctx, db, "all", other); err != nil {
						t.Fatal(err)
					}
				}
				mustKnow(ctx, t, c)
				lines := 0
				for _, matchers := range [][]*prompb.LabelMatcher{
					{match(is, "__name__", "up")},
					{match(is, "__name__", "up"), match(is, "job", "node")},
					{match(is, "__name__", "up"), match(not, "job", "node")},
					{match(is, "__name__", "up"), match(like, "instance", "a.*|c.*")},
					{match(is, "__name__", "up"), match(unlike, "instance", "a.*|c.*")},
					{match(is, "__name__", "up"), match(is, "zone", "")},
					{match(is, "__name__", "up"), match(not, "zone", "")},
					{match(is, "__name__", "up"), match(like, "zone", ".*")},
					{match(is, "__name__", "up"), match(like, "zone", ".+")},
					{match(is, "__name__", "up"), match(unlike, "zone", ".+")},
					{match(like, "__name__", "http_.*")},
					{match(like, "__name__", "http_.*"), match(is, "code", "500")},
					{match(like, "__name__", "http_.*"), match(not, "code", "500")},
					{match(unlike, "__name__", "http_.*")},
					{match(not, "__name__", "up")},
					{match(like, "__name__", ".+")},
					{match(is, "job", "node")},
					{match(not, "job", "node")},
					{match(is, "code", "500"), match(like, "path", "")},
					{match(is, "path", "/ü")},
					{match(is, "path", `/a "quoted", \ and = path`)},
					{match(is, "__name__", "http_errors_total"), match(like, "value", "a label.*")},
					{match(is, "value", "none")},
					{match(is, "job", "nameless")},
					{match(is, "__name__", "none")},
					{match(is, "__name__", "cpu")},
					{match(is, "__name__", "mem")},
					{match(is, "__name__", "down")},
					{match(like, "__name__", "(")},
					{},
				} {
					for _, r := range [][2]time.Time{
						{from.AddDate(0, 0, -1), from.AddDate(0, 0, 9)},
						{from.Add(20 * time.Hour), from.Add(50 * time.Hour)}, // exactly at samples
						{from.Add(25*time.Hour + 30*time.Minute), from.Add(25*time.Hour + 31*time.Minute)},
						{from.AddDate(-9, 0, 0), from.AddDate(-8, 0, 0)},
					} {
						q := &prompb.Query{
							Matchers: matchers, StartTimestampMs: r[0].UnixMilli(), EndTimestampMs: r[1].UnixMilli(),
						}
						want := promRead(ctx, t, plainAddr, db, q)
						lines += strings.Count(want, "\n")
						for i, n := range c.Data {
							if got := promRead(ctx, t, n.HTTPAddr(), db, q); got != want {
								t.Errorf("%s, node %d, %v\n%s", db, i+1, q, cmp.Diff(want, got))
							}
						}
					}
				}
				if lines < 100 {
					t.Errorf("only %d series were read", lines)
				}
				q := &prompb.Query{Matchers: []*prompb.LabelMatcher{match(is, "__name__", "up")}, EndTimestampMs: 1}
				for _, db := range []string{"none", db + "&rp=none"} {
					want := promRead(ctx, t, plainAddr, db, q)
					if got := promRead(ctx, t, c.Data[2].HTTPAddr(), db, q); got != want {
						t.Errorf("%s: %s, want %s", db, got, want)
					}
				}
			}
		})
	}
}

// TestPrometheusReadsAllOrGetsAnError has a node down, which has half of the data, or a replica of it.
func TestPrometheusReadsAllOrGetsAnError(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	from := yesterday()
	for replicas := 1; replicas <= 2; replicas++ {
		mustQuery(ctx, t, c, 0, "", fmt.Sprintf(`CREATE DATABASE db%d WITH REPLICATION %[1]d SHARD DURATION 1d`,
			replicas))
		promWrite(ctx, t, c.Data[0].HTTPAddr(), fmt.Sprintf("db%d", replicas), samples(from, 20))
	}
	q := &prompb.Query{
		Matchers:         []*prompb.LabelMatcher{match(prompb.LabelMatcher_RE, "__name__", ".+")},
		StartTimestampMs: from.UnixMilli(), EndTimestampMs: from.AddDate(0, 0, 1).UnixMilli(),
	}
	mustKnow(ctx, t, c)
	want := promRead(ctx, t, c.Data[0].HTTPAddr(), "db2", q)
	if strings.Count(want, "\n") != len(samples(from, 1)) {
		t.Fatal(want)
	}
	if err := c.StopData(2); err != nil {
		t.Fatal(err)
	}
	for node := range 2 {
		if got := promRead(ctx, t, c.Data[node].HTTPAddr(), "db2", q); got != want {
			t.Errorf("node %d: %s", node+1, cmp.Diff(want, got))
		}
		got := promRead(ctx, t, c.Data[node].HTTPAddr(), "db1", q)
		if !strings.HasPrefix(got, `400 {"error":"no owner of shard `) {
			t.Errorf("node %d answers without all data: %s", node+1, got)
		}
	}
}

// mustKnow waits until every node knows all of the metadata.
func mustKnow(ctx context.Context, t *testing.T, c *devcluster.Cluster) {
	t.Helper()
	if err := c.Wait(ctx, func() bool {
		want := c.Meta.State().Index
		for _, n := range c.Data {
			if n.Meta.State().Index < want {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatal("the nodes do not learn the metadata:", err)
	}
}

func TestV2DeleteDeletesOnEveryNode(t *testing.T) {
	t.Parallel()
	notWithRace(t) // also, deletes change the index while a digest reads it: the digest is void, but it is a race
	ctx, c := mustStartWith(t, 3, nil)
	p := devcluster.Client{Base: "http://" + mustPlain(t, "tsi1").HTTPAddr()}
	from := yesterday().AddDate(0, 0, -2)
	day := func(n int) string { return from.AddDate(0, 0, n).Format(time.RFC3339) }
	for replicas := 1; replicas <= 3; replicas++ {
		db := fmt.Sprintf("db%d", replicas)
		mustQuery(ctx, t, c, 0, "",
			fmt.Sprintf(`CREATE DATABASE %s WITH DURATION 52w REPLICATION %d SHARD DURATION 1d NAME "rp"`, db,
				replicas))
		if _, err := p.Query(ctx, "",
			fmt.Sprintf(`CREATE DATABASE %s WITH DURATION 52w SHARD DURATION 1d NAME "rp"`, db)); err != nil {
			t.Fatal(err)
		}
		points := lines(500, from, 5*time.Minute)
		points = fmt.Appendf(points, "other,host=h1 f=1 %d\nm,host=h1,region=r\\ 1 f=2 %[1]d\n", from.UnixNano())
		for _, to := range []devcluster.Client{p, c.Client(0)} {
			if err := to.Write(ctx, db, "all", points); err != nil {
				t.Fatal(err)
			}
		}
		mustKnow(ctx, t, c)
		for i, tt := range []struct{ start, stop, predicate string }{
			{day(0), from.Add(time.Hour).Format(time.RFC3339), ``},
			{day(0), from.Add(2 * time.Hour).Format(time.RFC3339Nano), `host="h2"`},
			{day(0), day(9), `_measurement="m" AND host="h1" AND region="r 1"`},
			{day(0), day(1), `_measurement="m" AND host="h3"`},
			{day(0), day(9), `host="h4" AND _measurement="m"`},
			{day(0), day(9), `(_measurement="m" AND (host="h5"))`},
			{day(0), day(9), `host="h6" AND (region="" AND _measurement="other")`},
			{day(0), day(9), `host="h6" AND (region="none" AND zone="")`},
			{day(0), day(1), `host="h6" AND (region="" AND zone="")`},
			{day(0), day(9), `_measurement="m" AND (host="h6" AND region="none") AND zone=""`},
			{day(0), day(9), `_measurement="none"`},
			{day(0), day(9), `_measurement='m'`},
			{day(0), day(9), `_measurement="m" AND host != "h1"`},
			{day(0), day(9), `_measurement="m" OR host = "h1"`},
			{day(0), day(9), `_measurement="m" AND f=1`},
			{day(0), day(9), `host='h6'`},
			{day(9), day(0), ``},
			{"yesterday", day(0), ``},
			{day(0), day(9), `_measurement="other"`},
		} {
			body, err := json.Marshal(map[string]string{"start": tt.start, "stop": tt.stop, "predicate": tt.predicate})
			if err != nil {
				t.Fatal(err)
			}
			path := "/api/v2/delete?bucket=" + db + "/rp"
			want, why := post(ctx, t, http.MethodPost, strings.TrimPrefix(p.Base, "http://"), path, body)
			if status, answer := post(ctx, t, http.MethodPost, c.Data[i%3].HTTPAddr(), path, body); status != want {
				t.Errorf("%s: %s: %d %s, want %d %s", db, body, status, answer, want, why)
			}
			for _, q := range []string{`SELECT * FROM m`, `SELECT * FROM other`} {
				left, err := p.Query(ctx, db, q)
				if err != nil {
					t.Fatal(err)
				}
				for node := range c.Data {
					if got := mustQuery(ctx, t, c, node, db, q); len(got) != len(left) {
						t.Fatalf("%s, node %d: after %s %d points are left, want %d", db, node+1, body, len(got),
							len(left))
					}
				}
			}
		}
	}
	if err := c.Wait(ctx, func() bool {
		s, _, err := c.Client(0).EntropyStatus(ctx)
		return err == nil && s.Clean()
	}); err != nil {
		t.Fatal("the copies differ after the deletes:", err)
	}
	for replicas := 1; replicas <= 3; replicas++ {
		left, err := p.Query(ctx, fmt.Sprintf("db%d", replicas), `SELECT * FROM m`)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustQuery(ctx, t, c, 1, fmt.Sprintf("db%d", replicas), `SELECT * FROM m`); len(got) != len(left) ||
			len(got) == 0 {
			t.Errorf("%d points came back, want %d", len(got), len(left))
		}
	}
}

// TestV2BucketsAreThoseOfTheCluster makes, changes and drops buckets through different nodes.
func TestV2BucketsAreThoseOfTheCluster(t *testing.T) {
	t.Parallel()
	ctx, c := mustStartWith(t, 3, nil)
	policy := func(db, name string) string {
		t.Helper()
		mustKnow(ctx, t, c)
		for _, row := range mustQuery(ctx, t, c, 1, db, `SHOW RETENTION POLICIES`) {
			if row[0] == name {
				return fmt.Sprint(row[1:4])
			}
		}
		return ""
	}
	do := func(node int, method, path, body string, want int) {
		t.Helper()
		mustKnow(ctx, t, c)
		if status, answer := post(ctx, t, method, c.Data[node].HTTPAddr(), path, []byte(body)); status != want {
			t.Fatalf("%s %s %s: %d %s", method, path, body, status, answer)
		}
	}
	do(0, http.MethodPost, "/api/v2/buckets", `{"name":"db/first"}`, http.StatusCreated)
	second := `{"name":"db/second","retentionRules":[{"type":"expire","everySeconds":172800}]}`
	do(1, http.MethodPost, "/api/v2/buckets", second, http.StatusCreated)
	do(2, http.MethodPost, "/api/v2/buckets", second, http.StatusCreated) // it exists
	mustQuery(ctx, t, c, 0, "", `CREATE DATABASE made`)
	if got, want := policy("db", "first"), policy("made", "autogen"); got != want || !strings.HasSuffix(got, " 3]") {
		t.Errorf("a bucket gets %s, a database %s", got, want)
	}
	if got := policy("db", "second"); got != "[48h0m0s 24h0m0s 3]" {
		t.Errorf("the second bucket gets %s", got)
	}

	mustQuery(ctx, t, c, 0, "", `CREATE RETENTION POLICY two ON db DURATION 1w REPLICATION 2`)
	for node, bucket := range []string{"two", "second", "first"} {
		rules := `{"retentionRules":[{"type":"expire","everySeconds":604800,"shardGroupDurationSeconds":86400}]}`
		do(node, http.MethodPatch, "/api/v2/buckets/db%2F"+bucket, rules, http.StatusOK)
	}
	if got := policy("db", "two"); got != "[168h0m0s 24h0m0s 2]" {
		t.Errorf("the changed bucket of two copies has %s", got)
	}
	if got := policy("db", "first"); got != "[168h0m0s 24h0m0s 3]" {
		t.Errorf("the changed bucket of three copies has %s", got)
	}

	points := string(lines(50, yesterday(), time.Second))
	do(0, http.MethodPost, "/api/v2/write?bucket=db/second&precision=ns&consistency=all", points, http.StatusNoContent)
	held := func(want int) func() bool {
		return func() bool {
			n := 0
			for _, d := range c.Data {
				n += d.Store.ShardN()
			}
			return n == want
		}
	}
	if err := c.Wait(ctx, held(3)); err != nil {
		t.Fatal("the points are not on three nodes:", err)
	}
	for node := range c.Data {
		if rows := mustQuery(ctx, t, c, node, "db", `SELECT f FROM "second".m`); len(rows) != 50 {
			t.Errorf("node %d has %d points", node+1, len(rows))
		}
	}
	do(1, http.MethodDelete, "/api/v2/buckets/db%2Fsecond", "", http.StatusOK)
	if !held(0)() {
		t.Error("a dropped bucket's shards are left")
	}
	if got := policy("db", "second"); got != "" {
		t.Errorf("the dropped bucket has %s", got)
	}
}
