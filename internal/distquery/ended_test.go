package distquery

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/query"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/budget"
	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/rpc"
)

// scarce and plenty are signs of life of a moment ago.
func scarce(uint64) copystate.Sign { return copystate.Sign{At: time.Now(), Process: 1} }
func plenty(uint64) copystate.Sign {
	return copystate.Sign{At: time.Now(), Process: 1, Memory: time.Minute}
}

// ends is a cluster of three owners and a node without a copy, in which each owner that is asked ends, as if its
// process died of the question. died counts them.
func ends(t *testing.T, heard func(uint64) copystate.Sign) (c *testCluster, died *atomic.Int64) {
	died = new(atomic.Int64)
	die := func(srv any) error {
		if died.Add(1) > 0 {
			c.nodes[srv.(faulty).id-1].rpc.Stop()
		}
		return status.Error(codes.Internal, "it ends")
	}
	c = newTestCluster(t, testOptions{nodes: 3, idle: 1, replicas: 3, heard: heard,
		wrap: func(id uint64, s *Server) rpc.QueryServer { return faulty{QueryServer: s, id: id} },
		serving: []grpc.ServerOption{
			grpc.UnaryInterceptor(func(
				_ context.Context, _ any, i *grpc.UnaryServerInfo, _ grpc.UnaryHandler,
			) (any, error) {
				return nil, die(i.Server)
			}),
			grpc.StreamInterceptor(func(
				srv any, _ grpc.ServerStream, _ *grpc.StreamServerInfo, _ grpc.StreamHandler,
			) error {
				return die(srv)
			}),
		},
	})
	c.write(t, "cpu,host=a v=1 1")
	return c, died
}

// endsOwners are statements that each ask a node something else.
var endsOwners = []string{
	"SELECT v FROM cpu", "SELECT mean(v) FROM cpu GROUP BY host", "SELECT first(v), percentile(v, 5) FROM cpu", "SELECT v INTO copy FROM cpu",
	"SELECT v FROM cpu GROUP BY host SLIMIT 1", "EXPLAIN SELECT v FROM cpu", "EXPLAIN ANALYZE SELECT v FROM cpu",
	"SHOW TAG KEYS", "SHOW TAG VALUES WITH KEY = host", "SHOW MEASUREMENTS", "SHOW SERIES", "SHOW FIELD KEYS",
	"SHOW SERIES CARDINALITY", "SHOW SERIES EXACT CARDINALITY", "SHOW MEASUREMENT CARDINALITY",
	"SHOW TAG VALUES CARDINALITY WITH KEY = host",
}

func TestStatementThatMayHaveEndedAnOwnerIsGivenToNoOther(t *testing.T) {
	t.Parallel()
	for _, text := range endsOwners {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			c, died := ends(t, scarce)
			got := c.nodes[3].run(t, text, query.ExecutionOptions{})
			if died.Load() != 1 || !strings.Contains(got, ErrOwnerEnded.Error()) || strings.Count(got, "\n") != 1 {
				t.Errorf("%d nodes ended: %s", died.Load(), got)
			}
		})
	}
	t.Run("as a continuous query runs it", func(t *testing.T) {
		t.Parallel()
		c, died := ends(t, scarce)
		n, _ := c.executing(t, c.nodes[3], newPool(t), 1<<30, &budget.Requests{})
		n.mapper.whole.Heard = scarce
		var err error
		n.results(t, "SELECT first(v), percentile(v, 5) INTO copy FROM cpu", query.ExecutionOptions{},
			func(r *query.Result) { err = errors.Join(err, r.Err) })
		if died.Load() != 1 || !errors.Is(err, ErrOwnerEnded) {
			t.Errorf("%d nodes ended: %v", died.Load(), err)
		}
	})
	t.Run("a read of Prometheus", func(t *testing.T) {
		t.Parallel()
		c, died := ends(t, scarce)
		r := c.seriesReader(t, c.nodes[3])
		r.whole.Heard = scarce
		_, err := r.ReadFilter(t.Context(), readRequest(t, nil, 0, everything))
		if died.Load() != 1 || !errors.Is(err, ErrOwnerEnded) {
			t.Errorf("%d nodes ended: %v", died.Load(), err)
		}
	})
}

// The memory of a node says nothing about other reasons why a statement may end processes.
func TestStatementThatEndsOwnersWithMemoryIsNotGivenToAll(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"SELECT v FROM cpu", "SHOW TAG VALUES WITH KEY = host", "SHOW TAG KEYS"} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			c, died := ends(t, plenty)
			got := c.nodes[3].run(t, text, query.ExecutionOptions{})
			if died.Load() != maxBroken ||
				!strings.Contains(got, "2 data nodes ended while they answered this query. No other one is asked: "+
					ErrOwnerEnded.Error()) {
				t.Errorf("%d nodes ended: %s", died.Load(), got)
			}
		})
	}
}

