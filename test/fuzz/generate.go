package fuzz

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// request is one request, as it is sent.
type request struct {
	n      int
	kind   string
	method string
	path   string
	header map[string]string
	body   []byte
	broken breakage
}

// breakage is how a client misbehaves below HTTP.
type breakage int

const (
	sound       breakage = iota
	stall                // sends a part, and waits before it closes
	cut                  // sends a part, and closes
	unread               // closes before it has read the answer
	badLength            // announces more than it sends
	badChunks            // has a body in chunks that are none
	largeHeader          // has headers of more than a megabyte
)

// generator makes request n of a seed.
type generator struct {
	*rand.Rand
	heavy bool // this request may be of megabytes
}

// One in heavyEvery requests is large: the campaign is about kinds of requests, not about a network that is full. One
// in spreadEvery writes has points of many shard groups, which a cluster takes a second to make.
const (
	heavyEvery  = 2000
	spreadEvery = 20
)

// known are requests that once ended a process, or all owners of a shard in turn. They come before those of a seed.
func known() []request {
	form := func(q string) request {
		return request{
			kind: fmt.Sprintf("known: %.24s", q), method: "POST", path: "/query",
			header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
			body:   []byte(url.Values{"db": {"known"}, "q": {q}}.Encode()),
		}
	}
	var wide bytes.Buffer
	wide.WriteString("wide ")
	for i := range 1_000_000 {
		fmt.Fprintf(&wide, "f%d=1,", i)
	}
	wide.WriteString("last=1 1700000000000000000")
	return []request{
		form("SELECT " + strings.Repeat("(", 1_000_000)),
		form("SELECT " + strings.Repeat("-(", 10_000) + "v" + strings.Repeat(")", 10_000) + " FROM m"),
		form("SELECT v FROM " + strings.Repeat("(SELECT v FROM ", 6666) + "m" + strings.Repeat(")", 6666)),
		{kind: "known: a million fields", method: "POST", path: "/write?db=known&consistency=all", body: wide.Bytes()},
		form("SELECT * FROM wide"),
		form("SELECT max(*) FROM wide"),
		form("SHOW FIELD KEYS"),
		{kind: "known: two points", method: "POST", path: "/write?db=known", body: []byte("m v=1 1700000000000000000\nm v=1 1734000000000000000")},
		form("SELECT max(v) FROM m WHERE time >= 1700000000s AND time < 1734000000s GROUP BY time(1s) fill(0)"),
		form("SELECT moving_average(v, 1000000000), top(v, 1000000000) FROM m"),
		{kind: "known: a gigabyte of zeros", method: "POST", path: "/api/v1/prom/read?db=known", body: snappy.Encode(nil, make([]byte, 1<<30))},
		{kind: "known: the earliest time", method: "POST", path: "/write?db=known", body: []byte("m v=1 -9223372036854775806")},
	}
}

func generate(seed uint64, n int) request {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, uint64(n)))}
	g.heavy = g.IntN(heavyEvery) == 0
	kinds := []struct {
		weight int
		make   func() request
	}{
		{50, g.query}, {20, g.write}, {6, g.prometheusWrite}, {6, g.prometheusRead}, {6, g.bucket}, {4, g.delete}, {4, g.other},
	}
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	at := g.IntN(total)
	var r request
	for _, k := range kinds {
		if at -= k.weight; at < 0 {
			r = k.make()
			break
		}
	}
	r.n = n
	if g.IntN(30) == 0 {
		r.broken = breakage(1 + g.IntN(int(largeHeader)))
		r.kind += " broken"
	}
	return r
}

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// count is mostly small, and up to large when the request is heavy.
func (g *generator) count(large int) int {
	if g.heavy {
		return 1 + g.IntN(large)
	}
	return 1 + g.IntN(1+g.IntN(20))
}

var odd = []string{
	"", "m", "wide", "cpu", "a b", `a"b`, `a\b`, "a'b", "é世界", "\xff\xfe", "a\x00b", "time", "_name", "_fieldKey", "_series", "select",
	"a,b", "a=b", "a\nb", "$x", "/x/", "*", "..", "autogen", strings.Repeat("n", 300),
}

