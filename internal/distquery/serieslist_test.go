package distquery

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/budget"
	"concord/internal/enginetest"
	"concord/internal/rpc"
)

// storeOfMany has series of two measurements in two shards, some of them in both.
func storeOfMany(t *testing.T, index string) (*tsdb.Store, tsdb.Shards) {
	t.Helper()
	store := enginetest.Store(t, index)
	for shard := range uint64(2) {
		if err := store.CreateShard(db, policy, shard+1, true); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for i := range 2000 {
			k := int(shard)*1000 + i*7919%2000
			fmt.Fprintf(&b, "m%d,host=h\\ %d,dc=d%d v=1 1\n", k%2, k, k%3)
		}
		points, err := models.ParsePointsString(b.String())
		if err != nil {
			t.Fatal(err)
		}
		enginetest.WritePoints(t, store, shard+1, points...)
	}
	return store, store.Shards([]uint64{1, 2})
}

// keysOf reads a list of series, as far as most; 0 is all.
func keysOf(t *testing.T, itr query.Iterator, most int) (keys []string) {
	t.Helper()
	defer itr.Close()
	for most == 0 || len(keys) < most {
		p, err := itr.(query.FloatIterator).Next()
		if err != nil {
			t.Fatal(err)
		}
		if p == nil {
			break
		}
		keys = append(keys, p.Aux[0].(string))
	}
	return keys
}

func TestListOfSeriesIsThatOfTheEngine(t *testing.T) {
	t.Parallel()
	notWithRace(t)
	for _, index := range tsdb.RegisteredIndexes() {
		_, shards := storeOfMany(t, index)
		for _, where := range []string{"", "dc = 'd1'", "_name = 'm1'", "host =~ /h 1.*/ OR dc != 'd2'", "dc = 'none'"} {
			opt := query.IteratorOptions{Aux: []influxql.VarRef{{Val: "key"}}, Authorizer: query.OpenAuthorizer, Ascending: true}
			if where != "" {
				opt.Condition = influxql.MustParseExpr(where)
			}
			theirs, err := shards.CreateIterator(t.Context(), &influxql.Measurement{SystemIterator: "_series"}, opt)
			if err != nil {
				t.Fatal(err)
			}
			want := keysOf(t, theirs, 0)
			for _, limit := range []int{0, 1, 10, 1500, 10_000} {
				opt.Limit, opt.Offset = limit, limit/10
				most := opt.Limit + opt.Offset
				ctx, share := withBudget(t)
				ours, err := openSeriesList(ctx, shards, opt)
				if err != nil {
					t.Fatal(err)
				}
				got, want := keysOf(t, ours, most), want
				if most > 0 {
					want = want[:min(len(want), most)]
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s: where %q, limit %d: %d series, want these %d:\n%.300q\n%.300q",
						index, where, limit, len(got), len(want), got, want)
				}
				if held := share.Held(); held != 0 {
					t.Errorf("%s: where %q, limit %d: %d bytes are still held", index, where, limit, held)
				}
			}
		}
		opt := query.IteratorOptions{Condition: influxql.MustParseExpr("v > 1")}
		if _, err := openSeriesList(t.Context(), shards, opt); err == nil {
			t.Errorf("%s: a condition on a field is no error", index)
		}
	}
}

// A LIMIT beyond all numbers of series is none: the list would be sorted after each series, or be empty.
func TestHugeLimitsOfSeriesAreNone(t *testing.T) {
	t.Parallel()
	_, shards := storeOfMany(t, tsdb.TSI1IndexName)
	for _, opt := range []query.IteratorOptions{
		{Limit: math.MaxInt}, {Limit: math.MaxInt, Offset: math.MaxInt}, {Limit: math.MaxInt/2 + 1}, {Limit: 1, Offset: math.MaxInt},
	} {
		opt.Aux, opt.Ascending = []influxql.VarRef{{Val: "key"}}, true
		list, err := openSeriesList(t.Context(), shards, opt)
		if err != nil {
			t.Fatal(err)
		}
		if most := list.(*seriesList).most; most != 0 {
			t.Errorf("limit %d, offset %d: %d series are kept", opt.Limit, opt.Offset, most)
		}
		if got := len(keysOf(t, list, 0)); got != 3000 {
			t.Errorf("limit %d, offset %d: the list has %d series, want all 3000", opt.Limit, opt.Offset, got)
		}
	}
}

// withBudget is a context with a share of memory.
func withBudget(t *testing.T) (context.Context, *budget.Share) {
	share := budget.New(1 << 30).Open()
	t.Cleanup(share.Close)
	return budget.With(t.Context(), share), share
}

func TestListOfSeriesEndsWithItsStatement(t *testing.T) {
	t.Parallel()
	_, shards := storeOfMany(t, tsdb.TSI1IndexName)
	for _, interrupted := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		interrupt := make(chan struct{})
		opt := query.IteratorOptions{Aux: []influxql.VarRef{{Val: "key"}}, InterruptCh: interrupt}
		itr, err := openSeriesList(ctx, shards, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer itr.Close()
		defer cancel()
		want := context.Canceled
		if interrupted {
			want = query.ErrQueryInterrupted
			close(interrupt)
		} else {
			cancel()
		}
		if p, err := itr.(query.FloatIterator).Next(); p != nil || !errors.Is(err, want) {
			t.Errorf("interrupted %v: got %v, %v", interrupted, p, err)
		}
		// Also what is being sorted.
		l := itr.(*seriesList)
		for i := range 10 * endedEvery {
			l.keys = append(l.keys, tsdb.AppendSeriesKey(nil, fmt.Append(nil, "m", -i*7919%5000), nil))
		}
		before := slices.Clone(l.keys)
		l.sort()
		if slices.IsSortedFunc(l.keys, tsdb.CompareSeriesKeys) || len(l.keys) != len(before) {
			t.Error("an ended statement sorts on")
		}
	}
}

// counting is a node that is asked for nothing but the count of its series.
type counting struct {
	*Server
	t *testing.T
}

func (c counting) SeriesSketch(ctx context.Context, r *rpc.SchemaRequest) (*rpc.SeriesSketchResponse, error) {
	if !r.Count {
		c.t.Error("a node is asked for a sketch")
	}
	return c.Server.SeriesSketch(ctx, r)
}

func TestSeriesOfOneNodeAreCountedWithoutASketch(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t, testOptions{nodes: 3, replicas: 1, wrap: func(_ uint64, s *Server) rpc.QueryServer {
		return counting{s, t}
	}})
	c.compare(t, "SHOW SERIES CARDINALITY")
	c.write(t, "cpu,host=a v=1 1\n")
	c.compare(t, "SHOW SERIES CARDINALITY")
}
