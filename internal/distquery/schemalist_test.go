package distquery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/budget"
	"concord/internal/enginetest"
	"concord/internal/rpc"
)

// entriesOf reads a list.
func entriesOf(t *testing.T, l schemaList) (all []entry, err error) {
	t.Helper()
	for e, err := range l {
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
	return all, nil
}

var tagConditions = []string{
	`_tagKey = 'host'`, `_tagKey =~ /.*/`, `_tagKey != 'host' AND _name = 'm1'`, `_tagKey = 'nothing'`, `_name =~ /m/`,
	`_name = 'none'`, `_tagKey = 'host' AND dc = 'd1'`, `(_tagKey = 'host' OR _tagKey = 'dc') AND host =~ /h 1[0-4]/`,
	`_tagKey =~ /host|dc/ AND (dc = 'd1' OR host = 'h 17') AND _name = 'm1'`, `_tagKey = 'host' AND value =~ /h 99/`,
	`_tagKey =~ /.*/ AND value != 'd1' AND dc != 'd2'`, `_tagKey = 'host' AND dc = ''`,
	`_tagKey = 'host' AND dc = host`,
	`_tagKey = 'host' AND dc = "d1"`, `_tagKey = 'host' AND v > 3`, `_tagKey = 'host' AND (v > 3 OR dc = 'd1')`,
	`_tagKey = 'host' AND dc > 'd1'`,
}

func TestListOfTagValuesIsThatOfTheEngine(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, index := range tsdb.RegisteredIndexes() {
		store, _ := storeOfMany(t, index)
		ids := []uint64{1, 2}
		for _, where := range tagConditions {
			cond := influxql.MustParseExpr(where)
			values, theirs := store.TagValues(t.Context(), nil, ids, cond)
			for _, most := range []int{0, 1, 10, 1500, 10_000} {
				var want []entry
				for _, m := range values {
					for i, kv := range m.Values {
						if most == 0 || i < most {
							want = append(want, entry{measurement: m.Measurement, KeyValue: kv})
						}
					}
				}
				got, err := entriesOf(t, listTagValues(t.Context(), store, nil, ids, cond, most))
				if fmt.Sprint(err) != fmt.Sprint(theirs) {
					t.Errorf("%s: where %s: the error is %v, that of the engine %v", index, where, err, theirs)
				}
				if err == nil && !slices.EqualFunc(got, want, func(a, b entry) bool { return a.compare(&b) == 0 }) {
					t.Errorf("%s: where %s, most %d: %d values, want %d", index, where, most, len(got), len(want))
				}
			}
		}
		if _, err := entriesOf(t, listTagValues(t.Context(), store, nil, ids, nil, 0)); err == nil {
			t.Errorf("%s: no condition is no error", index)
		}
	}
}

// Values of selected series that are too many to be held are listed part by part, and give back all memory.
func TestValuesOfSelectedSeriesAreListedInParts(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	store, _ := storeOfMany(t, tsdb.TSI1IndexName)
	cond := influxql.MustParseExpr(`_tagKey =~ /.*/ AND dc != 'd2'`)
	want, err := entriesOf(t, listTagValues(t.Context(), store, nil, []uint64{1, 2}, cond, 0))
	if err != nil || len(want) < 1000 {
		t.Fatal(len(want), err)
	}
	for _, part := range []int{1, 7, 1000} {
		ctx, share := withBudget(t)
		var most int64
		got, err := entriesOf(t, listOf(func(emit func(entry) error) error {
			c, err := newTagCondition(cond)
			if err != nil {
				return err
			}
			set, err := indexesOf(store, []uint64{1, 2})
			if err != nil {
				return err
			}
			l := &tagValueLister{tagCondition: c, ctx: ctx, set: set, part: part, emit: func(e entry) error {
				most = max(most, share.Held())
				return emit(e)
			}}
			return l.run()
		}))
		if err != nil || !slices.EqualFunc(got, want, func(a, b entry) bool { return a.compare(&b) == 0 }) {
			t.Errorf("in parts of %d: %d values, want %d; %v", part, len(got), len(want), err)
		}
		if held := share.Held(); held != 0 {
			t.Errorf("in parts of %d: %d bytes are still held", part, held)
		}
		if limit := int64(2*part+2*endedEvery) * (costOfName + 16); most > limit {
			t.Errorf("in parts of %d: %d bytes were held, want %d at most", part, most, limit)
		}
	}
}

func TestListOfMeasurementsIsThatOfTheEngine(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, index := range tsdb.RegisteredIndexes() {
		store := storeOfMeasurements(t, index, 3*windowLen)
		for _, where := range []string{
			"", `_name =~ /m1/`, `host = 'h1'`, `host != 'h1'`, `host = 'h1' AND _name != 'm1'`, `dc =~ /./`,
			`dc !~ /d1/ OR host = 'h2'`,
			`v > 3`, `host = dc`,
		} {
			var cond influxql.Expr
			if where != "" {
				cond = influxql.MustParseExpr(where)
			}
			want, theirs := measurementNames(t.Context(), store, nil, []uint64{1, 2}, cond)
			for _, most := range []int{0, 1, windowLen, 10_000} {
				got, err := entriesOf(t, listMeasurements(t.Context(), store, nil, []uint64{1, 2},
					[]influxql.Expr{cond}, most))
				if fmt.Sprint(err) != fmt.Sprint(theirs) {
					t.Errorf("%s: where %s: the error is %v, that of the engine %v", index, where, err, theirs)
				}
				some := want
				if most > 0 {
					some = want[:min(most, len(want))]
				}
				if !slices.EqualFunc(got, some, func(e entry, name []byte) bool { return e.measurement == string(name) }) {
					t.Errorf("%s: where %s, most %d: %d measurements, want %d", index, where, most, len(got), len(some))
				}
			}
		}
	}
}

// storeOfMeasurements has n measurements in two shards, most of them in both.
func storeOfMeasurements(t testing.TB, index string, n int) *tsdb.Store {
	t.Helper()
	store := enginetest.Store(t, index)
	for shard := range 2 {
		var points []models.Point
		for i := shard * n / 4; i < n*(3+shard)/4; i++ {
			tags := models.NewTags(map[string]string{"host": fmt.Sprint("h", i%3)})
			if i%2 == 0 {
				tags.SetString("dc", fmt.Sprint("d", i%5))
			}
			p, err := models.NewPoint(fmt.Sprint("m", i), tags, models.Fields{"v": 1.0}, time.Unix(0, 1))
			if err != nil {
				t.Fatal(err)
			}
			points = append(points, p)
		}
		if err := store.CreateShard(db, policy, uint64(shard+1), true); err != nil {
			t.Fatal(err)
		}
		enginetest.WritePoints(t, store, uint64(shard+1), points...)
	}
	return store
}

// streaming is a node whose lists are watched, or broken.
type streaming struct {
	rpc.QueryServer
	// sent is asked before a chunk; an error ends the list.
	sent func(ctx context.Context, chunk, size int) error
	open *atomic.Int64 // lists that are being sent
}

type watched[C any] struct {
	grpc.ServerStreamingServer[C]
	n    int
	sent func(ctx context.Context, chunk, size int) error
}

func (w *watched[C]) Send(c *C) error {
	size := proto.Size(any(c).(proto.Message))
	if size > 0 { // no sign of life
		if err := w.sent(w.Context(), w.n, size); err != nil {
			return err
		}
		w.n++
	}
	return w.ServerStreamingServer.Send(c)
}

func (s streaming) TagValues(r *rpc.SchemaRequest, out rpc.Query_TagValuesServer) error {
	s.open.Add(1)
	defer s.open.Add(-1)
	return s.QueryServer.TagValues(r, &watched[rpc.TagValuesChunk]{out, 0, s.sent})
}

func (s streaming) Measurements(r *rpc.SchemaRequest, out rpc.Query_MeasurementsServer) error {
	s.open.Add(1)
	defer s.open.Add(-1)
	return s.QueryServer.Measurements(r, &watched[rpc.MeasurementsChunk]{out, 0, s.sent})
}

// hosts are lines of n series in each of some measurements, in one shard group.
func hosts(n, measurements int) string {
	var b strings.Builder
	for i := range n {
		for m := range measurements {
			fmt.Fprintf(&b, "m%d,host=host\\ %06d,dc=d%d v=1 1\n", m, i, i%3)
		}
	}
	return b.String()
}

var listStatements = []string{
	`SHOW TAG VALUES WITH KEY = host`, `SHOW TAG VALUES WITH KEY = host LIMIT 3`,
	`SHOW TAG VALUES WITH KEY = host LIMIT 3 OFFSET 2`,
	`SHOW TAG VALUES FROM m1 WITH KEY IN (host, dc) WHERE dc = 'd1' OFFSET 4`,
	`SHOW TAG VALUES WITH KEY = host OFFSET 100000`,
	`SHOW TAG VALUES WITH KEY = nothing`, `SHOW TAG VALUES WITH KEY = host WHERE host = dc`,
	`SHOW TAG VALUES WITH KEY = host WHERE time > 20d`, `SHOW TAG VALUES ON nowhere WITH KEY = host`,
	`SHOW TAG VALUES WITH KEY = host LIMIT 9223372036854775807 OFFSET 9223372036854775807`,
	`SHOW MEASUREMENTS`, `SHOW MEASUREMENTS LIMIT 2`, `SHOW MEASUREMENTS LIMIT 2 OFFSET 2`,
	`SHOW MEASUREMENTS OFFSET 100`,
	`SHOW MEASUREMENTS ON db0.rp0`, `SHOW MEASUREMENTS ON db0.rp0 LIMIT 1 OFFSET 1`, `SHOW MEASUREMENTS ON *.*`,
	`SHOW MEASUREMENTS ON db0.* LIMIT 2`, `SHOW MEASUREMENTS ON db0.none`, `SHOW MEASUREMENTS ON none`,
	`SHOW MEASUREMENTS WHERE host != 'host 000001'`, `SHOW MEASUREMENTS WHERE host != 'host 000001' LIMIT 1`,
	`SHOW MEASUREMENTS WHERE dc = 'd1' AND host = 'none'`, `SHOW MEASUREMENTS WITH MEASUREMENT =~ /m[12]/ LIMIT 1`,
	`SHOW MEASUREMENTS WHERE v > 3`,
}

// formerLists is a node of the build before lists were streams.
type formerLists struct{ *Server }

func (f formerLists) Measurements(*rpc.SchemaRequest, rpc.Query_MeasurementsServer) error {
	return status.Error(codes.Unimplemented, "unknown method Measurements")
}

func (f formerLists) TagValues(r *rpc.SchemaRequest, out rpc.Query_TagValuesServer) error {
	cond, err := condition(r.Condition)
	if err != nil {
		return err
	}
	ids, not := f.readable(out.Context(), r.ShardIds, r.Incomplete)
	if err := out.Send(&rpc.TagValuesChunk{Missing: not.missing, Unfit: not.unfit}); err != nil {
		return err
	}
	list, err := f.store.TagValues(out.Context(), nil, ids, cond)
	if err != nil {
		return failure(err)
	}
	for _, m := range list {
		v := &rpc.TagValuesChunk_Values{Measurement: []byte(m.Measurement)}
		for _, kv := range m.Values {
			v.Values = append(v.Values, &rpc.TagValuesChunk_KeyValue{Key: []byte(kv.Key), Value: []byte(kv.Value)})
		}
		if err := out.Send(&rpc.TagValuesChunk{Measurements: []*rpc.TagValuesChunk_Values{v}}); err != nil {
			return err
		}
	}
	return nil
}

func TestListsThatStreamAnswerAsASingleNodeDoes(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(uint64, *Server) rpc.QueryServer{
		"all nodes stream": nil,
		"some nodes are of the build before": func(id uint64, s *Server) rpc.QueryServer {
			if id == 2 {
				return s
			}
			return formerLists{s}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTestCluster(t, testOptions{nodes: 3, replicas: 1, wrap: wrap})
			compare := func(statements ...string) {
				for _, of := range c.nodes {
					n, b := c.executing(t, of, newPool(t), 1<<30, &budget.Requests{})
					for _, text := range statements {
						for _, opt := range []query.ExecutionOptions{
							{CoarseAuthorizer: query.OpenCoarseAuthorizer},
							{CoarseAuthorizer: query.OpenCoarseAuthorizer, ChunkSize: 7},
						} {
							if got, want := n.run(t, text, opt), c.plain.run(t, text, opt); got != want {
								t.Errorf("%s\nnode %d answers\n%.800s\nwant\n%.800s", text, n.id, got, want)
							}
						}
					}
					if used := b.Used(); used != 0 {
						t.Errorf("%d bytes are left in the budget", used)
					}
				}
			}
			compare(`SHOW MEASUREMENTS`, `SHOW TAG VALUES WITH KEY = host`) // no shard exists
			c.write(t, hosts(40, 4))
			c.write(t, lines(5))
			compare(listStatements...)
		})
	}
}

