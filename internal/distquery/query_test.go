package distquery

import (
	"fmt"
	"testing"

	"github.com/influxdata/influxdb/models"
)

// statements are what every shape of a cluster must answer as a single node does.
var statements = []string{
	`SELECT * FROM cpu`,
	`SELECT * FROM cpu ORDER BY time DESC LIMIT 7 OFFSET 3`,
	`SELECT v, host FROM cpu WHERE (host = 'h01' OR host = 'h05') AND v > 11.5`,
	`SELECT count(v), sum(i), min(i), max(v), first(s), last(b), spread(i) FROM cpu`,
	`SELECT count(*) FROM cpu GROUP BY host`,
	`SELECT sum(i) FROM cpu WHERE time >= 0 AND time < 3d GROUP BY time(12h), region fill(0)`,
	`SELECT top(i, host, 3) FROM cpu`,
	`SELECT bottom(v, 2) FROM cpu GROUP BY region`,
	`SELECT distinct(s) FROM cpu`,
	`SELECT count(distinct(s)) FROM cpu GROUP BY region`,
	`SELECT median(i), percentile(v, 90), mode(b) FROM cpu`,
	`SELECT derivative(v, 1m) FROM cpu GROUP BY host`,
	`SELECT max(s) FROM (SELECT sum(i) AS s FROM cpu GROUP BY host)`,
	`SELECT sum(m) FROM (SELECT max(i) AS m FROM cpu GROUP BY time(6h), host) WHERE time >= 0 AND time < 3d GROUP BY time(1d)`,
	`SELECT v FROM (SELECT v, region FROM cpu WHERE host = 'h01' OR host = 'h02') WHERE region = 'r1' OR region = 'r2'`,
	`SELECT i::float, v::integer, i::unsigned FROM cpu WHERE host = 'h03'`,
	`SELECT sum(i::unsigned) FROM cpu GROUP BY region`,
	`SELECT max(i::unsigned) FROM cpu`,
	`SELECT /^[vi]$/ FROM /^c/ WHERE region =~ /r[12]/ LIMIT 5`,
	`SELECT count(v) FROM /^(cpu|mem)$/ GROUP BY region`,
	`SELECT v FROM nothing`,
	`SELECT nothing FROM cpu`,
	`SELECT v FROM cpu WHERE v / 2 - 1 > 10 AND NOT_THERE = 'x'`,
	`SELECT v FROM cpu WHERE v - (i - 3) * 2 < -5.5 AND b = true AND s != 's4'`,
	`SHOW MEASUREMENTS`,
	`SHOW MEASUREMENTS WITH MEASUREMENT =~ /^m/`,
	`SHOW MEASUREMENTS WHERE region = 'r1' OR rack = 'a,b'`,
	`SHOW MEASUREMENTS LIMIT 1 OFFSET 1`,
	`SHOW TAG KEYS`,
	`SHOW TAG KEYS FROM cpu WHERE host = 'h01'`,
	`SHOW TAG KEYS WITH KEY IN (host, rack)`,
	`SHOW TAG VALUES WITH KEY = host`,
	`SHOW TAG VALUES FROM cpu, mem WITH KEY IN (host, rack) WHERE region =~ /r[01]/ OR rack != '' LIMIT 4`,
	`SHOW TAG VALUES WITH KEY =~ /r.*/ WHERE (host = 'h01' OR host = 'h02') AND region != 'r1'`,
	`SHOW FIELD KEYS`,
	`SHOW FIELD KEYS FROM mem`,
	`SHOW SERIES`,
	`SHOW SERIES FROM cpu WHERE region = 'r2' LIMIT 2 OFFSET 1`,
	`SHOW SERIES FROM /m/`,
	`SHOW SERIES WHERE time > 1d`,
	`SHOW SERIES CARDINALITY`,
	`SHOW SERIES CARDINALITY FROM cpu`,
	`SHOW SERIES EXACT CARDINALITY`,
	`SHOW SERIES EXACT CARDINALITY FROM cpu WHERE region = 'r1' GROUP BY region`,
	`SHOW MEASUREMENT CARDINALITY`,
	`SHOW MEASUREMENT EXACT CARDINALITY`,
	`SHOW TAG KEY CARDINALITY`,
	`SHOW TAG KEY EXACT CARDINALITY FROM cpu`,
	`SHOW TAG VALUES CARDINALITY WITH KEY = host`,
	`SHOW TAG VALUES EXACT CARDINALITY WITH KEY IN (host, rack)`,
	`SHOW FIELD KEY CARDINALITY`,
	`SHOW FIELD KEY EXACT CARDINALITY FROM cpu`,
}

