package listeners

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"collectd.org/api"
	"collectd.org/network"
	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/pkg/tlsconfig"
	"github.com/influxdata/influxdb/services/collectd"
	"github.com/influxdata/influxdb/services/graphite"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/opentsdb"
	"github.com/influxdata/influxdb/services/udp"
	itoml "github.com/influxdata/influxdb/toml"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// cluster takes what listeners write.
type cluster struct {
	mu        sync.Mutex
	written   []string
	levels    []models.ConsistencyLevel
	databases map[string]*emeta.DatabaseInfo
	fail      error
	slow      time.Duration // that a write takes
	changed   chan struct{} // closed at each write
}

func newCluster() *cluster {
	return &cluster{databases: make(map[string]*emeta.DatabaseInfo), changed: make(chan struct{})}
}

func (c *cluster) WritePointsPrivileged(
	_ tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point,
) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	time.Sleep(c.slow)
	defer func() { close(c.changed); c.changed = make(chan struct{}) }()
	c.levels = append(c.levels, level)
	if c.databases[db] == nil || c.fail != nil {
		return fmt.Errorf("database %q, policy %q: %w", db, policy, c.fail)
	}
	for _, p := range points {
		c.written = append(c.written, p.String())
	}
	return nil
}

func (c *cluster) Database(name string) *emeta.DatabaseInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.databases[name]
}

func (c *cluster) CreateDatabase(name string) (*emeta.DatabaseInfo, error) {
	return c.CreateDatabaseWithRetentionPolicy(name, &emeta.RetentionPolicySpec{Name: "autogen"})
}

func (c *cluster) CreateDatabaseWithRetentionPolicy(name string, spec *emeta.RetentionPolicySpec) (*emeta.DatabaseInfo,
	error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.databases[name] = &emeta.DatabaseInfo{
		Name: name, DefaultRetentionPolicy: spec.Name,
		RetentionPolicies: []emeta.RetentionPolicyInfo{{Name: spec.Name}},
	}
	return c.databases[name], nil
}

func (c *cluster) CreateRetentionPolicy(db string, spec *emeta.RetentionPolicySpec,
	makeDefault bool) (*emeta.RetentionPolicyInfo, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := *c.databases[db]
	info.RetentionPolicies = append(slices.Clone(info.RetentionPolicies), emeta.RetentionPolicyInfo{Name: spec.Name})
	if makeDefault {
		info.DefaultRetentionPolicy = spec.Name
	}
	c.databases[db] = &info
	return &info.RetentionPolicies[len(info.RetentionPolicies)-1], nil
}

// await waits until some points are written, and returns them in order.
func (c *cluster) await(t *testing.T, n int) []string {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		points, changed := slices.Sorted(slices.Values(c.written)), c.changed
		c.mu.Unlock()
		if len(points) >= n {
			return points
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("%d of %d points are written: %q", len(points), n, points)
		}
	}
}

func (c *cluster) level() models.ConsistencyLevel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.levels[0]
}

// at is one open listener.
type at struct {
	*Listeners
	*cluster
	log    *observer.ObservedLogs
	closed *sync.Once
}

func (a at) Close() { a.closed.Do(func() { a.Listeners.Close() }) }

// deps are what listeners need, to write to a cluster.
func deps(to *cluster, log *zap.Logger) Deps {
	return Deps{Writer: to, Meta: to, Certificates: tlsconfig.NewTLSCertMonitor(), Log: log}
}

func open(t *testing.T, c Config) at {
	t.Helper()
	core, logs := observer.New(zapcore.WarnLevel)
	a := at{cluster: newCluster(), log: logs, closed: new(sync.Once)}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	l, err := Open(c, deps(a.cluster, zap.New(core)))
	if err != nil {
		t.Fatal(err)
	}
	a.Listeners = l
	t.Cleanup(a.Close)
	return a
}

