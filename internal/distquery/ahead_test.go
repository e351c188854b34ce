package distquery

import (
	"context"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
	"concord/internal/rpc"
)

// callLog notes the calls between the nodes of a cluster.
type callLog struct {
	mu    sync.Mutex
	calls []string
}

// take returns the calls since the last take, in the order of the alphabet.
func (l *callLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := l.calls
	l.calls = nil
	slices.Sort(calls)
	return calls
}

func (l *callLog) note(method string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, path.Base(method))
}

// noting makes the nodes of a cluster note the calls that they serve.
func (l *callLog) noting() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler,
		) (any, error) {
			l.note(info.FullMethod)
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler,
		) error {
			l.note(info.FullMethod)
			return next(srv, ss)
		}),
	}
}

// throughExecutor makes all nodes run statements as a data node does.
func (c *testCluster) throughExecutor(t testing.TB) {
	t.Helper()
	pool := newPool(t)
	for i, n := range c.nodes {
		c.nodes[i], _ = c.executing(t, n, pool, 1<<30, &budget.Requests{})
	}
}

func TestAStatementTakesOneRoundTrip(t *testing.T) {
	t.Parallel()
	for _, index := range []string{"tsi1", "inmem"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			var log callLog
			c := newTestCluster(t, testOptions{nodes: 1, replicas: 1, idle: 1, index: index, serving: log.noting()})
			c.throughExecutor(t)
			c.write(t, lines(9))
			c.write(t, "cpu,host=h01,only=later other=1 172800000000000")
			idle := c.nodes[1]
			for _, tt := range []struct {
				text string
				want []string // calls
			}{
				{`SELECT mean(v) FROM cpu WHERE host = 'h01' AND time > 1s`, []string{"Select"}},
				{`SELECT last(v) FROM cpu WHERE host = 'h01' AND time > now() - 5000w`, []string{"Select"}},
				{`SELECT max(v), min(i), count(b), mean(v) FROM cpu WHERE time < 1d GROUP BY host`, []string{"Select"}},
				{`SELECT mean(v) FROM cpu WHERE time >= 0 AND time < 1d GROUP BY time(1h), * fill(linear)`, []string{"Select"}},
				{`SELECT derivative(mean(v), 1h) FROM cpu WHERE time >= 0 AND time < 2d GROUP BY time(1h)`, []string{"Select"}},
				{`SELECT * FROM cpu ORDER BY time DESC LIMIT 3`, []string{"Select"}},
				{`SELECT v, host FROM cpu WHERE (host = 'h01' OR host = 'h05') AND v > 11.5`, []string{"Select"}},
				{`SELECT count(v) FROM /^c/ GROUP BY region`, []string{"Select"}},
				{`SELECT top(v, 2) FROM cpu`, []string{"Select"}},
				{`SELECT nothing FROM cpu`, []string{"Select"}},
				{`SELECT median(v), stddev(i) FROM cpu`, []string{"CreateIterator", "CreateIterator", "Select"}},
				{`SELECT count(v) FROM cpu GROUP BY host SLIMIT 1`, []string{"CreateIterator", "Select"}},
				{`SELECT max(m) FROM (SELECT mean(v) AS m FROM cpu GROUP BY host)`, []string{"CreateIterator", "Select"}},
			} {
				want := c.plain.run(t, tt.text, query.ExecutionOptions{})
				log.take()
				if got := idle.run(t, tt.text, query.ExecutionOptions{}); got != want {
					t.Errorf("%s\nis answered\n%swant\n%s", tt.text, got, want)
				}
				if got := log.take(); !slices.Equal(got, tt.want) {
					t.Errorf("%s\ntakes the calls %v, want %v", tt.text, got, tt.want)
				}
			}
		})
	}
}

func TestStatementsThatOwnersBeginAreAnsweredAlike(t *testing.T) {
	t.Parallel()
	for _, tt := range []testOptions{
		{nodes: 3, replicas: 1},
		{nodes: 3, replicas: 2, idle: 1},
		{nodes: 4, replicas: 2, index: "inmem"},
	} {
		t.Run(fmt.Sprintf("%d nodes, %d replicas %s", tt.nodes, tt.replicas, tt.index), func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, tt)
			c.throughExecutor(t)
			c.compare(t, `SELECT * FROM cpu`, `SELECT mean(v) FROM cpu`) // no shard exists
			c.write(t, lines(9)+odd)
			// Fields and tags that not all nodes have, and a field of two types.
			c.write(t, "cpu,host=h01 x=1 5\ncpu,host=h05,rack=a y=2i,z=1 86400000000005\n"+
				"cpu,host=h02,region=r2 z=1i 172800000000005\n")
			c.compare(t, append(slices.Clone(statements),
				`SELECT mean(z), sum(z), count(x) FROM cpu`, `SELECT z, x, y FROM cpu GROUP BY *`,
				`SELECT count(y) FROM cpu GROUP BY rack`)...)
		})
	}
}