// odd has series whose text sorts otherwise than their tags do.
const odd = `mem,rack=a\,b used=1i 1000
mem,rack=a used=2i 2000
mem,rack=a\ b used=3i 3000
mem,rack=a,zone=z used=4i 4000
mem,rack=a!,zone=z used=9223372036854775807i 5000
mem,rack=ü used=-9223372036854775808i 86400000006000
mem used=6i,name="a \"quoted\" \\ text, ü" 86400000007000
`

func TestEveryNodeAnswersAsASingleNodeDoes(t *testing.T) {
	t.Parallel()
	for _, tt := range []testOptions{
		{nodes: 3, replicas: 1},
		{nodes: 3, replicas: 2},
		{nodes: 3, replicas: 3},
		{nodes: 4, replicas: 2, index: "inmem"},
	} {
		t.Run(fmt.Sprintf("%d nodes, %d replicas %s", tt.nodes, tt.replicas, tt.index), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, tt)
			c.compare(t, `SELECT * FROM cpu`, `SHOW MEASUREMENTS`, `SHOW SERIES CARDINALITY`) // no shard exists
			c.write(t, lines(9)+odd)
			c.compare(t, statements...)
		})
	}
}

func TestUnsignedFieldsKeepTheirValues(t *testing.T) {
	models.EnableUintSupport() // for the whole process: not parallel, and no other test writes with u
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1})
	c.write(t, "m,h=a u=18446744073709551615u 1\nm,h=b u=7u 2\nm,h=c u=9u 3\nm,h=d u=1u 90000000000000\n")
	c.compare(t, `SELECT u FROM m`, `SELECT max(u), min(u), first(u), count(u) FROM m`,
		`SELECT u FROM m WHERE u > 8`, `SELECT sum(u) FROM m WHERE h != 'a' GROUP BY h`, `SHOW FIELD KEYS`)
}

func TestSeriesLimitsCountOverAllShardsOfAGroup(t *testing.T) {
	t.Parallel()
	for _, index := range []string{"tsi1", "inmem"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && index == "inmem" {
				t.Skip("-short: with the other index only")
			}
			c := newTestCluster(t, testOptions{nodes: 4, replicas: 1, index: index})
			// Series that start late, and ones without the field that is asked for.
			c.write(t,
				lines(9)+odd+"cpu,host=h00a other=1 90000000000000\ncpu,host=h04a v=1 90000000000001\ncpu v=5 180000000000000\n")
			for _, from := range []string{
				`SELECT v FROM cpu %s GROUP BY *`,
				`SELECT v, other, host FROM cpu %s GROUP BY host`,
				`SELECT mean(v), max(other) FROM cpu %s GROUP BY host`,
				`SELECT count(v) FROM cpu %s GROUP BY region`,
				`SELECT count(v) FROM cpu %s`,
				`SELECT count(v), count(used) FROM /m|c/ %s GROUP BY host, rack`,
				`SELECT count(used) FROM mem %s GROUP BY rack, zone`,
				`SELECT sum(c) FROM (SELECT count(v) AS c FROM cpu GROUP BY host) %s GROUP BY host`,
			} {
				for _, where := range []string{"WHERE (host > '' OR host = '') AND region != 'r1' OR v > 40", ""} {
					if testing.Short() && where == "" {
						break
					}
					for _, limit := range []string{
						"SLIMIT 1", "SLIMIT 3 SOFFSET 1", "SLIMIT 2 SOFFSET 8", "SLIMIT 100", "SOFFSET 2", "SLIMIT 2 SOFFSET 100",
						"ORDER BY time DESC SLIMIT 2 SOFFSET 1",
					} {
						c.compare(t, fmt.Sprintf(from, where)+" "+limit)
					}
				}
			}
		})
	}
}
