//go:build e2e

package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"concord/internal/meta/wire"
	"concord/test/process"
)

var adoptPoints = flag.Int("points", 100_000, "points of the plain server that TestAdoptedServerGetsCopies adopts")

// load writes points to three databases of a plain server: six series of ten in plant, three in shop, one in lab.
// Half of them have one point a second, and half one a minute, so that there are several shards.
func load(t *testing.T, s *plainServer, points int) {
	t.Helper()
	for _, q := range []string{
		`CREATE DATABASE "plant" WITH DURATION INF SHARD DURATION 1d NAME "raw"`,
		`CREATE RETENTION POLICY "hourly" ON "plant" DURATION INF REPLICATION 1`,
		`CREATE DATABASE "shop"`,
		`CREATE DATABASE "lab" WITH DURATION INF SHARD DURATION 30d NAME "trials"`,
		`CREATE USER "ann" WITH PASSWORD 'a secret' WITH ALL PRIVILEGES`,
		`CREATE USER "bob" WITH PASSWORD 'another one'`,
		`CREATE USER "eve" WITH PASSWORD 'one more'`,
		`GRANT READ ON "plant" TO "bob"`, `GRANT ALL ON "lab" TO "eve"`,
		`CREATE CONTINUOUS QUERY "mean_hourly" ON "plant" BEGIN SELECT mean(v) INTO "plant"."hourly"."m" ` +
			`FROM "plant"."raw"."m" GROUP BY time(1h), * END`,
		`CREATE CONTINUOUS QUERY "sum_daily" ON "shop" BEGIN SELECT sum(amount) INTO "shop"."autogen"."days" ` +
			`FROM "shop"."autogen"."sales" GROUP BY time(1d) END`,
		`CREATE SUBSCRIPTION "copy" ON "shop"."autogen" DESTINATIONS ALL 'udp://127.0.0.1:9'`,
	} {
		if _, err := s.client.Query(t.Context(), "", q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	const batch, series = 5000, 100
	for _, part := range []struct {
		db, line string
		share    int // of ten
		step     int64
	}{
		{"plant", "m,host=h%02d,site=s%d v=%d.5,n=%di,ok=%t %d\n", 6, 60},
		{"shop", "sales,shop=s%02d,kind=k%d amount=%d.25,items=%di,paid=%t %d\n", 3, 60},
		{"lab", "trial,rig=r%02d,run=x%d value=%d.125,step=%di,good=%t %d\n", 1, 1},
	} {
		all := points * part.share / 10
		for first := 0; first < all; first += batch {
			var lines []byte
			for i := first; i < min(first+batch, all); i++ {
				of, at := i%series, int64(i/series)
				lines = fmt.Appendf(lines, part.line, of, of%7, (i*7919)%1000, i, i%3 == 0, (adoptDay+at*part.step)*1e9)
			}
			if err := s.client.Write(t.Context(), part.db, "one", lines); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// lacking is how many copies of a data node lack something, or have not been compared yet.
func lacking(t *testing.T, n *process.Node) float64 {
	t.Helper()
	resp, err := http.Get(n.Client().Base + "/debug/vars")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var vars struct {
		Copies struct {
			Values struct {
				Lacking, NotWhole *float64
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&vars); err != nil {
		t.Fatal(err)
	}
	v := vars.Copies.Values
	if v.Lacking == nil || v.NotWhole == nil {
		t.Fatal("/debug/vars has no statistic of copies")
	}
	return *v.Lacking + *v.NotWhole
}

var copyQueries = [][2]string{
	{"plant", "SELECT count(v), count(n), count(ok), sum(n), min(v), max(v) FROM m"},
	{"plant", "SELECT mean(v), spread(v), stddev(v) FROM m GROUP BY site"},
	{"plant", "SELECT first(v), last(n) FROM m GROUP BY host"},
	{"plant", "SELECT count(v), sum(v) FROM m WHERE time >= 1700006400s AND time < 1700265600s GROUP BY time(6h)"},
	{"plant", "SELECT percentile(v, 90), median(v) FROM m WHERE host =~ /h0[1-3]/ GROUP BY host"},
	{"plant", "SELECT top(n, 5), bottom(v, 3) FROM m WHERE site = 's3'"},
	{"plant", "SELECT * FROM m WHERE host = 'h07' LIMIT 300"},
	{"plant", "SELECT v, n FROM m WHERE ok = true ORDER BY time DESC LIMIT 50"},
	{"plant", "SELECT derivative(mean(v), 1m) FROM m WHERE time >= 1700006400s AND time < 1700010000s " +
		"GROUP BY time(10m)"},
	{"plant", "SELECT count(distinct(v)) FROM m"},
	{"plant", "SELECT mean(s) FROM (SELECT sum(v) AS s FROM m GROUP BY host)"},
	{"plant", "SELECT sum(v) FROM m WHERE n > 100 AND v < 500 GROUP BY site, ok"},
	{"shop", "SELECT sum(amount), sum(items) FROM sales GROUP BY kind"},
	{"shop", "SELECT * FROM sales LIMIT 200 OFFSET 100"},
	{"shop", "SELECT moving_average(mean(amount), 3) FROM sales WHERE time >= 1700006400s AND time < 1700013600s " +
		"GROUP BY time(20m), kind FILL(previous)"},
	{"lab", "SELECT integral(value) FROM trial WHERE rig = 'r05'"},
	{"lab", "SELECT mode(good) FROM trial GROUP BY run"},
	{"lab", "SELECT difference(value) FROM trial WHERE rig = 'r05' LIMIT 20"},
	{"plant", "SHOW MEASUREMENTS"}, {"plant", "SHOW SERIES"}, {"plant", "SHOW FIELD KEYS"}, {"lab", "SHOW TAG KEYS"},
	{"plant", "SHOW TAG VALUES WITH KEY = host"},
	{"shop", "SHOW TAG VALUES WITH KEY IN (shop, kind) WHERE kind = 'k3'"},
	{"", "SHOW USERS"}, {"", "SHOW GRANTS FOR bob"}, {"", "SHOW GRANTS FOR eve"}, {"", "SHOW CONTINUOUS QUERIES"},
	{"", "SHOW SUBSCRIPTIONS"},
}

// TestAdoptedServerGetsCopies adopts a server, gives all that it had a second copy, and loses the adopted node. With
// -points 5000000 it measures what the adoption takes.
func TestAdoptedServerGetsCopies(t *testing.T) {
	t.Parallel()
	server := startPlain(t, plainInflux(t), filepath.Join(t.TempDir(), "plain"), "tsi1")
	begun := time.Now()
	load(t, server, *adoptPoints)
	t.Logf("%d points written to the plain server in %s", *adoptPoints, time.Since(begun).Round(time.Millisecond))
	if !process.Poll(time.Minute, func() bool { // SHOW CONTINUOUS QUERIES lists it, too
		return strings.Contains(raw(t, server.client, "", "SHOW DATABASES"), `"_internal"`)
	}) {
		t.Fatal("the plain server does not record its statistics")
	}
	want := make(map[string]string)
	for _, q := range copyQueries {
		want[q[1]] = raw(t, server.client, q[0], q[1])
	}
	asBefore := func(n *process.Node, when string) {
		t.Helper()
		for _, q := range copyQueries {
			if got := raw(t, n.Client(), q[0], q[1]); got != want[q[1]] {
				t.Errorf("%s, %s answers %q otherwise:\n%s", when, n.Name, q[1], cmp.Diff(want[q[1]], got))
			}
		}
	}

	tsi1 := map[string]map[string]any{"data": {"index-version": "tsi1"}}
	c := process.Start(t, process.Options{Meta: 1, Settings: tsi1})
	first := c.AddNode()
	hand(t, first, server)
	begun = time.Now()
	c.Ctl("adopt", first.TCP)
	adopted := time.Since(begun)
	c.Await("the adopted node serves", func() bool {
		_, err := first.Client().Query(t.Context(), "plant", "SHOW MEASUREMENTS")
		return err == nil
	})
	took := time.Since(begun)
	t.Logf("adopted in %s, and serving after %s", adopted.Round(time.Millisecond), took.Round(time.Millisecond))
	if took > 2*time.Minute {
		t.Errorf("the adoption took %s", took)
	}
	asBefore(first, "after the adoption")

	second := c.AddNode()
	c.Ctl("add-data", second.TCP)
	for _, policy := range []string{
		`"raw" ON "plant"`, `"hourly" ON "plant"`, `"autogen" ON "shop"`, `"trials" ON "lab"`,
	} {
		alter := "ALTER RETENTION POLICY " + policy + " REPLICATION 2"
		if _, err := first.Client().Query(t.Context(), "", alter); err != nil {
			t.Fatal(err)
		}
	}
	var shards []wire.Shard
	if err := json.Unmarshal([]byte(c.Ctl("show-shards", "-json")), &shards); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	for _, sh := range shards {
		c.Ctl("copy-shard", first.TCP, second.TCP, fmt.Sprint(sh.ID))
	}
	c.Await("all copies are whole", func() bool {
		return lacking(t, first)+lacking(t, second) == 0
	})
	t.Logf("%d shards copied and compared in %s", len(shards), time.Since(begun).Round(time.Millisecond))
	first.Stop(syscall.SIGKILL)
	first.Wipe("meta", "data", "wal", "hh")
	asBefore(second, "after the loss of the first node")
	err := second.Client().Write(t.Context(), "lab", "one", []byte("trial,rig=new value=1 1700006400000000000"))
	if err != nil {
		t.Error("a write after the loss of the first node: ", err)
	}
}