// results runs a statement and passes its results to see, which may end the statement.
func (n *testNode) results(t testing.TB, text string, opt query.ExecutionOptions, see func(*query.Result)) {
	t.Helper()
	q, err := influxql.ParseQuery(text)
	if err != nil {
		t.Fatal(err)
	}
	opt.Database = db
	for r := range n.exec.ExecuteQuery(q, opt, nil) {
		see(r)
	}
}

// Chunks are at least as large as the engine's for other statements, and all but the last say that more follows.
func TestManyValuesLeaveInChunks(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	c := newTestCluster(t, testOptions{nodes: 2, replicas: 1})
	const n = 25_000
	c.write(t, hosts(n, 1))
	node, _ := c.limited(t, newPool(t), 1<<30, &budget.Requests{})
	for chunk, want := range map[int][]int{0: {n}, 7: {10_000, 10_000, 5_000}, 12_500: {12_500, 12_500}} {
		var got []int
		var values []string
		node.results(t, `SHOW TAG VALUES WITH KEY = host`, query.ExecutionOptions{ChunkSize: chunk},
			func(r *query.Result) {
				if r.Err != nil || len(r.Series) != 1 {
					t.Fatal(r.Err, len(r.Series))
				}
				row := r.Series[0]
				got = append(got, len(row.Values))
				for _, v := range row.Values {
					values = append(values, v[1].(string))
				}
				if last := len(values) == n; row.Partial == last || r.Partial == last {
					t.Errorf("after %d values the answer is partial: %v, %v", len(values), row.Partial, r.Partial)
				}
			})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("chunks of %d: %s", chunk, diff)
		}
		if !slices.IsSorted(values) || len(slices.Compact(values)) != n {
			t.Errorf("chunks of %d: the values are not those of all hosts", chunk)
		}
	}
}