// name is an identifier, quoted where it must be and sometimes where not.
func (g *generator) name() string {
	s := pick(g, odd...)
	if g.IntN(3) > 0 {
		s = pick(g, "m", "cpu", "v", "i", "s", "host", "wide", "f1")
	}
	if g.IntN(4) == 0 {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
	}
	return s
}

var times = []string{
	"-9223372036854775808", "-9223372036854775806", "0", "9223372036854775806", "9223372036854775807", "9223372036854775808",
	"now()", "now() - 1h", "now() + 292y", "'1677-09-21T00:12:43.145224194Z'", "'2262-04-11T23:47:16.854775807Z'", "'0000-01-01'",
	"'9999-12-31T23:59:59Z'", "1e300", "106751d", "99999999w", "-1ns", "'x'", "''",
}

var calls = []string{
	"count", "sum", "mean", "min", "max", "first", "last", "median", "mode", "spread", "stddev", "percentile", "distinct", "integral",
	"derivative", "non_negative_derivative", "difference", "non_negative_difference", "cumulative_sum", "moving_average", "elapsed",
	"top", "bottom", "sample", "holt_winters", "holt_winters_with_fit", "exponential_moving_average", "double_exponential_moving_average",
	"triple_exponential_moving_average", "relative_strength_index", "triple_exponential_derivative", "kaufmans_efficiency_ratio",
	"kaufmans_adaptive_moving_average", "chande_momentum_oscillator", "count_hll", "sum_hll", "merge_hll", "histogram", "abs", "pow", "log",
	"atan2", "round", "floor", "sqrt", "now", "fill", "tz", "time", "x",
}

var numbers = []string{
	"0", "1", "-1", "2", "10", "100", "1000000000", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1e308", "0.0000001",
	"1.5", "true", "'a'", "1h", "1ns", "/a/", "$p", "*",
}

func (g *generator) expr(depth int) string {
	if depth <= 0 {
		if g.IntN(2) == 0 {
			return g.name()
		}
		return pick(g, numbers...)
	}
	switch g.IntN(6) {
	case 0:
		return "(" + g.expr(depth-1) + ")"
	case 1:
		return "-(" + g.expr(depth-1) + ")"
	case 2:
		return g.expr(depth-1) + pick(g, " + ", " - ", " * ", " / ", " % ", " & ", " | ", " ^ ", " = ", " AND ", " OR ") + g.expr(0)
	case 3:
		return g.expr(0) + pick(g, " =~ ", " !~ ") + "/" + g.regex() + "/"
	}
	args := make([]string, g.IntN(4))
	for i := range args {
		args[i] = g.expr(depth - 1 - g.IntN(depth))
	}
	return pick(g, calls...) + "(" + strings.Join(args, ", ") + ")"
}

func (g *generator) regex() string {
	return pick(g, ".*", "a", "^h[0-9]+$", "(a|b|c)", "(((", "a{1000}", "(a{100}){10}", "[", `\p{L}+`, strings.Repeat("a?", 30)+strings.Repeat("a", 30),
		strings.Repeat("(x", g.count(2000)))
}

// ordinary is a call with arguments that are nearly right.
func (g *generator) ordinary() string {
	switch name := pick(g, calls...); name {
	case "percentile", "top", "bottom", "sample", "moving_average", "exponential_moving_average", "relative_strength_index",
		"kaufmans_efficiency_ratio", "chande_momentum_oscillator", "pow":
		return fmt.Sprintf("%s(%s, %s)", name, pick(g, "v", "i", "s", "*", "f1"), pick(g, numbers...))
	case "holt_winters", "holt_winters_with_fit":
		return fmt.Sprintf("%s(mean(v), %s, %s)", name, pick(g, numbers...), pick(g, numbers...))
	default:
		return fmt.Sprintf("%s(%s)", name, pick(g, "v", "i", "s", "*", "/./", "mean(v)", "distinct(v)"))
	}
}

