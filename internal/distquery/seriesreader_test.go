package distquery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/storage"
	"github.com/influxdata/influxdb/storage/reads"
	"github.com/influxdata/influxdb/storage/reads/datatypes"
	"github.com/influxdata/influxdb/tsdb/cursors"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"pgregory.net/rapid"

	"concord/internal/rpc"
)

// seriesServer is a node whose streams of series do as a test says.
type seriesServer struct {
	rpc.QueryServer
	id   uint64
	send func(ctx context.Context, node uint64, n int, c *rpc.ReadSeriesChunk) error // before chunk n of blocks
	asks *atomic.Int64
}

type seriesStream struct {
	rpc.Query_ReadSeriesServer
	s seriesServer
	n int
}

func (s seriesServer) ReadSeries(r *rpc.ReadSeriesRequest, out rpc.Query_ReadSeriesServer) error {
	if s.asks != nil {
		s.asks.Add(1)
	}
	return s.QueryServer.ReadSeries(r, &seriesStream{Query_ReadSeriesServer: out, s: s})
}

func (s *seriesStream) Send(c *rpc.ReadSeriesChunk) error {
	if len(c.Blocks) > 0 && s.s.send != nil {
		if err := s.s.send(s.Context(), s.s.id, s.n, c); err != nil {
			return err
		}
		s.n++
	}
	return s.Query_ReadSeriesServer.Send(c)
}

// seriesReader is that of one node.
func (c *testCluster) seriesReader(t testing.TB, n *testNode) *SeriesReader {
	pool := &rpc.Pool{Blocked: func(addr string) bool { return c.Blocked[addr] }}
	t.Cleanup(func() { pool.Close() })
	return NewSeriesReader(c.deps(n, pool), ReadLimits{})
}

type filterReader interface {
	ReadFilter(ctx context.Context, req *datatypes.ReadFilterRequest) (reads.ResultSet, error)
}

func readRequest(t testing.TB, predicate *datatypes.Node, start, end int64) *datatypes.ReadFilterRequest {
	t.Helper()
	src, err := anypb.New(&storage.ReadSource{Database: db})
	if err != nil {
		t.Fatal(err)
	}
	req := &datatypes.ReadFilterRequest{ReadSource: src, Range: &datatypes.TimestampRange{Start: start, End: end}}
	if predicate != nil {
		req.Predicate = &datatypes.Predicate{Root: predicate}
	}
	return req
}

// answer is all that a read returns, as text: floats, which are all that Prometheus reads.
func answer(t testing.TB, from filterReader, req *datatypes.ReadFilterRequest) string {
	t.Helper()
	rs, err := from.ReadFilter(context.Background(), req)
	if err != nil {
		return "error: " + err.Error()
	}
	if rs == nil {
		return ""
	}
	defer rs.Close()
	var b strings.Builder
	for rs.Next() {
		cur, ok := rs.Cursor().(cursors.FloatArrayCursor)
		if !ok {
			continue
		}
		first := true
		for a := cur.Next(); a.Len() > 0; a = cur.Next() {
			if first {
				fmt.Fprintf(&b, "%s\n", rs.Tags())
			}
			first = false
			for i, at := range a.Timestamps {
				fmt.Fprintf(&b, " %d:%v", at, a.Values[i])
			}
			b.WriteByte('\n')
		}
		cur.Close()
	}
	if err := rs.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(b.String(), "\n ", " ") // blocks may be cut elsewhere
}

func compares(op datatypes.Node_Comparison, key, value string) *datatypes.Node {
	literal := &datatypes.Node{
		NodeType: datatypes.Node_TypeLiteral, Value: &datatypes.Node_StringValue{StringValue: value},
	}
	if op == datatypes.Node_ComparisonRegex || op == datatypes.Node_ComparisonNotRegex {
		literal.Value = &datatypes.Node_RegexValue{RegexValue: value}
	}
	return &datatypes.Node{
		NodeType: datatypes.Node_TypeComparisonExpression, Value: &datatypes.Node_Comparison_{Comparison: op},
		Children: []*datatypes.Node{
			{NodeType: datatypes.Node_TypeTagRef, Value: &datatypes.Node_TagRefValue{TagRefValue: []byte(key)}}, literal,
		},
	}
}

func logical(op datatypes.Node_Logical, children ...*datatypes.Node) *datatypes.Node {
	return &datatypes.Node{
		NodeType: datatypes.Node_TypeLogicalExpression, Value: &datatypes.Node_Logical_{Logical: op}, Children: children,
	}
}

// plainReader is the engine's own storage API over the plain node.
func (c *testCluster) plainReader() filterReader {
	return storage.NewStore(c.plain.store, plainMeta{c.meta})
}

