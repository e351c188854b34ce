package distquery

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"concord/internal/rpc"
)

// spread are measurements whose series, tags and fields are on several shards:
// of most, no shard has all.
func spread() string {
	var b strings.Builder
	for m := range 6 {
		for h := range 6 {
			if (m+h)%5 == 0 {
				continue
			}
			fmt.Fprintf(&b, "m%d,host=h%d", m, h)
			if h%2 == m%2 {
				fmt.Fprintf(&b, ",region=r%d", (m+h)%3)
			}
			if m == 3 && h == 4 {
				b.WriteString(",rack=a") // a tag of one series
			}
			fmt.Fprintf(&b, " v=%d %d\n", h, int64(h%groups)*day+int64(m))
		}
		fmt.Fprintf(&b, "m%d,zone=z v=1,note=\"n\" %d\n", m, int64(m%groups)*day) // a field of one series
	}
	// In one measurement role is a tag, in another a field.
	b.WriteString("m0,host=h9,role=db v=1 5\nm1,host=h9 role=\"db\" 5\nm1,host=h1 role=\"web\" 86400000000005\n")
	b.WriteString("bare v=1 7\nlone,host=h1 v=1 8\n")
	return b.String()
}

// conditions on tags, on names, and on fields, as SHOW statements may have them.
var conditions = []string{
	`host = 'h1'`, `host != 'h1'`, `host =~ /h[12]/`, `host !~ /h[12]/`, `host = ''`, `host != ''`, `host =~ /.*/`,
	`host !~ /.*/`, `host =~ /^$/`, `host !~ /^$/`, `host = 'none'`, `host != 'none'`, `nothing = 'x'`,
	`nothing != 'x'`,
	`host = 'h1' AND region = 'r1'`, `host = 'h1' AND region != 'r1'`, `host != 'h1' AND region != 'r1'`,
	`host != 'h0' AND host != 'h2'`, `host =~ /h[0-3]/ AND region !~ /r[12]/`,
	`host = 'h1' AND host = 'h2' AND zone = 'z'`, `rack = 'a' AND host = 'h5'`, `rack != 'a'`,
	`rack != 'b' AND region = 'r2'`, `host = 'h1' OR region = 'r2'`, `host != 'h1' OR region != 'r2'`,
	`rack = 'a' OR host != 'h3'`, `(host = 'h1' OR host = 'h2') AND region = 'r0'`,
	`host = 'h1' OR host = 'h2' AND region = 'r0'`,
	`(host != 'h1' OR region = 'r1') AND (zone = 'z' OR rack = 'a') AND host !~ /h9/`, `((host != 'h4'))`, `v = 1`,
	`v > 2 AND host = 'h3'`, `note = 'n'`, `role = 'db'`, `role != 'db'`, `role =~ /d/ AND host != 'h1'`,
	`host = "region"`, `host + 1 = 2`, `v`, `host > 'h1'`, `'h1' = host`, `host = 1`, `_name = 'm1'`,
	`_name != 'm1' AND host != 'h1'`,
}

// TestConditionsHoldOverAllNodes: what no series of a measurement may have, no
// node may have, and one node has what another lacks.
func TestConditionsHoldOverAllNodes(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, tt := range []testOptions{
		{nodes: 3, replicas: 1},
		{nodes: 4, replicas: 2},
		{nodes: 2, replicas: 1, index: "inmem"},
	} {
		t.Run(fmt.Sprintf("%d nodes, %d replicas %s", tt.nodes, tt.replicas, tt.index), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, tt)
			c.write(t, spread())
			for _, where := range conditions {
				c.compare(t, `SHOW MEASUREMENTS WHERE `+where,
					`SHOW MEASUREMENTS WITH MEASUREMENT =~ /m[0-4]|bare/ WHERE `+where)
				ofFields := strings.Contains(where, "role") || strings.Contains(where, "note")
				if tt.index == "inmem" && ofFields {
					continue // the engine goes by the fields of any one of the shards
				}
				c.compare(t,
					`SHOW TAG KEYS FROM m1, m2, m3 WHERE `+where,
					`SHOW TAG VALUES WITH KEY IN (host, region, zone) WHERE `+where,
					`SHOW SERIES EXACT CARDINALITY WHERE `+where,
					`SHOW MEASUREMENT EXACT CARDINALITY WHERE `+where,
					`SHOW TAG VALUES EXACT CARDINALITY WITH KEY = host WHERE `+where,
				)
				if !ofFields { // SHOW SERIES takes none
					c.compare(t, `SHOW SERIES WHERE `+where)
				}
			}
		})
	}
}

// older is a node that answers one condition only.
type older struct{ rpc.QueryServer }

func (o older) Measurements(*rpc.SchemaRequest, rpc.Query_MeasurementsServer) error {
	return status.Error(codes.Unimplemented, "unknown method Measurements")
}

func (o older) MeasurementNames(ctx context.Context, r *rpc.SchemaRequest) (*rpc.MeasurementNamesResponse, error) {
	return o.QueryServer.MeasurementNames(ctx, &rpc.SchemaRequest{ShardIds: r.ShardIds, Condition: r.Condition})
}

func TestNodeThatDoesNotKnowSeveralConditionsIsAClearError(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{
		nodes: 2, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer { return older{s} },
	})
	c.write(t, spread())
	c.compare(t, `SHOW MEASUREMENTS WHERE host = 'h1' OR region = 'r2'`)
	got := c.nodes[0].run(t, `SHOW MEASUREMENTS WHERE host != 'h1'`, query.ExecutionOptions{})
	if want := "it answers 1 of 2 conditions: install the same version on all data nodes"; !strings.Contains(got,
		want) ||
		strings.Contains(got, "m1") {
		t.Errorf("the answer is %s", got)
	}
}

func TestConditionThatCannotBeParsedIsRefused(t *testing.T) {
	deep := strings.Repeat("(", 1_000_000)
	if _, err := decodeCondition([]byte(deep)); err == nil || !strings.Contains(err.Error(), "deeper than") {
		t.Errorf("a condition: %v", err)
	}
	r := &rpc.IteratorRequest{MoreCalls: [][]byte{[]byte("max(v)"), []byte(deep)}}
	if _, err := callsOf(query.IteratorOptions{}, r); err == nil || !strings.Contains(err.Error(), "deeper than") {
		t.Errorf("one of several calls: %v", err)
	}
	for _, field := range []protowire.Number{exprField, conditionField} {
		b := protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), deep)
		if _, _, err := decodeOptions(b); err == nil || !strings.Contains(err.Error(), "deeper than") {
			t.Errorf("field %d of options: %v", field, err)
		}
	}
	// The numbers are the engine's.
	v, err := (&query.IteratorOptions{
		Expr: influxql.MustParseExpr("count(a)"), Condition: influxql.MustParseExpr("b = 1"),
	}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	found := map[protowire.Number]string{}
	for len(v) > 0 {
		field, typ, n := protowire.ConsumeTag(v)
		v = v[n:]
		if b, _ := protowire.ConsumeBytes(v); typ == protowire.BytesType {
			found[field] = string(b)
		}
		v = v[protowire.ConsumeFieldValue(field, typ, v):]
	}
	if found[exprField] != "count(a)" || found[conditionField] != "b = 1" {
		t.Errorf("fields of options: %q", found)
	}
}
