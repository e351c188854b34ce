package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/retype"
	"concord/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var shard = cluster.Shard{ID: 7, Database: "db", RetentionPolicy: "autogen", Start: -100, End: 1 << 60}

// canned answers with what it has and keeps what it was given.
type canned struct {
	entropy.Replica // nil: what no test asks for

	fields   []digest.SeriesField
	blocks   []patch.Block
	status   entropy.NodeStatus
	checked  uint64
	paused   bool
	maxRate  uint64
	records  []entropy.RepairRecord
	diff     entropy.DryRun
	err      error
	asked    []patch.Region
	applied  []patch.Block
	refused  []patch.Refused
	resolved retype.Field
	shard    cluster.Shard
}

func (c *canned) Summarize(ctx context.Context, sh cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
	return spool(ctx, c, sh, until, key)
}

// spool is a summary of what a replica lists.
func spool(ctx context.Context, r entropy.Comparer, sh cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
	s, err := reconcile.NewSpool(ctx, "", key, func(ctx context.Context, fn func(*digest.SeriesField) error) error {
		return r.Digests(ctx, sh, until, fn)
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c *canned) Discard(ctx context.Context, id, gen uint64) error { return c.Whole(ctx, id, gen) }

func (c *canned) Whole(_ context.Context, id, gen uint64) error {
	if id != 7 {
		return errors.New("no such shard")
	}
	return nil
}

func (c *canned) States(_ context.Context, ids []uint64) (map[uint64]entropy.ShardState, error) {
	out := make(map[uint64]entropy.ShardState)
	for _, id := range ids {
		out[id] = entropy.ShardState{Version: entropy.Version{Exists: id == 7, LastModified: -int64(id), Size: int64(id) << 40}, Hints: []uint64{id, 9}, Beginning: copystate.Beginning(id) - 7}
	}
	return out, c.err
}

func (c *canned) Root(_ context.Context, sh cluster.Shard, until int64) (digest.Sum, error) {
	c.shard = sh
	return digest.Sum{Count: uint64(until), Hi: math.MaxUint64, Lo: 1 << 63}, c.err
}

func (c *canned) Digests(_ context.Context, _ cluster.Shard, _ int64, fn func(*digest.SeriesField) error) error {
	for i := range c.fields {
		f := c.fields[i]
		if err := fn(&f); err != nil {
			return err
		}
	}
	return c.err
}

func (c *canned) Fetch(_ context.Context, _ cluster.Shard, regions []patch.Region, _ patch.Limits, fn func(patch.Block) error) error {
	c.asked = regions
	for _, b := range c.blocks {
		if err := fn(b); err != nil {
			return err
		}
	}
	return c.err
}

func (c *canned) Apply(_ context.Context, sh cluster.Shard, read entropy.ReadAt, blocks []patch.Block) (patch.Applied, error) {
	c.shard, c.applied = sh, blocks
	if read.Deletes == 1 {
		return patch.Applied{}, entropy.ErrOvertaken
	}
	return patch.Applied{Points: len(blocks), Refused: c.refused}, c.err
}

func (c *canned) Status(context.Context) (entropy.NodeStatus, error) { return c.status, c.err }
func (c *canned) Check(_ context.Context, id uint64) error {
	c.checked = id
	return c.err
}

func (c *canned) SetMaxRate(_ context.Context, bytes uint64) error {
	c.maxRate = bytes
	return c.err
}

func (c *canned) Pause(_ context.Context, paused bool) error {
	c.paused = paused
	return c.err
}

func (c *canned) Diff(context.Context, uint64) (entropy.DryRun, error) { return c.diff, c.err }

func (c *canned) Resolve(_ context.Context, _ uint64, f retype.Field) ([]entropy.Resolved, error) {
	c.resolved = f
	return []entropy.Resolved{{Node: "a"}, {Node: "b", Kept: retype.Kept{Path: "/x", Points: 1}}}, c.err
}

func (c *canned) Repairs(context.Context) (entropy.NodeRepairs, error) {
	return entropy.NodeRepairs{Paused: c.paused, MaxRate: c.maxRate, Repairs: c.records}, c.err
}

func (c *canned) Repair(context.Context, uint64) error       { return c.err }
func (c *canned) CancelRepair(context.Context, uint64) error { return c.err }

// mustServe starts a real server and returns both ends of a peer.
func mustServe(t testing.TB, replica entropy.Replica, control entropy.Control) (entropy.Replica, entropy.Control, *rpc.Pool, cluster.Node) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return mustServeOn(t, ln, replica, control)
}

func mustServeOn(t testing.TB, ln net.Listener, replica entropy.Replica, control entropy.Control, opts ...grpc.ServerOption) (entropy.Replica, entropy.Control, *rpc.Pool, cluster.Node) {
	t.Helper()
	return mustServeWith(t, ln, replica, control, nil, opts...)
}

// mustServeWith serves shards, too, when it is not nil.
func mustServeWith(t testing.TB, ln net.Listener, replica entropy.Replica, control entropy.Control, shards rpc.ShardsServer, opts ...grpc.ServerOption) (entropy.Replica, entropy.Control, *rpc.Pool, cluster.Node) {
	t.Helper()
	s := rpc.NewServer(opts...)
	NewServer(replica, control).Register(s)
	if shards != nil {
		rpc.RegisterShardsServer(s, shards)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(ln) }()
	pool := &rpc.Pool{}
	t.Cleanup(func() { pool.Close(); s.Stop(); <-done })
	node := cluster.Node{ID: 1, TCPAddr: ln.Addr().String()}
	tr := New(pool)
	return tr.Replica(node), tr.Control(node), pool, node
}

func block(t *testing.T, series string, n int) patch.Block {
	t.Helper()
	var vs tsm1.Values
	for i := range n {
		vs = append(vs, tsm1.NewValue(int64(i)*1e9, fmt.Sprint(i, strings.Repeat("x", i%50))))
	}
	data, err := vs.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return patch.Block{Series: []byte(series), Field: "value", Data: data}
}

func TestDigestsAndRootsRoundTripExactly(t *testing.T) {
	c := &canned{}
	for i := range 5000 { // several chunks
		f := digest.SeriesField{Series: []byte(fmt.Sprintf("cpu,host=%05d", i)), Field: "v\xff", Type: digest.Type(1 + i%5)}
		for w := i % 3; w < digest.Windows; w += 1 + i%7 {
			f.Windows[w] = digest.Sum{Count: uint64(i + w), Hi: math.MaxUint64 - uint64(i), Lo: uint64(i) << 40}
		}
		c.fields = append(c.fields, f)
	}
	rep, _, _, _ := mustServe(t, c, nil)
	var got []digest.SeriesField
	err := rep.Digests(t.Context(), shard, math.MaxInt64, func(f *digest.SeriesField) error {
		got = append(got, *f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.fields, got) { // a comparison by cmp takes seconds
		t.Error(cmp.Diff(c.fields, got))
	}
	root, err := rep.Root(t.Context(), shard, 5)
	if err != nil || root != (digest.Sum{Count: 5, Hi: math.MaxUint64, Lo: 1 << 63}) {
		t.Errorf("root is %+v, %v", root, err)
	}
	if c.shard.Start != shard.Start || c.shard.End != shard.End {
		t.Errorf("asked for %+v", c.shard)
	}
	states, err := rep.States(t.Context(), []uint64{7, 8})
	want := map[uint64]entropy.ShardState{
		7: {Version: entropy.Version{Exists: true, LastModified: -7, Size: 7 << 40}, Hints: []uint64{7, 9}},
		8: {Version: entropy.Version{LastModified: -8, Size: 8 << 40}, Hints: []uint64{8, 9}, Beginning: copystate.LongAgo},
	}
	if d := cmp.Diff(want, states); err != nil || d != "" {
		t.Errorf("states: %v %s", err, d)
	}
}

func TestPointsRoundTripExactly(t *testing.T) {
	c := &canned{}
	for i := range 100 {
		c.blocks = append(c.blocks, block(t, fmt.Sprintf("cpu,host=%d", i), 1+i*10))
	}
	c.blocks[0].Versions, c.blocks[0].Assumed = []uint64{math.MaxUint64}, true
	rep, _, _, _ := mustServe(t, c, nil)
	regions := []patch.Region{{Series: []byte("cpu"), Field: "value", Type: digest.String, Min: math.MinInt64, Max: math.MaxInt64}}
	var got []patch.Block
	if err := rep.Fetch(t.Context(), shard, regions, patch.Limits{}, func(b patch.Block) error { got = append(got, b); return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.blocks, got) { // a comparison by cmp takes seconds
		t.Error(cmp.Diff(c.blocks, got))
	}
	if d := cmp.Diff(regions, c.asked); d != "" {
		t.Error(d)
	}
	c.refused = []patch.Refused{{Block: 1, Points: 3, Type: digest.Integer, Reason: "\xff one"}, {Block: 99, Points: 2, Reason: "two"}}
	done, err := rep.Apply(t.Context(), shard, entropy.ReadAt{Deletes: 9}, got)
	if d := cmp.Diff(patch.Applied{Points: len(got), Refused: c.refused}, done); err != nil || d != "" {
		t.Errorf("applied: %v %s", err, d)
	}
	c.refused = []patch.Refused{{Block: 100, Reason: "there is no such block"}}
	if _, err := rep.Apply(t.Context(), shard, entropy.ReadAt{Deletes: 9}, got); err == nil {
		t.Error("a refused block that was not sent is believed")
	}
	c.refused = nil
	if !reflect.DeepEqual(c.blocks, c.applied) { // a comparison by cmp takes seconds
		t.Error(cmp.Diff(c.blocks, c.applied))
	}
	if _, err := rep.Apply(t.Context(), shard, entropy.ReadAt{Deletes: 1}, got); !errors.Is(err, entropy.ErrOvertaken) {
		t.Errorf("overtaken by a delete: %v", err)
	}
	if n, err := rep.Apply(t.Context(), shard, entropy.ReadAt{Deletes: 9}, nil); err != nil || n.Points != 0 || c.shard.Database != "db" {
		t.Errorf("applied %+v to %+v, %v", n, c.shard, err)
	}
	stop := errors.New("enough")
	if err := rep.Fetch(t.Context(), shard, regions, patch.Limits{}, func(patch.Block) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("error is %v, want that of the callback", err)
	}
}

func TestControlKeepsErrorsAndStatus(t *testing.T) {
	c := &canned{status: entropy.NodeStatus{
		Enabled: true, Queued: []uint64{1, 2}, Processing: []uint64{2},
		Shards: []entropy.ShardStatus{{ID: 2, Status: entropy.Conflict, Message: "field"}},
	}}
	_, ctl, pool, _ := mustServe(t, c, c)
	st, err := ctl.Status(t.Context())
	if d := cmp.Diff(c.status, st); err != nil || d != "" {
		t.Errorf("status: %v %s", err, d)
	}
	if err := errors.Join(ctl.Repair(t.Context(), 1), ctl.CancelRepair(t.Context(), 1), ctl.Check(t.Context(), 7), ctl.Pause(t.Context(), true), ctl.SetMaxRate(t.Context(), 5<<20)); err != nil || c.checked != 7 || !c.paused {
		t.Error(err)
	}
	at := time.Unix(1, 2)
	decided := []entropy.Decision{
		{Series: "m,t=\xff", Field: "f", Time: -1, Value: "2", Why: "y", Held: []entropy.Held{
			{Node: "a", Value: "\xff", Version: patch.Uncertain}, {Node: "b", Bound: 1},
		}},
		{Series: "m", Open: true},
	}
	c.records = []entropy.RepairRecord{{
		ShardID: 1, State: entropy.Running, Owners: []string{"a"}, Added: at, Started: at.Add(1), Attempts: 2, Rounds: 3, Total: 4, Fixed: 5,
		Points: 6, Conflicts: 7, Decided: decided, BytesRx: 8, BytesTx: 9, Rate: 10.5, ETA: 11, Error: "12",
		Refused: 13, Refusals: []entropy.Refusal{{Node: "a", Series: "m,t=\xff", Field: "f", Reason: "\xff"}},
	}}
	c.diff = entropy.DryRun{
		Owners: []string{"a", "b"}, Away: "c", Bytes: 1, Count: 2, Truncated: true, TypeConflicts: "d",
		Pairs:   []entropy.PairDiff{{A: "a", B: "b", Compared: patch.Compared{LackingA: 3, LackingB: 4, ValueConflicts: 5}}},
		Decided: decided,
		Fields:  []entropy.FieldDiff{{Series: "m,t=\xff", Field: "f", Start: -6, End: 7}},
	}
	diff, err := ctl.Diff(t.Context(), 1)
	if d := cmp.Diff(c.diff, diff); err != nil || d != "" {
		t.Errorf("diff: %v %s", err, d)
	}
	all, err := ctl.Repairs(t.Context())
	if d := cmp.Diff(entropy.NodeRepairs{Paused: true, MaxRate: 5 << 20, Repairs: c.records}, all); err != nil || d != "" {
		t.Errorf("repairs: %v %s", err, d)
	}
	for _, want := range []error{entropy.ErrUnknownShard, entropy.ErrDisabled} {
		c.err = fmt.Errorf("shard 1: %w", want)
		if err := ctl.Repair(t.Context(), 1); !errors.Is(err, want) {
			t.Errorf("error is %v, want %v", err, want)
		}
	}
	c.err = errors.New("disk on fire")
	if err := ctl.CancelRepair(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("error is %v", err)
	}
	pool.Blocked = func(string) bool { return true }
	if err := ctl.Repair(t.Context(), 1); err == nil {
		t.Error("a cut link was crossed")
	}
}

func TestDisabledServiceSaysSo(t *testing.T) {
	_, ctl, _, _ := mustServe(t, nil, nil)
	if st, err := ctl.Status(t.Context()); err != nil || st.Enabled {
		t.Errorf("status is %+v, %v", st, err)
	}
	if err := ctl.Repair(t.Context(), 1); !errors.Is(err, entropy.ErrDisabled) {
		t.Errorf("error is %v", err)
	}
}

func TestServerRefusesWhatIsNotValid(t *testing.T) {
	_, _, pool, node := mustServe(t, &canned{}, &canned{})
	conn, err := pool.Conn(node.TCPAddr)
	if err != nil {
		t.Fatal(err)
	}
	cl := rpc.NewEntropyClient(conn)
	good := block(t, "cpu", 3)
	region := func(change func(*rpc.Region)) *rpc.FetchRequest {
		r := &rpc.Region{Series: []byte("cpu"), Field: []byte("value"), Type: 1, Max: 1}
		change(r)
		return &rpc.FetchRequest{ShardId: 1, Regions: []*rpc.Region{r}}
	}
	apply := func(db string, b *rpc.Block) func() error {
		return func() error {
			_, err := cl.Apply(t.Context(), &rpc.ApplyRequest{ShardId: 1, Database: db, RetentionPolicy: "rp", Blocks: []*rpc.Block{b}})
			return err
		}
	}
	fetch := func(r *rpc.FetchRequest) func() error {
		return func() error {
			s, err := cl.Fetch(t.Context(), r)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}
	}
	for name, call := range map[string]func() error{
		"version of more than a point": func() error {
			r := region(func(*rpc.Region) {}).Regions
			_, err := rpc.NewPointsClient(conn).Versions(t.Context(), &rpc.VersionsRequest{ShardId: 1, Points: r})
			return err
		},
		"empty range": func() error {
			_, err := cl.Root(t.Context(), &rpc.RootRequest{ShardId: 1, Start: 5, End: 5})
			return err
		},
		"path as database": apply("../x", toBlock(good)),
		"dots as database": apply("..", toBlock(good)),
		"empty block":      apply("db", &rpc.Block{Series: []byte("cpu"), Field: []byte("value")}),
		"type of block":    apply("db", &rpc.Block{Series: []byte("cpu"), Field: []byte("value"), Data: []byte{9, 9, 9, 9, 9, 9, 9, 9, 9, 9}}),
		"no series":        apply("db", &rpc.Block{Field: []byte("value"), Data: good.Data}),
		"type of region":   fetch(region(func(r *rpc.Region) { r.Type = 6 })),
		"no type":          fetch(region(func(r *rpc.Region) { r.Type = 0 })),
		"empty region":     fetch(region(func(r *rpc.Region) { r.Min = 2 })),
		"long key":         fetch(region(func(r *rpc.Region) { r.Series = make([]byte, maxKey) })),
		"shard 0": func() error {
			_, err := cl.Repair(t.Context(), &rpc.RepairRequest{})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestClientRefusesDigestsThatAreNotValid(t *testing.T) {
	sum := &rpc.Sum{Count: 1}
	for name, windows := range map[string][]*rpc.WindowSum{
		"window 64": {{Window: 64, Sum: sum}}, "no sum": {{Window: 1}},
		"descending": {{Window: 2, Sum: sum}, {Window: 1, Sum: sum}}, "twice": {{Window: 2, Sum: sum}, {Window: 2, Sum: sum}},
	} {
		m := &rpc.SeriesField{Series: []byte("cpu"), Field: []byte("value"), Type: 1, Windows: windows}
		if err := fromSeriesField(new(digest.SeriesField), m); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
