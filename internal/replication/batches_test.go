package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/batch"
	"concord/internal/enginetest"
	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// former is a node of the version before batches, and counts.
type former struct {
	rpc.UnimplementedReplicationServer
	server         *Server
	batches, plain atomic.Int32
}

func (f *former) WriteBatch(ctx context.Context, r *rpc.WriteBatchRequest) (*rpc.WriteShardResponse, error) {
	f.batches.Add(1)
	return f.UnimplementedReplicationServer.WriteBatch(ctx, r)
}

func (f *former) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	f.plain.Add(1)
	return f.server.WriteShard(ctx, r)
}

// TestNodeOfTheVersionBeforeGetsPointsOneByOne, and is asked only once whether it takes batches.
func TestNodeOfTheVersionBeforeGetsPointsOneByOne(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, "ok", "down")
	store := mustStore(t)
	old := &former{server: NewServer(store, mustOpen(t, newWriter(t, c.meta, store, c.pool, 2)), zap.NewNop())}
	c.meta.Nodes[1].TCPAddr = mustServe(t, old)
	w := c.writer(t)
	for i := range 3 {
		points := mustPoints(t, fmt.Sprintf("cpu v=%d %d", i, i+1))
		learnAll(w, points)
		if err := w.WritePoints(db, policy, models.ConsistencyLevelAll, nil, points); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff([]float64{0, 1, 2}, values(t, store, "cpu")); d != "" {
		t.Error(d)
	}
	if batches, plain := old.batches.Load(), old.plain.Load(); batches != 1 || plain != 3 {
		t.Errorf("%d batches and %d other messages, not 1 and 3", batches, plain)
	}
	if n := w.outgoing.points.remote.Load(); n != 3 {
		t.Errorf("%d points count as sent to other nodes, not 3", n)
	}
}

// TestNodeIsAskedAnewForBatches after some time: it may have another version by then.
func TestNodeIsAskedAnewForBatches(t *testing.T) {
	t.Parallel()
	var b batchless
	b.note(2)
	if b.takes(2) || !b.takes(3) {
		t.Error("the wrong node gets batches")
	}
	b.until[2] = time.Now().Add(-1)
	if !b.takes(2) {
		t.Error("a node gets no batches for ever")
	}
}

