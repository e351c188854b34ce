package transport

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	"concord/internal/cluster"
	"concord/internal/drops"
	"concord/internal/enginetest"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/entropytest"
	"concord/internal/entropy/local"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/service"
	"concord/internal/order"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
)

// owners are data nodes with real stores, of which the first drives repairs over real connections. It has a method for
// each thing that a test does to them.
type owners struct {
	t       testing.TB
	stores  []*tsdb.Store
	servers []*shardcopy.Server
	copies  []*local.Local
	dirs    []string   // of the copies' own files
	wire    []*counted // by owner; the first one's stays unused
	sent    *messages
	service *service.Service
	config  entropy.Config
	state   atomic.Pointer[cluster.State] // never nil
	start   time.Time                     // of every shard
}

// messages counts the bytes of messages both ways by method, with the five that gRPC puts before each.
type messages struct {
	mu    sync.Mutex
	bytes map[string]int64
	calls int // since of was called last
}

type methodKey struct{}

func (m *messages) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, path.Base(info.FullMethodName))
}

func (m *messages) HandleRPC(ctx context.Context, s stats.RPCStats) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch p := s.(type) {
	case *stats.Begin:
		m.calls++
	case *stats.InPayload:
		m.bytes[ctx.Value(methodKey{}).(string)] += int64(p.WireLength)
	case *stats.OutPayload:
		m.bytes[ctx.Value(methodKey{}).(string)] += int64(p.WireLength)
	}
}

func (m *messages) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (m *messages) HandleConn(context.Context, stats.ConnStats)                       {}

// of returns the bytes of methods since it was called last.
func (m *messages) of(methods ...string) (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range methods {
		n += m.bytes[name]
	}
	clear(m.bytes)
	m.calls = 0
	return n
}

// noVersions is the order of a node that has a clock, and knows no versions.
type noVersions struct{}

func (noVersions) Versions(_ uint64, points []patch.Region) (patch.PointVersions, error) {
	return patch.PointVersions{Versions: make([]uint64, len(points)), Clock: uint64(order.AtTime(time.Now()))}, nil
}

func (noVersions) Clock() uint64 { return uint64(order.AtTime(time.Now())) }

func (noVersions) Keep(uint64) bool { return true }

func (noVersions) LateWrites() bool { return false }

const shardDays = 7

func (o *owners) NodeID() uint64        { return 1 }
func (o *owners) State() *cluster.State { return o.state.Load() }

// newOwners starts n owners of the shards 1 to shards of the database db1, db2, ...
func newOwners(t testing.TB, n, shards int) *owners {
	t.Helper()
	return newOwnersWith(t, n, shards, func(*owners, []string) {})
}