const everything = int64(groups) * day

func TestSeriesAreReadAsOnASingleNode(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, o := range []testOptions{
		{nodes: 3, replicas: 1}, {nodes: 4, replicas: 2, index: "inmem"}, {nodes: 3, replicas: 3}, {nodes: 5, replicas: 2},
	} {
		t.Run(fmt.Sprintf("%d nodes, %d replicas, %s", o.nodes, o.replicas, o.index), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, o)
			c.write(t, lines(9)+odd+"disk,host=h01 v=1 1000\ndisk,host=h02,region=r1 used=2,v=3 86400000001000\n")
			plain := c.plainReader()
			var readers []*SeriesReader
			for _, n := range c.nodes {
				readers = append(readers, c.seriesReader(t, n))
			}
			same := func(t testing.TB, req *datatypes.ReadFilterRequest) {
				t.Helper()
				want := answer(t, plain, req)
				for i, r := range readers {
					if got := answer(t, r, req); got != want {
						t.Errorf("node %d, %v: %s", i+1, req, cmp.Diff(want, got))
					}
				}
			}
			all := readRequest(t, nil, 0, everything)
			if n := strings.Count(answer(t, plain, all), "\n"); n < 12 {
				t.Fatalf("there are %d series of floats", n)
			}
			same(t, all)
			same(t, readRequest(t, nil, math.MinInt64, math.MaxInt64))
			same(t, readRequest(t, nil, everything, 2*everything))
			same(t, readRequest(t, compares(datatypes.Node_ComparisonRegex, "host", "("), 0, everything))

			rapid.Check(t, func(rt *rapid.T) {
				var node func(depth int) *datatypes.Node
				node = func(depth int) *datatypes.Node {
					if depth > 0 && rapid.Bool().Draw(rt, "logical") {
						op := rapid.SampledFrom([]datatypes.Node_Logical{
							datatypes.Node_LogicalAnd, datatypes.Node_LogicalOr,
						}).Draw(rt, "op")
						return logical(op, node(depth-1), node(depth-1))
					}
					op := rapid.SampledFrom([]datatypes.Node_Comparison{
						datatypes.Node_ComparisonEqual, datatypes.Node_ComparisonNotEqual,
						datatypes.Node_ComparisonRegex, datatypes.Node_ComparisonNotRegex,
					}).Draw(rt, "comparison")
					key := rapid.SampledFrom([]string{"_measurement", "_field", "host", "region", "none", "v"}).Draw(rt, "key")
					values := []string{"", "cpu", "disk", "v", "used", "h01", "h02", "r1", "x"}
					if op == datatypes.Node_ComparisonRegex || op == datatypes.Node_ComparisonNotRegex {
						values = []string{"", "^(?:)$", "^(?:h0.*)$", "^(?:cpu|mem)$", ".+", "1", "^(?:v|used)$"}
					}
					return compares(op, key, rapid.SampledFrom(values).Draw(rt, "value"))
				}
				start := rapid.Int64Range(-1, everything).Draw(rt, "start")
				end := start + rapid.Int64Range(0, everything).Draw(rt, "length")
				req := readRequest(t, node(3), start, end)
				want := answer(t, plain, req)
				if got := answer(t, rapid.SampledFrom(readers).Draw(rt, "node"), req); got != want {
					rt.Fatalf("%v: %s", req, cmp.Diff(want, got))
				}
			})
		})
	}
}

func TestSeriesOfANodeThatFailsAreReadFromAnother(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(ctx context.Context, n int, c *rpc.ReadSeriesChunk) error{
		"at its first block": func(_ context.Context, _ int, _ *rpc.ReadSeriesChunk) error {
			return errors.New("disk on fire")
		},
		"in the middle": func(_ context.Context, n int, _ *rpc.ReadSeriesChunk) error { return errAt(n, 3) },
		"with a panic":  func(_ context.Context, n int, _ *rpc.ReadSeriesChunk) error { panic("nil map") },
		"by falling silent": func(ctx context.Context, n int, _ *rpc.ReadSeriesChunk) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"with a bad block": func(_ context.Context, n int, c *rpc.ReadSeriesChunk) error {
			b := c.Blocks[len(c.Blocks)-1]
			b.Points = b.Points[:len(b.Points)/2]
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var fails, failed atomic.Uint64 // the node that fails
			c := newTestCluster(t, testOptions{nodes: 4, replicas: 2, wrap: func(id uint64, s *Server) rpc.QueryServer {
				return seriesServer{QueryServer: s, id: id, send: func(ctx context.Context, node uint64, n int, c *rpc.ReadSeriesChunk) error {
					if node != fails.Load() {
						return nil
					}
					if n >= 3 || name != "in the middle" {
						failed.Add(1)
					}
					return fail(ctx, n, c)
				}}
			}})
			c.write(t, lines(30))
			want := answer(t, c.plainReader(), readRequest(t, nil, 0, everything))
			asked := c.nodes
			if name == "by falling silent" {
				asked = asked[:1] // each costs the silence
			}
			for _, n := range asked {
				r := c.seriesReader(t, n)
				r.silence = 15 * time.Second // others may be late on a busy machine
				for _, other := range c.nodes {
					if fails.Store(other.id); other != n {
						if got := answer(t, r, readRequest(t, nil, 0, everything)); got != want {
							t.Errorf("node %d, while node %d fails: %s", n.id, other.id, cmp.Diff(want, got))
						}
					}
				}
			}
			if failed.Load() == 0 {
				t.Error("no stream failed")
			}
		})
	}
}