func (a at) dial(t *testing.T) net.Conn {
	t.Helper()
	addr := a.list[0].addr()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// send sends each text on one connection, as a packet of its own over UDP.
func (a at) send(t *testing.T, texts ...string) {
	t.Helper()
	conn := a.dial(t)
	for _, text := range texts {
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	conn.Close()
}

func (a at) stat(name string) int64 { return a.list[0].counters().values[name].Load() }

// awaitStat waits until a statistic has a value.
func (a at) awaitStat(t *testing.T, name string, want int64) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); a.stat(name) != want; time.Sleep(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%s is %d, want %d", name, a.stat(name), want)
		}
	}
}

// logged checks that each text is in one line of the log, and that there are no others.
func (a at) logged(t *testing.T, texts ...string) {
	t.Helper()
	lines := a.log.All()
	if len(lines) != len(texts) {
		t.Errorf("%d lines are logged, want %d: %v", len(lines), len(texts), lines)
	}
	for i, l := range lines[:min(len(lines), len(texts))] {
		line := fmt.Sprint(l.Message, " ", l.ContextMap())
		if !strings.Contains(line, texts[i]) || strings.Contains(line, "\n") {
			t.Errorf("logged %q, want %q", line, texts[i])
		}
	}
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("written (-want +got):\n%s", d)
	}
}

const local = "127.0.0.1:0"

var soon = itoml.Duration(10 * time.Millisecond)

func graphiteConfig(protocol string) graphite.Config {
	c := graphite.NewConfig()
	c.Enabled, c.BindAddress, c.Protocol, c.BatchTimeout = true, local, protocol, soon
	return c
}

func udpConfig() udp.Config {
	c := udp.NewConfig()
	c.Enabled, c.BindAddress, c.BatchTimeout = true, local, soon
	return c
}

func opentsdbConfig() opentsdb.Config {
	c := opentsdb.NewConfig()
	c.Enabled, c.BindAddress, c.BatchTimeout = true, local, soon
	return c
}

func TestGraphite(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"tcp", "udp"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			c := graphiteConfig(protocol)
			c.ConsistencyLevel, c.RetentionPolicy = "quorum", "week"
			c.Templates = []string{"servers.* .host.measurement.field* role=web", "measurement*"}
			c.Tags = []string{"region=north"}
			a := open(t, Config{Graphite: []graphite.Config{c}})
			a.send(t, "servers.a.cpu.load.short 1.5 1700000000\n", "disk.used 7 1700000001\r\n",
				"no value\n", "x NaN 1700000000\n", "\n", "y 3 1700000002\n")
			same(t, a.await(t, 3),
				"cpu,host=a,region=north,role=web load.short=1.5 1700000000000000000",
				"disk.used,region=north value=7 1700000001000000000",
				"y,region=north value=3 1700000002000000000")
			a.logged(t, "no value")
			if a.stat(pointsParseFail) != 1 || a.stat(pointsNaNFail) != 1 || a.stat(pointsRx) != 5 {
				t.Errorf("statistics %v", a.list[0].counters().Statistics(nil))
			}
			if a.level() != models.ConsistencyLevelQuorum {
				t.Errorf("level %v", a.level())
			}
			if d := a.Database("graphite"); d == nil || d.RetentionPolicy("week") == nil {
				t.Errorf("database %v", d)
			}
		})
	}
}

// What a client sends of a line before its connection breaks is not a point: 12 may be the half of 1234.
func TestGraphiteHalfLine(t *testing.T) {
	t.Parallel()
	a := open(t, Config{Graphite: []graphite.Config{graphiteConfig("tcp")}})
	a.send(t, "a 1 1700000000\nb 12")
	same(t, a.await(t, 1), "a value=1 1700000000000000000")
	a.awaitStat(t, pointsParseFail, 1)
	a.send(t, strings.Repeat("x", maxLine+1))
	a.awaitStat(t, pointsParseFail, 2)
	a.Close()
	a.logged(t, "within a line", "is longer than")
}