// newOwnersWith calls prepare with the folders of the stores before they open.
func newOwnersWith(t testing.TB, n, shards int, prepare func(o *owners, dirs []string)) *owners {
	t.Helper()
	o := &owners{
		t: t, sent: &messages{bytes: make(map[string]int64)},
		start: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -30),
	}
	st := &cluster.State{Index: 1, Data: &meta.Data{}}
	var ids []meta.ShardOwner
	pool := &rpc.Pool{}
	t.Cleanup(func() { pool.Close() })
	var dirs []string
	for range n {
		dirs = append(dirs, t.TempDir())
	}
	prepare(o, dirs)
	for i := range n {
		ids = append(ids, meta.ShardOwner{NodeID: uint64(i + 1)})
		s := tsdb.NewStore(dirs[i])
		s.EngineOptions.MonitorDisabled = true // it outlives Close, and races with another Open
		s.EngineOptions.Config.WALDir = filepath.Join(t.TempDir(), "wal")
		if err := s.Open(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		dir := t.TempDir()
		o.dirs = append(o.dirs, dir)
		rate := pace.NewLimit(0)
		beginnings := local.Beginnings{Memory: local.NewMemory(s, dir, zap.NewNop()), Copies: entropytest.NoCopies{}}
		ln := mustCount(t)
		dropping := drops.New(s, nil)
		shards := &shardcopy.Server{
			Store: dropping, Pool: pool, Begun: beginnings.Copied, Dir: filepath.Join(dir, "incoming"), Log: zap.NewNop(),
			CheckDisk: func(bytes int64) error { return o.copies[i].Disk.Check(bytes) },
		}
		copies := local.New(local.Deps{
			Store: dropping, Shards: s, Key: func() uint64 { return 42 }, Beginnings: beginnings,
			Deletes: entropytest.NoDeletes{},
			Order:   noVersions{}, Files: shards.FillFrom, HoldWrites: func(uint64) func() { return func() {} },
			Disk: local.Disk{Dir: s.Path()}, Limit: rate, Log: zap.NewNop(),
		})
		mustServeWith(t, ln, copies, nil, shards, grpc.StatsHandler(o.sent))
		o.stores, o.copies, o.wire = append(o.stores, s), append(o.copies, copies), append(o.wire, ln)
		o.servers = append(o.servers, shards)
		st.DataNodes = append(st.DataNodes, cluster.Node{ID: uint64(i + 1), TCPAddr: ln.Addr().String()})
	}
	for id := uint64(1); id <= uint64(shards); id++ {
		st.Data.Databases = append(st.Data.Databases, meta.DatabaseInfo{Name: fmt.Sprint("db", id), RetentionPolicies: []meta.RetentionPolicyInfo{{
			Name: "autogen", ReplicaN: n, ShardGroups: []meta.ShardGroupInfo{{
				ID: id, StartTime: o.start, EndTime: o.start.AddDate(0, 0, shardDays),
				Shards: []meta.ShardInfo{{ID: id, Owners: ids}},
			}},
		}}})
	}
	o.state.Store(st)
	cfg := entropy.NewConfig()
	cfg.AutoRepairDiff = false // tests ask for repairs
	cfg.Settle, cfg.MaxRate, cfg.MaxSync, cfg.AutoRepairMissing = 0, 0, 2, false
	cfg.CheckInterval *= 1000
	o.config = cfg
	var err error
	o.service, err = service.New(cfg, service.Deps{
		Dir: t.TempDir(), Meta: o, Local: o.copies[0], Transport: New(pool), Limit: o.copies[0].Limit,
		Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	o.service.Open()
	t.Cleanup(func() { o.service.Close() })
	return o
}

func (o *owners) shard(id uint64) cluster.Shard {
	return cluster.Shard{
		ID: id, Database: fmt.Sprint("db", id), RetentionPolicy: "autogen", Start: o.start.UnixNano(),
		End: o.start.AddDate(0, 0, shardDays).UnixNano(),
	}
}

// at is a time in every shard.
func (o *owners) at(d time.Duration) int64 { return o.start.Add(d).UnixNano() }

func (o *owners) create(owner int, id uint64) {
	if err := o.stores[owner].CreateShard(fmt.Sprint("db", id), "autogen", id, true); err != nil {
		o.t.Fatal(err)
	}
}

// point is a value of a field.
func (o *owners) point(series, field string, at int64, v any) models.Point {
	name, tags := models.ParseKeyBytes([]byte(series))
	p, err := models.NewPoint(string(name), tags, models.Fields{field: v}, time.Unix(0, at))
	if err != nil {
		o.t.Fatal(err)
	}
	return p
}

func (o *owners) write(owner int, id uint64, points ...models.Point) {
	o.t.Helper()
	for len(points) > 0 {
		n := min(len(points), 10_000)
		if err := o.stores[owner].WriteToShard(tsdb.WriteContext{}, id, points[:n:n]); err != nil {
			o.t.Fatal(err)
		}
		points = points[n:]
	}
}

func (o *owners) snapshot(owner int, id uint64) {
	err := enginetest.Engine(o.t, o.stores[owner].Shard(id)).WriteSnapshot()
	if err != nil && err.Error() != "snapshots disabled" { // the store does so with a shard that it finds idle
		o.t.Fatal(err)
	}
}

// minutes writes n values, one each minute.
func (o *owners) minutes(owner int, id uint64, n int, value func(int) float64) {
	var points []models.Point
	for j := range n {
		points = append(points, o.point("m,host=a", "f", o.at(time.Duration(j)*time.Minute), value(j)))
	}
	o.write(owner, id, points...)
}

func ordinal(j int) float64 { return float64(j) }

// rising gives owners a shard whose values, one each minute, rise from 0 below n, in one file.
func (o *owners) rising(id uint64, n int, owners ...int) {
	o.t.Helper()
	for _, i := range owners {
		o.create(i, id)
		o.minutes(i, id, n, ordinal)
		o.snapshot(i, id)
	}
}

// files are the paths of an owner's TSM files of a shard.
func (o *owners) files(owner int, id uint64) []string {
	o.t.Helper()
	paths, err := filepath.Glob(filepath.Join(o.stores[owner].Shard(id).Path(), "*.tsm"))
	if err != nil {
		o.t.Fatal(err)
	}
	return paths
}

// repair repairs a shard and returns its record.
func (o *owners) repair(id uint64) entropy.RepairRecord {
	o.t.Helper()
	if err := o.service.Repair(o.t.Context(), id); err != nil {
		o.t.Fatal(err)
	}
	return o.record(id, func(r entropy.RepairRecord) bool { return !r.Ended.IsZero() && r.State != entropy.Failed })
}

// failed returns the record of a repair that fails.
func (o *owners) failed(id uint64) entropy.RepairRecord {
	o.t.Helper()
	return o.record(id, func(r entropy.RepairRecord) bool { return r.State == entropy.Failed })
}

func (o *owners) record(id uint64, ok func(entropy.RepairRecord) bool) entropy.RepairRecord {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		all, err := o.service.Repairs(ctx)
		if err != nil {
			o.t.Fatal(err)
		}
		for _, r := range all.Repairs {
			if r.ShardID == id && ok(r) {
				return r
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			o.t.Fatalf("shard %d is not repaired: %+v", id, all)
		}
	}
}

// root is the sum over an owner's shard, read anew.
func (o *owners) root(owner int, id uint64) digest.Sum {
	sh := o.shard(id)
	if o.stores[owner].Shard(id) == nil {
		return digest.Sum{}
	}
	sum, err := digest.Root(context.Background(), o.stores[owner].Shard(id), 42,
		digest.Range{Start: sh.Start, End: sh.End}, 1<<63-1)
	if err != nil {
		o.t.Fatal(err)
	}
	return sum
}

// read returns the points of a field on one owner.
func (o *owners) read(owner int, id uint64, series, field string, typ digest.Type) map[int64]any {
	out := make(map[int64]any)
	sh := o.stores[owner].Shard(id)
	if sh == nil {
		return out
	}
	all := []patch.Region{
		{Series: []byte(series), Field: field, Type: typ, Min: models.MinNanoTime, Max: models.MaxNanoTime},
	}
	err := patch.Read(context.Background(), sh, all, patch.Limits{}, func(b patch.Block) error {
		vs, err := b.Decode()
		for _, v := range vs {
			out[v.UnixNano()] = v.Value()
		}
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}