func (g *generator) selectFrom(depth int) string {
	fields := make([]string, g.count(20_000))
	for i := range fields {
		fields[i] = pick(g, g.ordinary, g.ordinary, g.name, func() string { return "*" }, func() string { return g.expr(2) })()
	}
	from := pick(g, "cpu", "cpu", "wide", "plain..m", "/./", "/.*/, cpu", g.name())
	if depth > 0 {
		from = "(" + g.selectFrom(depth-1) + ")"
	}
	text := "SELECT " + strings.Join(fields, ", ") + pick(g, "", "", "", "", " INTO other", " INTO "+g.name()) + " FROM " + from
	switch g.IntN(4) {
	case 0:
		text += " WHERE time >= " + pick(g, times...) + " AND time < " + pick(g, times...)
	case 1:
		text += " WHERE " + strings.Repeat("host = 'h1' OR ", g.count(20_000)) + g.expr(2)
	case 2:
		text += " WHERE time > now() - 400d"
	}
	if g.IntN(2) == 0 {
		text += " GROUP BY " + pick(g, "*", "host", "time(1s)", "time(1ns)", "time(1m), *", "time(0s)", "time(292y)", "time(-1s)", "time(1h, 5m), host", "/h/", g.name())
		text += pick(g, "", " fill(0)", " fill(linear)", " fill(previous)", " fill(none)", " fill(1e300)")
	}
	text += pick(g, "", "", " ORDER BY time DESC", " ORDER BY time ASC", " ORDER BY "+g.name())
	for _, clause := range []string{" LIMIT ", " OFFSET ", " SLIMIT ", " SOFFSET "} {
		if g.IntN(5) == 0 {
			text += clause + pick(g, numbers...)
		}
	}
	return text + pick(g, "", "", "", " tz('Asia/Kolkata')", " tz('x')")
}

func (g *generator) statement() string {
	n := g.count(200_000)
	switch g.IntN(24) {
	case 0:
		return "SELECT " + strings.Repeat(pick(g, "(", "-(", "abs(", "f(a, "), n) + "v" + strings.Repeat(")", pick(g, 0, n, n-1)) + " FROM cpu"
	case 1:
		n = min(n, 10_000)
		return "SELECT v FROM " + strings.Repeat("(SELECT v FROM ", n) + "cpu" + strings.Repeat(")", n)
	case 2:
		return "SELECT " + strings.Repeat("v, ", n) + "v FROM cpu"
	case 3:
		return "SELECT v FROM cpu WHERE host = '" + strings.Repeat(pick(g, "x", "(", `\'`, "é"), 10*n) + "'"
	case 4:
		return "SHOW " + pick(g, "SERIES", "TAG VALUES", "TAG KEYS", "FIELD KEYS", "MEASUREMENTS") + pick(g, "", " ON fuzz", " ON plain") +
			pick(g, "", " FROM cpu", " FROM /./", " FROM wide") + pick(g, "", " WITH KEY = host", " WITH KEY =~ /"+g.regex()+"/", " WHERE "+g.expr(3)) +
			pick(g, "", " LIMIT "+pick(g, numbers...), " OFFSET "+pick(g, numbers...))
	case 5:
		return "SHOW " + pick(g, "", "EXACT ") + pick(g, "SERIES", "MEASUREMENT", "TAG KEY", "FIELD KEY", "TAG VALUES") + " " + pick(g, "EXACT ", "") + "CARDINALITY" +
			pick(g, "", " ON fuzz", " FROM cpu", " WITH KEY = host", " WHERE "+g.expr(2), " GROUP BY *")
	case 6:
		return pick(g, "SHOW STATS", "SHOW DIAGNOSTICS", "SHOW SHARDS", "SHOW SHARD GROUPS", "SHOW QUERIES", "SHOW USERS", "SHOW DATABASES",
			"SHOW RETENTION POLICIES ON fuzz", "SHOW CONTINUOUS QUERIES", "SHOW SUBSCRIPTIONS", "SHOW GRANTS FOR x")
	case 7:
		return pick(g, "EXPLAIN ", "EXPLAIN ANALYZE ") + g.selectFrom(0)
	case 8:
		return pick(g, "DELETE FROM "+g.name(), "DELETE FROM wide WHERE time < "+pick(g, times...), "DROP SERIES FROM "+g.name()+" WHERE "+g.expr(2),
			"DROP MEASUREMENT "+g.name(), "DELETE WHERE "+g.expr(4))
	case 9:
		return "CREATE CONTINUOUS QUERY " + g.name() + " ON fuzz " + pick(g, "", "RESAMPLE EVERY 1h FOR 1ns ") + "BEGIN " + g.selectFrom(0) + " END"
	case 10:
		return pick(g, "DROP CONTINUOUS QUERY "+g.name()+" ON fuzz", "CREATE DATABASE "+pick(g, "fuzz", "scratch"), "DROP DATABASE scratch",
			"CREATE RETENTION POLICY "+pick(g, "short", "long")+" ON scratch DURATION "+pick(g, "1h", "1s", "INF", "99999w")+" REPLICATION "+pick(g, "1", "3", "1000000000"),
			"DROP RETENTION POLICY short ON scratch")
	case 11:
		return strings.Repeat(g.selectFrom(0)+";", min(n, 500))
	case 12:
		return strings.Repeat(pick(g, ";", "SHOW DATABASES;", "SHOW STATS;"), min(n, 2000))
	case 13: // no statement at all
		b := make([]byte, min(n*10, 1<<20))
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		return string(b)
	case 14:
		return "SELECT " + g.expr(g.IntN(12)) + " FROM cpu WHERE " + g.expr(g.IntN(12))
	case 15:
		return pick(g, "SELECT * FROM wide", "SELECT * FROM /./", "SELECT max(*) FROM wide", "SELECT percentile(*, 50) FROM /./ GROUP BY *",
			"SELECT max(v) FROM cpu WHERE time > now() - 400d GROUP BY time(1s) fill(0)", "SELECT median(v), stddev(v), mode(v) FROM cpu",
			"SELECT top(v, 1000000000) FROM cpu", "SELECT moving_average(v, 1000000000) FROM cpu GROUP BY *")
	}
	return g.selectFrom(g.IntN(1 + g.IntN(4)))
}