func TestSeriesThatNoOwnerCanReadAreAnError(t *testing.T) {
	t.Parallel()
	fail := func(_ context.Context, _ uint64, n int, _ *rpc.ReadSeriesChunk) error { return errAt(n, 3) }
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
		return seriesServer{QueryServer: s, id: id, send: fail}
	}})
	c.write(t, lines(30))
	addr := c.state.DataNodes[1].TCPAddr
	r, req := c.seriesReader(t, c.nodes[0]), readRequest(t, nil, 0, everything)
	for _, want := range []string{addr + ": disk on fire", addr + ": link to " + addr + " is cut"} {
		got := answer(t, r, req)
		if !strings.HasPrefix(got, "error: no owner of shard ") || !strings.HasSuffix(got, want) ||
			strings.Contains(got, "\n") {
			t.Errorf("%q, want %q", got, want)
		}
		c.Blocked[addr] = true
	}
}

func TestSeriesOfAShardThatIsClosedAreAnError(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 2})
	c.write(t, lines(9))
	req := readRequest(t, nil, 0, everything)
	want := answer(t, c.plainReader(), req)
	for _, id := range c.nodes[1].store.ShardIDs() {
		if err := c.nodes[1].store.SetShardEnabled(id, false); err != nil {
			t.Fatal(err)
		}
	}
	if got := answer(t, c.seriesReader(t, c.nodes[0]), req); got != want {
		t.Error(cmp.Diff(want, got))
	}
	if got := answer(t, c.seriesReader(t, c.nodes[1]), req); !strings.HasPrefix(got, "error: shard ") {
		t.Errorf("%q", got)
	}
	r := &rpc.ReadSeriesRequest{ShardIds: c.nodes[1].store.ShardIDs(), MaxTime: everything}
	if err := c.nodes[1].server.ReadSeries(r, discard{}); status.Code(err) != codes.Unavailable {
		t.Errorf("another node is told %v", err)
	}
}

// discard is a stream that goes nowhere.
type discard struct{ rpc.Query_ReadSeriesServer }

func (discard) Context() context.Context        { return context.Background() }
func (discard) Send(*rpc.ReadSeriesChunk) error { return nil }

// TestShardThatIsClosedWhileItIsReadIsAnError closes it between two series: its cursors end as after the last point.
func TestShardThatIsClosedWhileItIsReadIsAnError(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 1, replicas: 1})
	c.write(t, lines(9))
	store := c.nodes[0].store
	read, err := newSeriesRead(nil, 0, everything)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = read.run(context.Background(), store, store.ShardIDs(), func(samples) error {
		if n++; n == 2 {
			return store.SetShardEnabled(store.ShardIDs()[0], false)
		}
		return nil
	})
	if err == nil || n < 2 {
		t.Errorf("%v after %d rows", err, n)
	}
}

func TestReadsAreLimited(t *testing.T) {
	t.Parallel()
	var asks atomic.Int64
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
		return seriesServer{QueryServer: s, id: id, asks: &asks}
	}})
	c.write(t, lines(9))
	req := readRequest(t, nil, 0, everything)
	points := 9 * 4 * groups
	for _, tt := range []struct {
		points, series int
		want           string
	}{
		{points: points, series: 4 * 9},
		{points: points - 1, want: fmt.Sprintf("error: max-select-point limit exceeded: (%d/%d)", points, points-1)},
		{points: 1, want: "error: max-select-point limit exceeded: ("},
		{series: 4*9 - 1, want: "error: max-select-series limit exceeded: (36/35)"},
		{series: 1, want: "error: max-select-series limit exceeded: (2/1)"},
	} {
		for _, n := range c.nodes {
			r := c.seriesReader(t, n)
			r.limits.MaxPoints, r.limits.MaxSeries = tt.points, tt.series
			got := answer(t, r, req)
			if tt.want == "" && (got == "" || strings.HasPrefix(got, "error")) || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%d points, %d series: node %d answers %.100q, want %q", tt.points, tt.series, n.id, got, tt.want)
			}
		}
	}
	r := c.seriesReader(t, c.nodes[0])
	r.limits.Timeout = time.Nanosecond
	if _, err := r.ReadFilter(context.Background(), req); !errors.Is(err, query.ErrQueryTimeoutLimitExceeded) {
		t.Errorf("%v, want the timeout", err)
	}
	if asks.Load() == 0 {
		t.Error("no node was asked")
	}
}