// TestMalformedBatchesAreRefused has messages that no node sends.
func TestMalformedBatchesAreRefused(t *testing.T) {
	t.Parallel()
	store := mustStore(t)
	srv := serverOf(t, store)
	good := func() *rpc.WriteBatchRequest {
		b := batch.Of(mustPoints(t, "cpu v=1 1"))
		defer b.Release()
		write := &rpc.WriteShardRequest{ShardId: shardID, Database: db, RetentionPolicy: policy, Version: 1 << 20}
		return &rpc.WriteBatchRequest{Write: write, Batch: slices.Clone(b.Encoded()), Points: 1}
	}
	for name, change := range map[string]func(*rpc.WriteBatchRequest){
		"no write":    func(r *rpc.WriteBatchRequest) { r.Write = nil },
		"no shard":    func(r *rpc.WriteBatchRequest) { r.Write.ShardId = 0 },
		"no database": func(r *rpc.WriteBatchRequest) { r.Write.Database = "../x" },
		"no batch":    func(r *rpc.WriteBatchRequest) { r.Batch = nil },
		"damaged":     func(r *rpc.WriteBatchRequest) { r.Batch[3]++ },
		"too many":    func(r *rpc.WriteBatchRequest) { r.Points++ },
		"two forms":   func(r *rpc.WriteBatchRequest) { r.Write.Points = [][]byte{{1}} },
		"spans":       func(r *rpc.WriteBatchRequest) { r.Write.Spans = []*rpc.VersionSpan{{Points: 1}} },
		"decides":     func(r *rpc.WriteBatchRequest) { r.Write.Decides = true },
	} {
		r := good()
		change(r)
		if _, err := srv.WriteBatch(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if count(t, store, "cpu") > 0 {
		t.Error("a malformed batch was written")
	}
	if resp, err := srv.WriteBatch(t.Context(), good()); err != nil || resp.Error != "" || count(t, store, "cpu") != 1 {
		t.Errorf("a good batch: %v %v", resp, err)
	}
}

// TestFieldsCalledTimeAreStrippedFromBatches, as from other messages.
func TestFieldsCalledTimeAreStrippedFromBatches(t *testing.T) {
	t.Parallel()
	store := mustStore(t)
	srv := serverOf(t, store)
	b := batch.Of(mustPoints(t, "cpu v=1,time=5 1"))
	defer b.Release()
	write := &rpc.WriteShardRequest{ShardId: shardID, Database: db, RetentionPolicy: policy, Version: 1 << 20}
	r := &rpc.WriteBatchRequest{Write: write, Batch: b.Encoded(), Points: 1}
	if resp, err := srv.WriteBatch(t.Context(), r); err != nil || resp.Error != "" {
		t.Fatal(resp, err)
	}
	fields, _, err := store.Shard(shardID).FieldDimensions([]string{"cpu"})
	if err != nil || len(fields) != 1 || count(t, store, "cpu") != 1 {
		t.Errorf("fields %v: %v", fields, err)
	}
}

// keysOf are the series of a shard, as its index has them.
func keysOf(t *testing.T, s *tsdb.Store) (out []string) {
	t.Helper()
	sh := s.Shard(shardID)
	index, err := sh.Index()
	if err != nil {
		t.Fatal(err)
	}
	series, err := sh.SeriesFile()
	if err != nil {
		t.Fatal(err)
	}
	set := tsdb.IndexSet{Indexes: []tsdb.Index{index}, SeriesFile: series}
	names, err := set.MeasurementNamesByExpr(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		keys, err := set.MeasurementSeriesKeysByExpr(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			out = append(out, string(key))
		}
		for _, tag := range []string{"host", "t\"ag"} {
			vals, err := set.MeasurementTagKeyValuesByExpr(nil, name, []string{tag}, nil, true, zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range vals[0] {
				out = append(out, fmt.Sprintf("%s: %s=%s", name, tag, v))
			}
		}
		for field := range sh.MeasurementFields(name).FieldSet() {
			out = append(out, fmt.Sprintf("%s: %s", name, field))
		}
	}
	slices.Sort(out)
	return out
}

// TestEngineKeepsNothingOfAReleasedBatch writes series that are new, with names and texts of all lengths, through
// batches that follow each other and use the same memory. The engine must have what a store has that got the same as
// points of their own.
func TestEngineKeepsNothingOfAReleasedBatch(t *testing.T) {
	t.Parallel()
	writes := 50
	if testing.Short() {
		writes = 10
	}
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			batches, plain := enginetest.Store(t, index), enginetest.Store(t, index)
			srv := serverOf(t, batches)
			if err := plain.CreateShard(db, policy, shardID, true); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			version := order.Version(1 << 20)
			var wg sync.WaitGroup
			for writer := range 4 {
				wg.Go(func() {
					for i := range writes {
						var lines strings.Builder
						for k := range 20 {
							x := strings.Repeat(string(rune('a'+k)), 1+(i*7+k)%30)
							fmt.Fprintf(&lines, "m%d-%d\\,%s,host=%s%d,t\"ag=%s ", writer, i%9, x, x, i, x)
							fmt.Fprintf(&lines, "s=\"%s%d\",f%d=%di,v=%d.5 %d\n", x, k, (i+k)%40, i, k, i*100+k+1)
						}
						points := mustPoints(t, lines.String())
						b := batch.Of(points)
						mu.Lock()
						version += 16
						v := version
						mu.Unlock()
						resp, err := srv.WriteBatch(t.Context(), &rpc.WriteBatchRequest{
							Write: &rpc.WriteShardRequest{
								ShardId: shardID, Database: db, RetentionPolicy: policy, Version: uint64(v), Yields: true,
							},
							Batch: b.Encoded(), Points: uint32(b.Len()),
						})
						if err != nil || resp.Error != "" {
							t.Error(resp, err)
						}
						b.Release()
						if err := plain.WriteToShard(tsdb.WriteContext{}, shardID, mustPoints(t, lines.String())); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if d := cmp.Diff(keysOf(t, plain), keysOf(t, batches)); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(replicationtest.Cached(t, plain), replicationtest.Cached(t, batches)); d != "" {
				t.Error(d)
			}
		})
	}
}

// The engine uses the slice of points of SELECT INTO again as soon as the write has returned. An owner that gets the
// write later must get what was written.
func TestLateOwnerGetsThePointsOfTheWrite(t *testing.T) {
	t.Parallel()
	c, g := newGatedCluster(t)
	w, hh := c.withHandoff(t, 2*time.Second) // this node's own write is slow on a busy machine
	points := mustPoints(t, "cpu v=1 1\ncpu v=2 2")
	learnAll(w, points)
	g.hang.Store(true)
	err := w.WritePoints(db, policy, models.ConsistencyLevelOne, nil, points)
	if err != nil && !errors.Is(err, coordinator.ErrTimeout) { // which a busy machine brings about
		t.Fatal(err)
	}
	copy(points, mustPoints(t, "cpu v=8 8\ncpu v=9 9")) // the next points of the statement
	await(t, "the write waits for the owner", func() bool { return hh.Pending(2, shardID) })
	g.hang.Store(false)
	await(t, "the owner has the write", func() bool { return count(t, c.stores[1], "cpu") == 2 })
	if d := cmp.Diff([]float64{1, 2}, values(t, c.stores[1], "cpu")); d != "" {
		t.Error(d)
	}
}