func (g *generator) query() request {
	form := url.Values{"q": {g.statement()}, "db": {pick(g, "fuzz", "fuzz", "fuzz", "fuzz", "", "none", "plain")}}
	set := func(key string, values ...string) {
		if g.IntN(5) == 0 {
			form.Set(key, pick(g, values...))
		}
	}
	set("chunked", "true", "false", "x")
	set("chunk_size", numbers...)
	set("epoch", "ns", "h", "x")
	set("pretty", "true")
	set("rp", "autogen", "none", "..")
	set("params", `{"p": 1}`, `{"p": "`+strings.Repeat("x", 10*g.count(100_000))+`"}`, `{"p": {"regex": "(a{1000}"}}`, `{`, strings.Repeat(`{"a":`, g.count(100_000)))
	set("async", "true")
	set("node_id", numbers...)
	r := request{kind: "query", method: "POST", path: "/query", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, body: []byte(form.Encode())}
	switch g.IntN(6) {
	case 0:
		if len(r.body) < 4000 {
			return request{kind: "query", method: "GET", path: "/query?" + string(r.body)}
		}
	case 1:
		r.header["Accept"] = pick(g, "application/csv", "application/x-msgpack", "x/y", "*/*")
	case 2:
		r.header["Accept-Encoding"] = "gzip"
	}
	return r
}