// The first rows leave while an owner has not sent the last ones, and all ends when the client leaves.
func TestFirstRowsLeaveBeforeTheLastAreRead(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	var open atomic.Int64
	c := newTestCluster(t, testOptions{nodes: 1, idle: 1, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return streaming{s, func(ctx context.Context, chunk, _ int) error {
			if chunk < 250 { // of some sixty values
				return nil
			}
			<-ctx.Done() // it never sends the rest
			return ctx.Err()
		}, &open}
	}})
	c.write(t, hosts(30_000, 1))
	n, _ := c.executing(t, c.nodes[1], newPool(t), 1<<30, &budget.Requests{})
	abort := make(chan struct{})
	leave := sync.OnceFunc(func() { close(abort) })
	rows := 0
	n.results(t, `SHOW TAG VALUES WITH KEY = host`, query.ExecutionOptions{ChunkSize: 1, AbortCh: abort},
		func(r *query.Result) {
			for _, row := range r.Series {
				rows += len(row.Values)
			}
			if rows == 10_000 {
				leave()
			}
		})
	if rows != 10_000 {
		t.Errorf("%d rows came before the last was read, want 10000", rows)
	}
	eventually(t, "the list of the owner ends", func() bool { return open.Load() == 0 })
	eventually(t, "no query runs", func() bool { return len(n.exec.TaskManager.Queries()) == 0 })
}