func TestOpenTSDBLines(t *testing.T) {
	t.Parallel()
	c := opentsdbConfig()
	c.ConsistencyLevel = "all"
	a := open(t, Config{OpenTSDB: []opentsdb.Config{c}})
	conn := a.dial(t)
	io.WriteString(conn, "version\n")
	answer := make([]byte, 100)
	if n, err := conn.Read(answer); err != nil || !strings.Contains(string(answer[:n]), "InfluxDB") {
		t.Fatalf("%q, %v", answer[:n], err)
	}
	io.WriteString(conn, "put cpu 1700000000 4 host=a cpu=0\nput cpu 1700000000123 5e3 host=b\r\n"+
		"put cpu 170 1 host=a\nput cpu 1700000000 x host=a\nput cpu 1700000000 1 host\nget cpu 1 1\nput cpu 1700000001 6 host=a\n")
	same(t, a.await(t, 3), "cpu,cpu=0,host=a value=4 1700000000000000000",
		"cpu,host=a value=6 1700000001000000000", "cpu,host=b value=5000 1700000000123000000")
	a.logged(t, "time", "value", "tag", "put METRIC")
	for name, want := range map[string]int64{
		tlBadTime: 1, tlBadFloat: 1, tlBadTag: 1, tlBadLine: 1, tlPointsRx: 7, tlConnsHandled: 1, tlConnsActive: 1,
	} {
		if a.stat(name) != want {
			t.Errorf("%s is %d, want %d", name, a.stat(name), want)
		}
	}
	if a.level() != models.ConsistencyLevelAll {
		t.Errorf("level %v", a.level())
	}
}

func (a at) post(t *testing.T, body []byte, header map[string]string) (code int, text string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+a.list[0].addr().String()+"/api/put", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
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
	return resp.StatusCode, string(b)
}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, text)
	z.Close()
	return b.Bytes()
}

func TestOpenTSDBHTTP(t *testing.T) {
	t.Parallel()
	a := open(t, Config{OpenTSDB: []opentsdb.Config{opentsdbConfig()}})
	one := `{"metric":"cpu","timestamp":1700000000,"value":18,"tags":{"host":"a"}}`
	list := `[{"metric":"cpu","timestamp":1700000000001,"value":"1.5","tags":{"host":"b"}},` +
		`{"metric":"cpu","timestamp":1700000001,"value":2,"tags":{"host":"b"}}]`
	gz := map[string]string{"Content-Encoding": "gzip"}
	if code, text := a.post(t, []byte(one), nil); code != http.StatusNoContent {
		t.Errorf("one: %d %s", code, text)
	}
	if code, text := a.post(t, zipped(list), gz); code != http.StatusNoContent {
		t.Errorf("list: %d %s", code, text)
	}
	same(t, a.await(t, 3), "cpu,host=a value=18 1700000000000000000",
		"cpu,host=b value=1.5 1700000000001000000", "cpu,host=b value=2 1700000001000000000")
	a.logged(t)
	for _, bad := range []struct {
		body   []byte
		header map[string]string
		code   int
		text   string
	}{
		{[]byte(`{"metric":`), nil, 400, "as JSON"},
		{[]byte(`[{"metric":"m","timestamp":1,"value":"x"}]`), nil, 400, "as JSON"},
		{[]byte(`[{"metric":"m","timestamp":1,"value":1e999}]`), nil, 400, "1 of 1 points are bad"},
		{[]byte(`{"metric":"m","value":1}`), nil, 400, "timestamp 0"},
		{[]byte(`{"metric":"","timestamp":1,"value":1}`), nil, 400, "must have a name"},
		{[]byte(`{"metric":"a\nb","timestamp":1,"value":1}`), nil, 400, "line breaks"},
		{nil, nil, 400, "must be JSON"},
		{[]byte("no gzip"), gz, 400, "gzip"},
		{zipped(`[` + strings.Repeat(" ", maxBody)), gz, 413, "larger than"},
	} {
		code, text := a.post(t, bad.body, bad.header)
		if code != bad.code || !strings.Contains(text, bad.text) || strings.Count(text, "\n") != 1 {
			t.Errorf("%.40q: %d %q", bad.body, code, text)
		}
	}
	if n := len(a.await(t, 3)); n != 3 {
		t.Errorf("%d points", n)
	}
	a.mu.Lock()
	a.fail = errors.New("no quorum")
	a.mu.Unlock()
	if code, text := a.post(t, []byte(one), nil); code != 500 || !strings.Contains(text, "no quorum") {
		t.Errorf("a write that fails: %d %s", code, text)
	}
}