// line is a point of the line protocol, more or less.
func (g *generator) line(b *bytes.Buffer) {
	escape := strings.NewReplacer(" ", `\ `, ",", `\,`)
	b.WriteString(escape.Replace(pick(g, "cpu", "cpu", "m", "other", pick(g, odd...))))
	for i := range g.IntN(3) {
		fmt.Fprintf(b, ",%s=%s", pick(g, "host", "region", fmt.Sprint("t", i), escape.Replace(pick(g, odd...))), pick(g, "h1", "h2", fmt.Sprint("h", g.IntN(1000)), pick(g, odd...)))
	}
	b.WriteByte(' ')
	for i := range 1 + g.IntN(3) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, "%s=%s", pick(g, "v", "v", "i", "s", escape.Replace(pick(g, odd...))),
			pick(g, "1", "2.5", "3i", `"text"`, "true", "-1e308", "NaN", "9223372036854775808i", "1u", `"`, "", "1x", `"`+strings.Repeat("s", g.IntN(100))+`"`))
	}
	switch g.IntN(4) {
	case 0:
		b.WriteString(" " + pick(g, times...))
	case 1:
		fmt.Fprintf(b, " %d", 1_700_000_000_000_000_000+g.Int64N(1e15))
	}
	b.WriteByte('\n')
}

func (g *generator) lines() []byte {
	var b bytes.Buffer
	if g.heavy {
		n := 1 + g.IntN(1_000_000)
		switch g.IntN(6) {
		case 0: // fields
			b.WriteString("wide ")
			for i := range n {
				fmt.Fprintf(&b, "f%d=1,", i)
			}
			b.WriteString("last=1 1700000000000000000\n")
		case 1: // tags
			b.WriteString("tags")
			for i := range n {
				fmt.Fprintf(&b, ",t%d=v", i)
			}
			b.WriteString(" v=1\n")
		case 2:
			fmt.Fprintf(&b, "long s=\"%s\"\n", strings.Repeat(pick(g, "x", "é", "\xff", `\"`), 10*n))
		case 3: // series
			for i := range n / 20 {
				fmt.Fprintf(&b, "many,id=%d-%d v=1 1700000000000000000\n", g.IntN(3), i)
			}
		case 4: // points
			for i := range n / 10 {
				fmt.Fprintf(&b, "cpu,host=h1 v=%d %d\n", i, 1_700_000_000_000_000_000+int64(i)*1e9)
			}
		default: // shard groups
			for i := range 20 {
				fmt.Fprintf(&b, "groups v=1 %d\n", int64(i)*604_800_000_000_000*int64(1+g.IntN(500)))
			}
		}
		return b.Bytes()
	}
	for range 1 + g.IntN(50) {
		g.line(&b)
	}
	return b.Bytes()
}

