package entropy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb/engine/tsm1"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/pace"
	"concord/internal/entropy/patch"
	"concord/internal/entropy/reconcile"
	"concord/internal/entropy/reconcile/riblt"
	"concord/internal/entropy/retype"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fieldKey struct{ series, field string }

// fakeShard is a shard as a map.
type fakeShard struct {
	modified int64
	hints    []uint64 // as in ShardState
	began    copystate.Beginning
	deletes  uint64 // as in ShardState
	lack     copystate.Lack
	fields   map[fieldKey]map[int64]any
}

// fakeReplica is a node's copies in memory.
type fakeReplica struct {
	overtake func() // runs once, before points are applied
	mu       sync.Mutex
	shards   map[uint64]*fakeShard
	down     error                                      // what each call answers
	paced    atomic.Bool                                // Fetch was called with a pace
	deaf     bool                                       // to Whole
	block    chan struct{}                              // Fetch waits for it, when set
	files    func(ctx context.Context, id uint64) error // makes a missing shard out of files, when set
	versions func(p patch.Region) uint64                // of points, when set
	asked    int                                        // for versions, so many times
}

func (r *fakeReplica) Versions(_ context.Context, _ cluster.Shard, points []patch.Region) ([]uint64, uint64, error) {
	if r.versions == nil {
		return nil, 0, ErrNoVersions
	}
	r.change(func() { r.asked++ })
	out := make([]uint64, len(points))
	for i, p := range points {
		out[i] = r.versions(p)
	}
	return out, 0, nil
}

func (r *fakeReplica) Fill(ctx context.Context, sh cluster.Shard, _ Source, progress func(done, total int64)) error {
	if r.files == nil {
		return ErrNoFiles
	}
	progress(1, 4)
	return r.files(ctx, sh.ID)
}

func (r *fakeReplica) lock() (func(), error) {
	r.mu.Lock()
	if r.down != nil {
		r.mu.Unlock()
		return nil, r.down
	}
	return r.mu.Unlock, nil
}

func (r *fakeReplica) setDown(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

// write puts a value, creating the shard.
// change changes what no method does.
func (r *fakeReplica) change(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

func (r *fakeReplica) write(id uint64, series, field string, t int64, v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.put(id, fieldKey{series, field}, t, v)
}

func (r *fakeReplica) put(id uint64, k fieldKey, t int64, v any) {
	sh := r.shards[id]
	if sh == nil {
		sh = &fakeShard{fields: make(map[fieldKey]map[int64]any)}
		r.shards[id] = sh
	}
	sh.modified = time.Now().UnixNano()
	if v == nil {
		return
	}
	if sh.fields[k] == nil {
		sh.fields[k] = make(map[int64]any)
	}
	sh.fields[k][t] = v
}

func (r *fakeReplica) dump(id uint64) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shards[id] == nil {
		return "missing"
	}
	return fmt.Sprint(r.shards[id].fields)
}

func (r *fakeReplica) States(_ context.Context, ids []uint64) (map[uint64]ShardState, error) {
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	out := make(map[uint64]ShardState)
	for _, id := range ids {
		out[id] = ShardState{}
		if sh := r.shards[id]; sh != nil {
			out[id] = ShardState{Version: Version{Exists: true, LastModified: sh.modified}, Hints: sh.hints, Beginning: sh.began, Deletes: sh.deletes, Lack: sh.lack}
		}
	}
	return out, nil
}

func (r *fakeReplica) Discard(_ context.Context, id, _ uint64) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	delete(r.shards, id)
	return nil
}

func (r *fakeReplica) Whole(_ context.Context, id, _ uint64) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if r.deaf {
		return errAway
	}
	if sh := r.shards[id]; sh != nil {
		sh.began = copystate.FoundEqual
	}
	return nil
}

func (r *fakeReplica) Root(ctx context.Context, sh cluster.Shard, until int64) (root digest.Sum, err error) {
	err = r.Digests(ctx, sh, until, func(f *digest.SeriesField) error {
		for _, s := range f.Windows {
			root.Add(s)
		}
		return nil
	})
	return root, err
}