func encodeBlock(t testing.TB, shard uint64, times []int64, value float64) block {
	t.Helper()
	a := &cursors.FloatArray{Timestamps: slices.Clone(times), Values: make([]float64, len(times))}
	for i := range a.Values {
		a.Values[i] = value
	}
	b := block{shard: shard, first: a.MinTime(), last: a.MaxTime()}
	var err error
	if b.points, err = tsm1.EncodeFloatArrayBlock(a, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestShardGroupsThatOverlapAreMerged is about truncate-shards, which leaves points after the cut in the old group.
func TestShardGroupsThatOverlapAreMerged(t *testing.T) {
	t.Parallel()
	cur := &floatBlocks{}
	cur.reset([]block{
		encodeBlock(t, 1, []int64{10, 20}, 1), encodeBlock(t, 1, []int64{30, 50}, 1),
		encodeBlock(t, 2, []int64{25, 30, 40}, 2), encodeBlock(t, 2, []int64{60}, 2),
	})
	var got []string
	for a := cur.Next(); a.Len() > 0; a = cur.Next() {
		for i := range a.Timestamps {
			got = append(got, fmt.Sprintf("%d:%v", a.Timestamps[i], a.Values[i]))
		}
	}
	if diff := cmp.Diff([]string{"10:1", "20:1", "25:2", "30:2", "40:2", "50:1", "60:2"}, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzSeriesBlock has any bytes as a block of another node: it is refused or can be read.
func FuzzSeriesBlock(f *testing.F) {
	f.Add(encodeBlock(f, 1, []int64{10, 20, 40}, 1.5).points)
	f.Add(encodeBlock(f, 1, []int64{10, 20, 30}, 0).points)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, points []byte) {
		p := &part{gathering: &gathering{reader: &SeriesReader{}}}
		if err := p.check(
			&rpc.ReadSeriesChunk_Block{Series: &rpc.ReadSeriesChunk_Series{}, ShardId: 1, Points: points},
		); err != nil {
			return
		}
		cur := &floatBlocks{}
		for cur.reset(p.series[0].blocks); cur.Next().Len() > 0; {
		}
	})
}

// BenchmarkReadSeries reads a million points of a hundred series: as the engine does on a plain node, from this node's
// own shards, and from another node. A point is read once more than the engine does, to check it.
func BenchmarkReadSeries(b *testing.B) {
	c := newTestCluster(b, testOptions{nodes: 3, replicas: 2})
	for part := range 10 {
		var text strings.Builder
		for i := part * 1000; i < (part+1)*1000; i++ {
			for host := range 100 {
				fmt.Fprintf(&text, "cpu,host=h%03d value=%d.5 %d\n", host, i%97, int64(i)*int64(time.Second))
			}
		}
		c.write(b, text.String())
	}
	shard := c.shardGroups(b)[0].Shards[0]
	owns := func(n *testNode) bool {
		return slices.ContainsFunc(shard.Owners, func(o emeta.ShardOwner) bool { return o.NodeID == n.id })
	}
	own := slices.IndexFunc(c.nodes, owns)
	other := slices.IndexFunc(c.nodes, func(n *testNode) bool { return !owns(n) })
	for _, from := range []struct {
		name string
		filterReader
	}{
		{"plain", c.plainReader()}, {"own", c.seriesReader(b, c.nodes[own])}, {"other", c.seriesReader(b, c.nodes[other])},
	} {
		b.Run(from.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rs, err := from.ReadFilter(context.Background(),
					readRequest(b, compares(datatypes.Node_ComparisonEqual, "_field", "value"), 0, everything))
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for rs.Next() {
					cur := rs.Cursor().(cursors.FloatArrayCursor)
					for a := cur.Next(); a.Len() > 0; a = cur.Next() {
						n += a.Len()
					}
					cur.Close()
				}
				rs.Close()
				if n != 1_000_000 {
					b.Fatalf("%d points", n)
				}
			}
		})
	}
}