// With LIMIT, owners neither list nor send what is not asked for.
func TestLimitEndsTheListsOfOwners(t *testing.T) {
	t.Parallel()
	var bytes, open atomic.Int64
	// An owner waits before its third chunk until the list is cancelled. A list that nobody cancels is sent whole.
	sent := func(ctx context.Context, chunk, size int) error {
		if chunk == 2 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Second):
			}
		}
		bytes.Add(int64(size))
		return nil
	}
	c := newTestCluster(t, testOptions{nodes: 2, idle: 1, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return streaming{s, sent, &open}
	}})
	c.write(t, hosts(5000, 2))
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "x%06d,host=a v=1 1\n", i)
	}
	c.write(t, many.String())
	n, _ := c.executing(t, c.nodes[2], newPool(t), 1<<30, &budget.Requests{})
	for text, rows := range map[string]int{
		`SHOW TAG VALUES FROM m0, m1 WITH KEY = host LIMIT 10`:                  20,
		`SHOW TAG VALUES FROM m0, m1 WITH KEY = host WHERE dc != 'd1' LIMIT 10`: 20,
		`SHOW TAG VALUES FROM m0, m1 WITH KEY = host LIMIT 5 OFFSET 5`:          10,
		`SHOW MEASUREMENTS LIMIT 10`:                                            10,
		`SHOW MEASUREMENTS WITH MEASUREMENT =~ /^[mx]/ LIMIT 10`:                10,
		`SHOW MEASUREMENTS WHERE host != 'b' LIMIT 10`:                          10,
	} {
		bytes.Store(0)
		got := 0
		n.results(t, text, query.ExecutionOptions{}, func(r *query.Result) {
			for _, row := range r.Series {
				got += len(row.Values)
			}
		})
		eventually(t, "the lists end", func() bool { return open.Load() == 0 })
		if got != rows {
			t.Errorf("%s has %d rows, want %d", text, got, rows)
		}
		// A condition that is about all nodes cannot be answered by one: owners send on until they hear of the end.
		limit := int64(4 << 10)
		if strings.Contains(text, "!= 'b'") {
			limit = 64 << 10
		}
		if sent := bytes.Load(); sent > limit {
			t.Errorf("%s: the owners sent %d bytes, want %d at most", text, sent, limit)
		}
	}
}