func TestUDPPrecisions(t *testing.T) {
	t.Parallel()
	for precision, of := range map[string]time.Duration{
		"": 1, "n": 1, "u": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "m": time.Minute,
		"h": time.Hour,
	} {
		t.Run(precision, func(t *testing.T) {
			t.Parallel()
			c := udpConfig()
			c.Precision, c.Writers = precision, 3
			a := open(t, Config{UDP: []udp.Config{c}})
			a.send(t, "a v=1 5\nb v=2i 6\n", "c v 1\nd v=3 7")
			same(t, a.await(t, 3), fmt.Sprintf("a v=1 %d", 5*of), fmt.Sprintf("b v=2i %d", 6*of),
				fmt.Sprintf("d v=3 %d", 7*of))
			a.logged(t, "c v 1")
			if a.stat(pointsParseFail) != 1 || a.stat(pointsRx) != 3 {
				t.Errorf("statistics %v", a.list[0].counters().Statistics(nil))
			}
		})
	}
}

// values is a packet of collectd with the load, and a counter of bytes with two values.
func values(t testing.TB, secure func(*network.Buffer)) string {
	t.Helper()
	b := network.NewBuffer(0)
	secure(b)
	for _, v := range []*api.ValueList{
		{Identifier: api.Identifier{Host: "h", Plugin: "load", Type: "load"},
			Values: []api.Value{api.Gauge(0.5), api.Gauge(1), api.Gauge(2)}},
		{Identifier: api.Identifier{Host: "h", Plugin: "if", PluginInstance: "eth0", Type: "if_octets"},
			Values: []api.Value{api.Derive(3), api.Derive(4)}},
	} {
		v.Time, v.Interval = time.Unix(1700000000, 0), 10*time.Second
		if err := b.Write(context.Background(), v); err != nil {
			t.Fatal(err)
		}
	}
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func collectdConfig(t testing.TB) collectd.Config {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"types": "load shortterm:GAUGE:0:5000, midterm:GAUGE:0:5000, longterm:GAUGE:0:5000\n" +
			"if_octets rx:DERIVE:0:U, tx:DERIVE:0:U\n",
		"passwords": "me: secret\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := collectd.NewConfig()
	c.Enabled, c.BindAddress, c.BatchDuration = true, local, soon
	c.TypesDB, c.AuthFile = filepath.Join(dir, "types"), filepath.Join(dir, "passwords")
	return c
}

func TestCollectd(t *testing.T) {
	t.Parallel()
	secure := map[string]func(*network.Buffer){
		"none":    func(*network.Buffer) {},
		"sign":    func(b *network.Buffer) { b.Sign("me", "secret") },
		"encrypt": func(b *network.Buffer) { b.Encrypt("me", "secret") },
		"stolen":  func(b *network.Buffer) { b.Sign("me", "guessed") },
	}
	for _, c := range []struct {
		level string
		taken []string
	}{
		{"none", []string{"none", "sign", "encrypt"}},
		{"sign", []string{"sign", "encrypt"}},
		{"encrypt", []string{"encrypt"}},
	} {
		t.Run(c.level, func(t *testing.T) {
			t.Parallel()
			conf := collectdConfig(t)
			conf.SecurityLevel = c.level
			for kind, as := range secure {
				taken := slices.Contains(c.taken, kind)
				a := open(t, Config{Collectd: []collectd.Config{conf}})
				a.send(t, values(t, as))
				if taken {
					same(t, a.await(t, 5),
						"if_rx,host=h,instance=eth0,type=if_octets value=3 1700000000000000000",
						"if_tx,host=h,instance=eth0,type=if_octets value=4 1700000000000000000",
						"load_longterm,host=h,type=load value=2 1700000000000000000",
						"load_midterm,host=h,type=load value=1 1700000000000000000",
						"load_shortterm,host=h,type=load value=0.5 1700000000000000000")
					a.logged(t)
					continue
				}
				a.awaitStat(t, pointsParseFail, 1)
				a.Close()
				if len(a.written) != 0 || a.log.Len() != 1 {
					t.Errorf("level %s, packet %s: written %q, %d lines", c.level, kind, a.written, a.log.Len())
				}
			}
		})
	}
}

func TestCollectdJoinAndBadPackets(t *testing.T) {
	t.Parallel()
	c := collectdConfig(t)
	c.ParseMultiValuePlugin = "join"
	a := open(t, Config{Collectd: []collectd.Config{c}})
	packet := values(t, func(*network.Buffer) {})
	notification := "\x01\x00\x00\x09hello"
	a.send(t, "no packet", notification+packet, strings.ReplaceAll(packet, "if_octets", "of_octets"))
	got := a.await(t, 3)
	a.awaitStat(t, pointsParseFail, 2)
	same(t, got, "if,host=h,instance=eth0,type=if_octets rx=3,tx=4 1700000000000000000",
		"load,host=h,type=load longterm=2,midterm=1,shortterm=0.5 1700000000000000000",
		"load,host=h,type=load longterm=2,midterm=1,shortterm=0.5 1700000000000000000")
	a.Close() // a bad packet is counted before it is logged
	a.logged(t, "", `typesdb has no type "of_octets"`)
}

// All that clients sent before Close is written, whatever waits for whom, and however busy the node is with writes.
func TestCloseWritesWhatWasRead(t *testing.T) {
	t.Parallel()
	g, gu, o, u := graphiteConfig("tcp"), graphiteConfig("udp"), opentsdbConfig(), udpConfig()
	later := itoml.Duration(time.Hour)
	g.BatchTimeout, gu.BatchTimeout, o.BatchTimeout, u.BatchTimeout = later, later, later, later
	g.BatchSize, gu.BatchSize, o.BatchSize, u.BatchSize = 7, 7, 7, 7
	g.BatchPending, o.BatchPending, u.BatchPending = 1, 1, 1
	// With this, 100 lines are more than the 4096 bytes of one read from a connection.
	long := strings.Repeat("x", 40)
	for name, c := range map[string]Config{
		"put m" + long + " 17%08d 1 host=a\n": {OpenTSDB: []opentsdb.Config{o}},
		"g" + long + " 1 17%08d\n":            {Graphite: []graphite.Config{g}},
		"gu 1 17%08d\n":                       {Graphite: []graphite.Config{gu}},
		"u v=1 17%08d\n":                      {UDP: []udp.Config{u}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := open(t, c)
			a.slow = 20 * time.Millisecond // so that Close comes long before the last line is read
			conn := a.dial(t)              // stays open
			n := 200                       // packets that a socket holds for sure
			if a.list[0].addr().Network() == "tcp" {
				n = 100
			}
			for i := range n {
				fmt.Fprintf(conn, name, i)
			}
			if a.list[0].addr().Network() == "tcp" {
				// The connection itself must have been accepted: one in the queue of the system is refused.
				a.awaitStat(t, connsHandled, 1)
			}
			a.Close()
			if got := a.await(t, n); len(got) != n || len(slices.Compact(got)) != n {
				t.Errorf("%d points", len(got))
			}
			a.logged(t)
		})
	}
}