func typeOf(v any) digest.Type {
	switch v.(type) {
	case float64:
		return digest.Float
	case int64:
		return digest.Integer
	}
	return digest.String
}

func (r *fakeReplica) Summarize(ctx context.Context, sh cluster.Shard, until int64, key uint64) (reconcile.Summary, error) {
	return reconcile.NewSpool(ctx, "", key, func(ctx context.Context, fn func(*digest.SeriesField) error) error {
		return r.Digests(ctx, sh, until, fn)
	})
}

func (r *fakeReplica) Digests(_ context.Context, sh cluster.Shard, until int64, fn func(*digest.SeriesField) error) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	rng := digest.Range{Start: sh.Start, End: sh.End}
	var out []digest.SeriesField
	if s := r.shards[sh.ID]; s != nil {
		for k, points := range s.fields {
			f := digest.SeriesField{Series: []byte(k.series), Field: k.field}
			n := 0
			for t, v := range points {
				w := rng.Window(t)
				if _, hi := rng.Bounds(w); until != everything && hi >= until {
					continue
				}
				h := fnv.New64a()
				fmt.Fprint(h, k, t, v, typeOf(v))
				f.Type = typeOf(v)
				f.Windows[w].Add(digest.Sum{Count: 1, Lo: h.Sum64()})
				n++
			}
			if n > 0 {
				out = append(out, f)
			}
		}
	}
	unlock()
	slices.SortFunc(out, func(a, b digest.SeriesField) int {
		return cmp.Or(bytes.Compare(a.Series, b.Series), cmp.Compare(a.Field, b.Field))
	})
	for i := range out {
		if err := fn(&out[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *fakeReplica) Fetch(ctx context.Context, sh cluster.Shard, regions []patch.Region, limits patch.Limits, fn func(patch.Block) error) error {
	if pace.Of(ctx) != nil {
		r.paced.Store(true)
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	block := r.block
	var out []patch.Block
	for _, g := range regions {
		var vs tsm1.Values
		if s := r.shards[sh.ID]; s != nil {
			for t, v := range s.fields[fieldKey{string(g.Series), g.Field}] {
				if t >= g.Min && t <= g.Max {
					vs = append(vs, tsm1.NewValue(t, v))
				}
			}
		}
		if len(vs) == 0 {
			continue
		}
		slices.SortFunc(vs, func(a, b tsm1.Value) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
		data, err := vs.Encode(nil)
		if err != nil {
			unlock()
			return err
		}
		out = append(out, patch.Block{Series: g.Series, Field: g.Field, Data: data})
	}
	unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var bytes, points int
	for _, b := range out {
		if err := fn(b); err != nil {
			return err
		}
		n, err := tsm1.BlockCount(b.Data)
		if err != nil {
			return err
		}
		if bytes, points = bytes+len(b.Data), points+n; limits.Reached(bytes, points) {
			break
		}
	}
	return nil
}

// points calls fn with each point of regions as patch.Symbols counts it.
func (r *fakeReplica) points(sh cluster.Shard, regions []patch.Region, key uint64, fn func(region int, t int64, e riblt.Element)) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s := r.shards[sh.ID]
	if s == nil {
		return nil
	}
	for i, g := range regions {
		for t, v := range s.fields[fieldKey{string(g.Series), g.Field}] {
			if t < g.Min || t > g.Max || typeOf(v) != g.Type {
				continue
			}
			var bits uint64
			switch v := v.(type) {
			case float64:
				bits = math.Float64bits(v)
			case int64:
				bits = uint64(v)
			case string:
				bits = patch.HashString(key, v)
			}
			fn(i, t, patch.Element(i, uint64(t-g.Min), bits))
		}
	}
	return nil
}

func (r *fakeReplica) Symbols(_ context.Context, sh cluster.Shard, regions []patch.Region, key uint64, from, to int) ([]riblt.Symbol, error) {
	return riblt.Encode(key, from, to, func(add func(riblt.Element)) error {
		return r.points(sh, regions, key, func(_ int, _ int64, e riblt.Element) { add(e) })
	})
}

func (r *fakeReplica) Slices(_ context.Context, sh cluster.Shard, regions []patch.Region, key uint64) ([][patch.Slices]patch.Slice, error) {
	out := make([][patch.Slices]patch.Slice, len(regions))
	err := r.points(sh, regions, key, func(i int, t int64, e riblt.Element) {
		for j := range patch.Slices {
			if part, ok := regions[i].Slice(j, j); ok && part.Min <= t && t <= part.Max {
				out[i][j].Count++
				out[i][j].Sum += xxh3.HashStringSeed(fmt.Sprint(t, e), key)
			}
		}
	})
	return out, err
}

func (r *fakeReplica) SetAside(context.Context, uint64) error {
	return errors.New("no copy is damaged")
}
func (r *fakeReplica) Healed(context.Context, uint64) error { return errors.New("no copy is damaged") }

func (r *fakeReplica) Apply(_ context.Context, sh cluster.Shard, deletes uint64, blocks []patch.Block) (patch.Applied, error) {
	unlock, err := r.lock()
	if err != nil {
		return patch.Applied{}, err
	}
	defer unlock()
	if r.overtake != nil && len(blocks) > 0 {
		r.overtake()
		r.overtake = nil
	}
	if have := r.shards[sh.ID]; have != nil && len(blocks) > 0 && have.deletes != deletes {
		return patch.Applied{}, ErrOvertaken
	}
	r.put(sh.ID, fieldKey{}, 0, nil)
	var out patch.Applied
	for i, b := range blocks {
		vs, err := tsm1.DecodeBlock(b.Data, nil)
		if err != nil {
			return out, err
		}
		if have := r.typeOf(sh.ID, b); have != 0 && have != typeOf(vs[0].Value()) {
			out.Refused = append(out.Refused, patch.Refused{Block: i, Points: len(vs), Type: have, Reason: "field type conflict"})
			continue
		}
		for _, v := range vs {
			r.put(sh.ID, fieldKey{string(b.Series), b.Field}, v.UnixNano(), v.Value())
			out.Points++
		}
	}
	return out, nil
}

// typeOf is the type that a block's field has in its measurement; 0 when there is none.
func (r *fakeReplica) typeOf(id uint64, b patch.Block) digest.Type {
	for k, points := range r.shards[id].fields {
		if k.field == b.Field && bytes.Equal(models.ParseName([]byte(k.series)), models.ParseName(b.Series)) {
			for _, v := range points {
				return typeOf(v)
			}
		}
	}
	return 0
}

// fakeControl is another node's service.
type fakeControl struct {
	status   NodeStatus
	err      error
	repairs  []uint64
	canceled []uint64
	checked  []uint64
	paused   bool
	records  []RepairRecord
	diff     DryRun
	resolved []retype.Field
}

func (c *fakeControl) Check(_ context.Context, id uint64) error {
	if c.err == nil {
		c.checked = append(c.checked, id)
	}
	return c.err
}

func (c *fakeControl) Pause(_ context.Context, paused bool) error {
	if c.err == nil {
		c.paused = paused
	}
	return c.err
}

func (c *fakeControl) Resolve(_ context.Context, id uint64, f retype.Field) ([]Resolved, error) {
	c.resolved = append(c.resolved, f)
	return []Resolved{{Node: "data1:8088"}, {Node: "data2:8088", Kept: retype.Kept{Path: "/x/values.lp", Points: 3}}}, c.err
}

func (c *fakeControl) Diff(context.Context, uint64) (DryRun, error) { return c.diff, c.err }

func (c *fakeControl) Repairs(context.Context) (NodeRepairs, error) {
	return NodeRepairs{Paused: c.paused, Repairs: c.records}, c.err
}

func (c *fakeControl) Status(context.Context) (NodeStatus, error) { return c.status, c.err }

func (c *fakeControl) Repair(_ context.Context, id uint64) error {
	if c.err == nil {
		c.repairs = append(c.repairs, id)
	}
	return c.err
}

func (c *fakeControl) CancelRepair(_ context.Context, id uint64) error {
	if c.err == nil {
		c.canceled = append(c.canceled, id)
	}
	return c.err
}

// fakeCluster has three data nodes, whose shards are all on all of them.
type fakeCluster struct {
	id       uint64 // of the node under test
	mu       sync.Mutex
	state    *cluster.State
	replicas map[uint64]*fakeReplica
	controls map[uint64]Control
}

func (c *fakeCluster) NodeID() uint64 { return c.id }

func (c *fakeCluster) State() *cluster.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *fakeCluster) Replica(n cluster.Node) Replica { return c.replicas[n.ID] }
func (c *fakeCluster) Control(n cluster.Node) Control { return c.controls[n.ID] }

const week = 7 * 24 * time.Hour

// newCluster has shard 1, whose time range ended long ago, and shard 2, which is written now.
func newCluster() *fakeCluster {
	c := &fakeCluster{id: 1, replicas: make(map[uint64]*fakeReplica), controls: make(map[uint64]Control)}
	for id := uint64(1); id <= 3; id++ {
		c.replicas[id] = &fakeReplica{shards: make(map[uint64]*fakeShard)}
		c.controls[id] = &fakeControl{status: NodeStatus{Enabled: true}}
	}
	now := time.Now()
	c.setGroups(0, now.Add(-3*week), now.Add(-week/2))
	return c
}

// setGroups makes one shard, owned by all, for each start.
func (c *fakeCluster) setGroups(duration time.Duration, starts ...time.Time) {
	rp := meta.RetentionPolicyInfo{Name: "autogen", ReplicaN: 3, Duration: duration}
	owners := []meta.ShardOwner{{NodeID: 1}, {NodeID: 2}, {NodeID: 3}}
	for i, s := range starts {
		id := uint64(i + 1)
		rp.ShardGroups = append(rp.ShardGroups, meta.ShardGroupInfo{
			ID: id, StartTime: s, EndTime: s.Add(week), Shards: []meta.ShardInfo{{ID: id, Owners: owners}},
		})
	}
	st := &cluster.State{Index: 1, Data: &meta.Data{Databases: []meta.DatabaseInfo{
		{Name: "db", RetentionPolicies: []meta.RetentionPolicyInfo{rp}},
	}}}
	for id := uint64(1); id <= 3; id++ {
		st.DataNodes = append(st.DataNodes, cluster.Node{ID: id, TCPAddr: fmt.Sprintf("data%d:8088", id)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = st
}

// writeAll writes the same value to shard id of all owners.
func (c *fakeCluster) writeAll(id uint64, t int64, v any) {
	for _, r := range c.replicas {
		r.write(id, "cpu,host=a", "value", t, v)
	}
}

func mustOpen(t *testing.T, c *fakeCluster, change func(*Config, *Deps)) *Service {
	t.Helper()
	cfg := NewConfig()
	cfg.AutoRepairDiff = false // tests ask for repairs
	deps := Deps{Dir: t.TempDir(), Meta: c, Local: c.replicas[c.id], Transport: c}
	cfg.CheckInterval *= 1000 // tests check when they want to
	if change != nil {
		change(&cfg, &deps)
	}
	deps.After = func(d time.Duration) <-chan time.Time {
		if d <= 0 {
			return time.After(time.Nanosecond)
		}
		return time.After(d)
	}
	s := New(cfg, deps)
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// pass lets the time of the bubble go on, and then all goroutines until they wait.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func mustCheck(t *testing.T, s *Service) {
	t.Helper()
	if err := s.CheckNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func mustRepair(t *testing.T, s *Service, id uint64) {
	t.Helper()
	if err := s.Repair(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func mustStatus(t *testing.T, s Control) NodeStatus {
	t.Helper()
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

var errAway = errors.New("connection refused")