func (g *generator) write() request {
	body := g.lines()
	r := request{kind: "write", method: "POST", header: map[string]string{}}
	v := url.Values{"db": {pick(g, "fuzz", "fuzz", "fuzz", "none", "")}, "precision": {pick(g, "ns", "ns", "n", "s", "h", "x", "")},
		"consistency": {pick(g, "any", "one", "quorum", "all", "x", "")}}
	r.path = "/write?" + v.Encode()
	if g.IntN(4) == 0 {
		r.path = "/api/v2/write?" + url.Values{"bucket": {pick(g, "fuzz/autogen", "fuzz", "/", "")}, "precision": {pick(g, "ns", "us", "x")}}.Encode()
	}
	if g.IntN(4) == 0 {
		if g.heavy {
			body = make([]byte, 200<<20)
		}
		r.header["Content-Encoding"] = "gzip"
		r.body = g.damage(zip(body))
		return r
	}
	r.body = body
	return r
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

// damage changes some bytes, sometimes.
func (g *generator) damage(b []byte) []byte {
	if len(b) > 0 && g.IntN(3) == 0 {
		for range 1 + g.IntN(4) {
			b[g.IntN(len(b))] = byte(g.Uint32())
		}
	}
	return b
}

func (g *generator) prometheusWrite() request {
	var w prompb.WriteRequest
	spread := g.IntN(spreadEvery) == 0
	for range g.count(20_000) {
		s := prompb.TimeSeries{}
		for range g.IntN(4) {
			s.Labels = append(s.Labels, prompb.Label{Name: pick(g, "__name__", "job", pick(g, odd...)), Value: pick(g, odd...)})
		}
		for range g.IntN(4) {
			at := pick(g, int64(0), 1_700_000_000_000)
			if spread {
				at = pick(g, g.Int64(), -g.Int64())
			}
			s.Samples = append(s.Samples, prompb.Sample{Value: g.NormFloat64(), Timestamp: at})
		}
		w.Timeseries = append(w.Timeseries, s)
	}
	b, err := w.Marshal()
	if err != nil {
		b = nil
	}
	return request{kind: "prometheus write", method: "POST", path: "/api/v1/prom/write?db=" + pick(g, "fuzz", "none"), body: g.compressed(b)}
}

func (g *generator) compressed(b []byte) []byte {
	if g.IntN(20) == 0 {
		return snappy.Encode(nil, make([]byte, g.count(200<<20)))
	}
	return g.damage(snappy.Encode(nil, b))
}

func (g *generator) prometheusRead() request {
	q := &prompb.Query{StartTimestampMs: pick(g, 0, g.Int64(), -g.Int64()), EndTimestampMs: pick(g, 1<<42, g.Int64(), -g.Int64())}
	for range g.count(100_000) {
		q.Matchers = append(q.Matchers, &prompb.LabelMatcher{
			Type: prompb.LabelMatcher_Type(g.IntN(5)), Name: pick(g, "__name__", "job", "host", pick(g, odd...)), Value: pick(g, "v", g.regex(), pick(g, odd...)),
		})
	}
	b, err := (&prompb.ReadRequest{Queries: []*prompb.Query{q}}).Marshal()
	if err != nil {
		b = nil
	}
	return request{kind: "prometheus read", method: "POST", path: "/api/v1/prom/read?db=" + pick(g, "fuzz", "plain", "none"), body: g.compressed(b)}
}

func (g *generator) json() []byte {
	return pick(g, fmt.Appendf(nil, `{"name": %q, "rp": %q, "retentionRules": [{"everySeconds": %d, "shardGroupDurationSeconds": %d}]}`,
		pick(g, "scratch/a", "scratch/b", "x", ""), pick(g, "", "a"), pick(g, 0, 1, 3600, g.Int64()), pick(g, 0, 1, g.Int64())),
		[]byte(strings.Repeat(pick(g, `{"a":`, "["), g.count(1_000_000))), []byte("{"), nil)
}

func (g *generator) bucket() request {
	return request{kind: "bucket", method: pick(g, "POST", "GET", "PATCH", "DELETE"), path: pick(g, "/api/v2/buckets", "/api/v2/buckets/scratch%2Fa", "/api/v2/buckets/x",
		"/api/v2/buckets?limit="+pick(g, numbers...)+"&offset="+url.QueryEscape(pick(g, numbers...)), "/api/v2/query"), body: g.json()}
}

func (g *generator) delete() request {
	predicate := pick(g, `_measurement="m"`, `host = 'h1'`, g.expr(4), strings.Repeat("(", g.count(300_000)), strings.Repeat("a='b' AND ", g.count(50_000))+"a='b'")
	body := fmt.Appendf(nil, `{"start": %q, "stop": %q, "predicate": %q}`, pick(g, "1970-01-01T00:00:00Z", "x", "0000-01-01T00:00:00Z"),
		pick(g, "2262-04-11T23:47:16Z", "9999-01-01T00:00:00Z", "1970-01-01T00:00:01Z"), predicate)
	return request{kind: "delete", method: "POST", path: "/api/v2/delete?bucket=" + pick(g, "fuzz/autogen", "none/x", ""), body: body}
}

func (g *generator) other() request {
	return request{kind: "other", method: pick(g, "GET", "POST", "HEAD", "PUT", "OPTIONS", "BREW"), path: pick(g, "/ping", "/status", "/health", "/metrics", "/debug/vars",
		"/debug/requests?seconds=1", "/shard-status", "/shard-repair/status", "/shard-repair/diff?id="+url.QueryEscape(pick(g, numbers...)), "/shard-repair/repairs",
		"/shard-repair/check", "/", "/../..", "/%00", "/"+strings.Repeat("a", 8000)), body: pick(g, nil, g.json(), make([]byte, g.count(40<<20)))}
}