// Writes that take too long while the node stops are given up, and counted.
func TestCloseGivesUp(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.WarnLevel)
	tgt := &target{writer: newCluster(), meta: newCluster(), stats: newStats("x", nil), log: zap.New(core)}
	b := &batches{target: tgt, size: 1, wait: time.Hour, in: make(chan models.Point, 3)}
	b.abandoned.Store(true)
	b.writers.Go(b.write)
	b.add(models.MustNewPoint("m", nil, models.Fields{"v": 1.0}, time.Unix(0, 1)))
	b.drain = time.Hour
	b.close()
	if n := tgt.stats.values[pointsTxFail].Load(); n != 1 || logs.Len() != 1 {
		t.Errorf("%d points, %d lines", n, logs.Len())
	}
}

func TestWritesThatFail(t *testing.T) {
	t.Parallel()
	c := udpConfig()
	c.BatchSize, c.BatchTimeout = 2, itoml.Duration(time.Hour) // both points are one batch
	a := open(t, Config{UDP: []udp.Config{c}})
	a.mu.Lock()
	a.cluster.fail = errors.New("no quorum")
	a.mu.Unlock()
	a.send(t, "m v=1\nm v=2 1")
	a.awaitStat(t, pointsTxFail, 2)
	a.Close()
	a.logged(t, "no quorum")
	if a.stat(batchesTxFail) != 1 || a.stat(pointsTx) != 0 {
		t.Errorf("statistics %v", a.Statistics(nil))
	}
	s := a.Statistics(map[string]string{"hostname": "h"})
	if len(s) != 1 || s[0].Name != "udp" || s[0].Tags["bind"] != local || s[0].Tags["hostname"] != "h" {
		t.Errorf("statistics %v", s)
	}
}