// Another owner goes on where one failed in the middle of a list.
func TestListGoesOnWithAnotherOwner(t *testing.T) {
	t.Parallel()
	var broken, open atomic.Int64
	c := newTestCluster(t, testOptions{nodes: 2, idle: 1, replicas: 2, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return streaming{s, func(_ context.Context, chunk, _ int) error {
			if chunk == 2 && broken.CompareAndSwap(0, 1) {
				return status.Error(codes.Unavailable, "the node stops")
			}
			return nil
		}, &open}
	}})
	c.write(t, hosts(500, 3))
	var many strings.Builder
	for i := range 500 {
		fmt.Fprintf(&many, "x%06d,host=h%d v=1 1\n", i, i%2)
	}
	c.write(t, many.String())
	n, _ := c.executing(t, c.nodes[2], newPool(t), 1<<30, &budget.Requests{})
	for _, text := range []string{
		`SHOW TAG VALUES WITH KEY = host`, `SHOW TAG VALUES WITH KEY = host LIMIT 400`, `SHOW MEASUREMENTS`,
		`SHOW MEASUREMENTS WHERE host != 'h0'`,
	} {
		broken.Store(0)
		opt := query.ExecutionOptions{}
		if got, want := n.run(t, text, opt), c.plain.run(t, text, opt); got != want {
			t.Errorf("%s\nanswers\n%.500s\nwant\n%.500s", text, got, want)
		}
		if broken.Load() != 1 {
			t.Errorf("%s: no list broke off", text)
		}
	}
}

