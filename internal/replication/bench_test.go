package replication

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"concord/internal/order"
	"concord/internal/replication/replicationtest"
	"concord/internal/rpc"
)

// benchPoints is a batch of 5,000 points of 1,000 series, with three fields each.
func benchPoints(b *testing.B) []models.Point {
	b.Helper()
	var lines strings.Builder
	for i := range 5000 {
		h := i % 1000
		fmt.Fprintf(&lines, "cpu,host=host-%d,region=region-%d,dc=dc-%d usage=%d.%02d,load=%d.125,requests=%di %d\n",
			h, h%10, h%4, i%100, i%97, i%8, i, 1_700_000_000_000_000_000+int64(i/1000)*10_000_000_000)
	}
	return mustPoints(b, lines.String())
}

// nullShards is an engine that takes no time.
type nullShards struct{}

func (nullShards) WriteToShard(tsdb.WriteContext, uint64, []models.Point) error { return nil }
func (nullShards) CreateShard(string, string, uint64, bool) error               { return nil }

// forgetEvery keeps the journal small, as it is in a cluster.
const forgetEvery = 100 * time.Millisecond

// rawCodec passes messages as the bytes that they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if keep, ok := v.(*[]byte); ok {
		*keep = data.Materialize()
	}
	return nil
}

// rawPeer is a node that takes all writes without a look at them. It keeps the last one, with keep.
type rawPeer struct {
	method atomic.Pointer[string]
	last   atomic.Pointer[[]byte]
	keep   atomic.Bool
}

func (p *rawPeer) serve(b *testing.B) (addr string) {
	b.Helper()
	handle := func(_ any, s grpc.ServerStream) error {
		var message []byte
		into := any(nil)
		if p.keep.Load() {
			into = &message
		}
		if err := s.RecvMsg(into); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		method, _ := grpc.MethodFromServerStream(s)
		p.method.Store(&method)
		p.last.Store(&message)
		return s.SendMsg([]byte(nil))
	}
	return serveWith(b, grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(handle))
}

// BenchmarkCoordinator is what a batch of 5,000 points costs the node that a client asked, without the parsing of the
// request and without the engine: one owner is another node, and in the second case the other one is this node.
func BenchmarkCoordinator(b *testing.B) {
	for _, own := range []bool{false, true} {
		b.Run(fmt.Sprintf("own=%v", own), func(b *testing.B) {
			c := newTestCluster(b, "ok", "down")
			var peer rawPeer
			c.meta.Nodes[1].TCPAddr = peer.serve(b)
			if !own {
				c.meta.Owners = []uint64{2}
			}
			deps := newDeps(b, c.meta, c.stores[0], c.pool, 1)
			deps.Shards, deps.ForgetEvery = nullShards{}, forgetEvery
			w := NewWriter(deps)
			w.floors.hear(2, toldFloor{floor: math.MaxUint64}) // nothing of the other node is under way
			mustOpen(b, w)
			points := benchPoints(b)
			learnAll(w, points)
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				if err := w.WritePoints(db, policy, models.ConsistencyLevelAll, nil, slices.Clone(points)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// reportCPU reports the CPU time of this process until the function is called that it returns. Unlike the time of the
// clock, it depends little on what else the machine does.
func reportCPU(b *testing.B) (end func()) {
	used := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := used()
	return func() { b.ReportMetric(float64(used()-began)/float64(b.N)/5000, "cpu-ns/point") }
}

// learnAll makes the types of all fields known.
func learnAll(w *Writer, points []models.Point) {
	seen := w.Deletes.Seen(db)
	fields, _ := w.types.known.unknown(shardID, seen, points)
	w.types.known.learn(shardID, seen, fields)
}

// BenchmarkOwner is what a batch of 5,000 points costs an owner to which another node sends it, with and without
// the engine, and with and without the journal, which knows the versions.
func BenchmarkOwner(b *testing.B) {
	for name, on := range map[string]struct{ engine, journal bool }{
		"without the engine": {journal: true}, "without the engine and the journal": {}, "with both": {true, true},
		"without the journal": {engine: true},
	} {
		b.Run(name, func(b *testing.B) {
			method, message := captured(b)
			c := newTestCluster(b, "ok")
			deps := newDeps(b, c.meta, c.stores[0], c.pool, 1)
			deps.ForgetEvery = forgetEvery
			if !on.engine {
				deps.Shards = nullShards{}
			}
			w := mustOpen(b, NewWriter(deps))
			addr := mustServe(b, NewServer(c.stores[0], w, zap.NewNop()), c.served.Option())
			conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallSendMsgSize(rpc.MaxMessage)))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			var answer []byte
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				version := order.Version(0)
				if on.journal {
					version = w.Order.Clock.Next()
				}
				if err := conn.Invoke(b.Context(), method, withVersion(message, version), &answer); err != nil {
					b.Fatal(err)
				}
				if n := len(answer); n > 16 { // it has the clock, and no error
					b.Fatalf("%q", answer)
				}
			}
		})
	}
}

// captured is a batch as a coordinator sends it.
func captured(b *testing.B) (method string, message []byte) {
	b.Helper()
	c := newTestCluster(b, "ok", "down")
	var peer rawPeer
	peer.keep.Store(true)
	c.meta.Nodes[1].TCPAddr = peer.serve(b)
	c.meta.Owners = []uint64{2}
	w := c.writer(b)
	points := benchPoints(b)
	learnAll(w, points)
	if err := w.WritePoints(db, policy, models.ConsistencyLevelAll, nil, points); err != nil {
		b.Fatal(err)
	}
	return *peer.method.Load(), *peer.last.Load()
}

// withVersion is a message with another version: a message that comes twice in another one is merged.
func withVersion(message []byte, v order.Version) []byte {
	write := protowire.AppendVarint(protowire.AppendTag(nil, 16, protowire.VarintType), uint64(v))
	return protowire.AppendBytes(protowire.AppendTag(slices.Clip(message), 1, protowire.BytesType), write)
}

// serveWith serves without any service of this program.
func serveWith(b *testing.B, opts ...grpc.ServerOption) (addr string) {
	b.Helper()
	return replicationtest.Serve(b, func(grpc.ServiceRegistrar) {}, opts...)
}