// An owner that ends before its first point.
func TestStatementIsGivenToAnotherOwnerWhenOneEndsThatHadMemory(t *testing.T) {
	t.Parallel()
	for name, heard := range map[string]func(uint64) copystate.Sign{"plenty": plenty, "scarce": scarce} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c *testCluster
			var died atomic.Int64
			c = newTestCluster(t, testOptions{nodes: 3, idle: 1, replicas: 3, heard: heard,
				wrap: func(id uint64, s *Server) rpc.QueryServer {
					return faulty{QueryServer: s, id: id, chunks: func(id uint64, n int, _ *rpc.IteratorChunk) error {
						if n == 1 && died.Add(1) == 1 {
							c.nodes[id-1].rpc.Stop()
						}
						return nil
					}}
				}})
			c.write(t, "cpu v=1 1")
			c.nodes[3].mapper.vector.On = false // so that it asks for the points alone
			want := c.plain.run(t, "SELECT v FROM cpu", query.ExecutionOptions{})
			got := c.nodes[3].run(t, "SELECT v FROM cpu", query.ExecutionOptions{})
			if name == "plenty" && got != want {
				t.Errorf("the answer is %s", got)
			} else if name == "scarce" && (!strings.Contains(got, ErrOwnerEnded.Error()) || died.Load() != 1) {
				t.Errorf("%d nodes ended, and the answer is %s", died.Load(), got)
			}
		})
	}
}

func TestStatementOfASilentOwnerIsGivenToAnotherWhenItHungBefore(t *testing.T) {
	t.Parallel()
	before := func(uint64) copystate.Sign {
		return copystate.Sign{At: time.Now().Add(-time.Minute), Process: 1}
	}
	for name, heard := range map[string]func(uint64) copystate.Sign{"before": before, "since": scarce} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			c := newTestCluster(t, testOptions{nodes: 3, idle: 1, replicas: 3, heard: heard,
				silence: 300 * time.Millisecond,
				wrap: func(id uint64, s *Server) rpc.QueryServer {
					return faulty{QueryServer: s, id: id, serve: func(ctx context.Context, _ uint64) error {
						if asked.Add(1) == 1 {
							<-ctx.Done()
						}
						return ctx.Err()
					}}
				}})
			c.write(t, "cpu v=1 1")
			c.nodes[3].mapper.vector.On = false
			got := c.nodes[3].run(t, "SELECT v FROM cpu", query.ExecutionOptions{})
			if ended := strings.Contains(got, ErrOwnerEnded.Error()); ended != (name == "since") {
				t.Errorf("the answer is %s", got)
			}
			if n := asked.Load(); n > 1 && name == "since" {
				t.Errorf("%d nodes are asked", n)
			}
		})
	}
}

// The parts of a statement that read other policies or ask something else have one count, and a node counts once.
func TestNodesThatEndAreCountedForTheWholeStatement(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 3, heard: plenty})
	ended := func(o *owned, node uint64) error {
		o.noteAsked(node)
		return o.fail(node, status.Error(codes.Unavailable, "error reading from server: EOF"))
	}
	report := &Report{state: func() *cluster.State { return c.state }}
	part := func() *owned { return newOwned(view{c.meta, c, 1}, nil, Whole{Heard: plenty}, report) }
	one := part()
	if err := errors.Join(ended(one, 2), ended(part(), 2), ended(one, 2)); err != nil {
		t.Error(err)
	}
	if err := ended(part(), 3); !errors.Is(err, ErrOwnerEnded) {
		t.Errorf("the second node that ends: %v", err)
	}
	// Calls of a statement read one stream, and each notices its end.
	if err := ended(one, 3); !errors.Is(err, ErrOwnerEnded) {
		t.Errorf("another part that notices the second node's end: %v", err)
	}
	if _, err := part().assign([]uint64{1}); !errors.Is(err, ErrOwnerEnded) {
		t.Errorf("another part that begins: %v", err)
	}
	// A process that was started since has all of its memory.
	again := newOwned(view{c.meta, c, 1}, nil, Whole{Heard: plenty}, nil)
	again.noteAsked(2)
	again.whole.Heard = func(n uint64) copystate.Sign { s := plenty(n); s.Process++; return s }
	if err := again.fail(2, fmt.Errorf("%w for 30s", errSilent)); !errors.Is(err, ErrOwnerEnded) {
		t.Errorf("a node that was started again: %v", err)
	}
}

// A statement that stores its answer waits for whole copies, unless a node ended because of it.
func TestStatementThatStoresIsNotTriedAgainAfterAnOwnerEnded(t *testing.T) {
	t.Parallel()
	var c *testCluster
	var died atomic.Int64
	c = newTestCluster(t, testOptions{nodes: 2, idle: 1, replicas: 2,
		wrap: func(id uint64, s *Server) rpc.QueryServer {
			return faulty{QueryServer: s, id: id, serve: func(_ context.Context, id uint64) error {
				if id == 1 {
					died.Add(1)
					c.nodes[0].rpc.Stop()
				}
				return nil
			}}
		}})
	c.write(t, "cpu v=1 1")
	c.nodes[1].server.whole.Unfit = func(_ context.Context, ids ...uint64) map[uint64]copystate.Unfit {
		unfit := make(map[uint64]copystate.Unfit)
		for _, id := range ids {
			unfit[id] = copystate.Unfit{Reason: "it lacks points", Readable: true}
		}
		return unfit
	}
	n, _ := c.executing(t, c.nodes[2], newPool(t), 1<<30, &budget.Requests{})
	n.mapper.vector.On = false
	n.mapper.whole = Whole{
		Heard: plenty, Unfit: func(context.Context, ...uint64) map[uint64]copystate.Unfit { return nil },
	}
	abort := make(chan struct{})
	defer time.AfterFunc(10*time.Second, func() { close(abort) }).Stop()
	got := n.run(t, "SELECT v INTO copy FROM cpu", query.ExecutionOptions{AbortCh: abort})
	if !strings.Contains(got, ErrOwnerEnded.Error()) || died.Load() != 1 {
		t.Errorf("%d nodes ended: %s", died.Load(), got)
	}
}