// When one listener cannot be opened, none stays.
func TestOpenAllOrNone(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	c := opentsdbConfig()
	c.BindAddress = busy.Addr().String()
	_, err = Open(Config{UDP: []udp.Config{udpConfig()}, OpenTSDB: []opentsdb.Config{c}},
		deps(newCluster(), zap.NewNop()))
	if err == nil || !strings.Contains(err.Error(), "[[opentsdb]]") {
		t.Errorf("error %v", err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"[graphite] protocol":                func(c *Config) { c.Graphite[0].Protocol = "sctp" },
		"[graphite] consistency-level":       func(c *Config) { c.Graphite[0].ConsistencyLevel = "most" },
		"[graphite] tags":                    func(c *Config) { c.Graphite[0].Tags = []string{"a"} },
		"[graphite] templates":               func(c *Config) { c.Graphite[0].Templates = []string{"a.* a b c d"} },
		"[graphite] batch-size":              func(c *Config) { c.Graphite[0].BatchSize = 1 << 40 },
		"[collectd] security-level":          func(c *Config) { c.Collectd[0].SecurityLevel = "much" },
		"[collectd] parse-multivalue-plugin": func(c *Config) { c.Collectd[0].ParseMultiValuePlugin = "mix" },
		"[opentsdb] consistency-level":       func(c *Config) { c.OpenTSDB[0].ConsistencyLevel = "most" },
		"[opentsdb] batch-pending":           func(c *Config) { c.OpenTSDB[0].BatchPending = -1 },
		"[udp] precision":                    func(c *Config) { c.UDP[0].Precision = "d" },
		"[udp] writers":                      func(c *Config) { c.UDP[0].Writers = -1 },
		"[udp] bind-address":                 func(c *Config) { c.UDP[0].BindAddress = "x" },
	} {
		c := Config{
			Graphite: []graphite.Config{graphiteConfig("tcp")}, Collectd: []collectd.Config{collectdConfig(t)},
			OpenTSDB: []opentsdb.Config{opentsdbConfig()}, UDP: []udp.Config{udpConfig()},
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want+":") {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