// disordered is a node whose lists are not ascending.
type disordered struct{ rpc.QueryServer }

func (d disordered) Measurements(_ *rpc.SchemaRequest, out rpc.Query_MeasurementsServer) error {
	return errors.Join(out.Send(&rpc.MeasurementsChunk{}),
		out.Send(&rpc.MeasurementsChunk{Names: [][]byte{[]byte("b"), []byte("a")}}))
}

func TestListThatIsNotInOrderIsAClearError(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 1, idle: 1, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return disordered{s}
	}})
	if got := c.nodes[1].run(t, `SHOW MEASUREMENTS`, query.ExecutionOptions{}); !strings.Contains(got, "not in order") {
		t.Errorf("the answer is %s", got)
	}
}

// A part of a list from outside is refused, or can be asked by question.
func FuzzMeasurements(f *testing.F) {
	for _, c := range []*rpc.MeasurementsChunk{
		{}, {Names: [][]byte{[]byte("a")}}, {Names: [][]byte{[]byte("a")},
			Selected: []*rpc.Selected{{By: []uint32{0, 1}}}},
		{Names: [][]byte{[]byte("a")}, Selected: []*rpc.Selected{{By: []uint32{math.MaxUint32}}}},
		{Names: [][]byte{nil, nil}, Selected: []*rpc.Selected{{}, {By: []uint32{1, 1}}}},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, `host != 'a' AND dc !~ /b/`)
		f.Add(b, `host = 'a'`)
	}
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		var c rpc.MeasurementsChunk
		cond, err := decodeCondition([]byte(text))
		if err != nil || proto.Unmarshal(b, &c) != nil {
			return
		}
		plan, result, err := newNamesPlan(cond)
		if err != nil || len(plan.questions) == 0 {
			return
		}
		part, err := measurementsOf(&c, len(plan.questions))
		if err != nil {
			return
		}
		result(plan.byQuestion(part))
	})
}

// Lists that end early leave nothing behind, on which side they ever end.
func TestListsEndWithTheirReader(t *testing.T) {
	t.Parallel()
	store, _ := storeOfMany(t, tsdb.TSI1IndexName)
	ids := []uint64{1, 2}
	ctx, cancel := context.WithCancel(t.Context())
	for name, l := range map[string]schemaList{
		"tag values": listTagValues(ctx, store, nil, ids, influxql.MustParseExpr(`_tagKey = 'host'`), 0),
		"of some":    listTagValues(ctx, store, nil, ids, influxql.MustParseExpr(`_tagKey = 'host' AND dc = 'd1'`), 0),
		"merged": mergeLists([]schemaList{
			listMeasurements(ctx, store, nil, ids, []influxql.Expr{nil}, 0),
			listTagValues(ctx, store, nil, ids, influxql.MustParseExpr(`_tagKey = 'host'`), 0),
		}),
	} {
		n := 0
		for _, err := range l {
			if n++; err != nil || n == 3 {
				break
			}
		}
		if n == 0 {
			t.Errorf("%s: the list is empty", name)
		}
	}
	cancel()
	l := listTagValues(ctx, store, nil, ids, influxql.MustParseExpr(`_tagKey = 'host' AND dc = 'd1'`), 0)
	if all, err := entriesOf(t, l); !errors.Is(err, context.Canceled) || len(all) > 0 {
		t.Errorf("a statement that has ended lists %d values: %v", len(all), err)
	}
	// Nothing holds the files: the store closes.
	if err := store.Close(); err != nil {
		t.Error(err)
	}
}