// formerQuery is a node of a build that has no Select.
type formerQuery struct{ rpc.QueryServer }

func (formerQuery) Select(*rpc.SelectRequest, rpc.Query_SelectServer) error {
	return status.Error(codes.Unimplemented, "method Select not implemented")
}

func TestNodesOfAFormerBuildAreAskedAsBefore(t *testing.T) {
	t.Parallel()
	for _, index := range []string{"tsi1", "inmem"} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			var log callLog
			c := newTestCluster(t, testOptions{
				nodes: 3, replicas: 1, idle: 1, index: index, serving: log.noting(),
				wrap: func(id uint64, s *Server) rpc.QueryServer {
					if id == 2 {
						return formerQuery{s}
					}
					return s
				},
			})
			c.throughExecutor(t)
			c.write(t, lines(9)+odd)
			c.compare(t, statements...)
			log.take()
			c.nodes[3].run(t, `SELECT mean(v) FROM cpu`, query.ExecutionOptions{})
			want := []string{"CreateIterator", "FieldDimensions", "Select", "Select", "Select"}
			if got := log.take(); !slices.Equal(got, want) {
				t.Errorf("a statement that reads two new nodes and a former one takes the calls %v, want %v", got, want)
			}
		})
	}
}

// brokenSelect is a node that ends each stream of Select when it should send its opening.
type brokenSelect struct{ rpc.QueryServer }

type brokenOpening struct{ rpc.Query_SelectServer }

func (b brokenSelect) Select(r *rpc.SelectRequest, out rpc.Query_SelectServer) error {
	return b.QueryServer.Select(r, brokenOpening{out})
}

func (b brokenOpening) Send(c *rpc.IteratorChunk) error {
	if c.Open {
		return status.Error(codes.Unavailable, "the node stops")
	}
	return b.Query_SelectServer.Send(c)
}

func TestAnotherOwnerAnswersWhenABegunStreamBreaks(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 2, idle: 1, wrap: func(id uint64, s *Server) rpc.QueryServer {
		if id == 1 {
			return brokenSelect{s}
		}
		return s
	}})
	c.throughExecutor(t)
	c.write(t, lines(9))
	c.compare(t, `SELECT mean(v), max(i) FROM cpu GROUP BY host`, `SELECT * FROM cpu`)
}

// BenchmarkMeanOfOneSeries compares a node that has the shard with one that has nothing: in one process, and over a
// link on which requests arrive later.
func BenchmarkMeanOfOneSeries(b *testing.B) {
	for _, delay := range []time.Duration{0, time.Millisecond} {
		b.Run(fmt.Sprint("delay=", delay), func(b *testing.B) {
			c := newTestCluster(b, testOptions{nodes: 1, replicas: 1, idle: 1, delay: delay})
			c.throughExecutor(b)
			c.nodes[0].server.chunk = chunkSize
			for g := range groups {
				for h := range 100 {
					var s []byte
					for i := range 200 {
						s = fmt.Appendf(s, "cpu,host=h%02d v=%d.5 %d\n", h, i, int64(g)*day+int64(i)*10e9)
					}
					c.write(b, string(s))
				}
			}
			ask := func(n *testNode) time.Duration {
				begun := time.Now()
				n.run(b, `SELECT mean(v) FROM cpu WHERE host = 'h07' AND time > 1s`, query.ExecutionOptions{})
				return time.Since(begun)
			}
			var local, remote []time.Duration
			for b.Loop() { // they take turns
				local, remote = append(local, ask(c.nodes[0])), append(remote, ask(c.nodes[1]))
			}
			median := func(l []time.Duration) float64 {
				slices.Sort(l)
				return float64(l[len(l)/2].Microseconds())
			}
			b.ReportMetric(median(local), "local-µs")
			b.ReportMetric(median(remote), "remote-µs")
			b.ReportMetric(median(remote)/median(local), "remote/local")
		})
	}
}

// farListener is a listener whose connections receive everything later.
type farListener struct {
	net.Listener
	delay time.Duration
}

func (l farListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	far, out := io.Pipe()
	arrived := make(chan parcel, 1<<10)
	go func() {
		defer close(arrived)
		for {
			b := make([]byte, 16<<10)
			n, err := c.Read(b)
			if n > 0 {
				arrived <- parcel{b[:n], time.Now().Add(l.delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		for p := range arrived {
			<-time.After(time.Until(p.due))
			out.Write(p.data) // nobody reads it once the connection is closed
		}
		out.Close()
	}()
	return farConn{c, far}, nil
}

type parcel struct {
	data []byte
	due  time.Time
}

type farConn struct {
	net.Conn
	far *io.PipeReader
}

func (c farConn) Read(b []byte) (int, error) { return c.far.Read(b) }

func (c farConn) Close() error {
	c.far.Close()
	return c.Conn.Close()
}
