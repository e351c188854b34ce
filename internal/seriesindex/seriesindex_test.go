package seriesindex_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/enginetest"
	"concord/internal/replication/replicationtest"
	"concord/internal/seriesindex"
)

const series = 5

// store returns a store with one shard that has a point of each series.
func store(t *testing.T, index string) (*tsdb.Store, *tsdb.Shard) {
	t.Helper()
	s := enginetest.Store(t, index)
	if err := s.CreateShard(replicationtest.DB, replicationtest.Policy, replicationtest.Shard, true); err != nil {
		t.Fatal(err)
	}
	for n := range series {
		write(t, s, n)
	}
	return s, s.Shard(replicationtest.Shard)
}

func write(t *testing.T, s *tsdb.Store, n int) {
	t.Helper()
	enginetest.Write(t, s, replicationtest.Shard, fmt.Sprintf("m,s=%d v=1 10", n))
}

func drop(t *testing.T, s *tsdb.Store, tag string) {
	t.Helper()
	err := s.DeleteSeries(replicationtest.DB, []influxql.Source{&influxql.Measurement{Name: "m"}},
		influxql.MustParseExpr(fmt.Sprintf("s = '%s'", tag)))
	if err != nil {
		t.Fatal(err)
	}
}

// ids are the series that an iterator still has, and closes it.
func ids(t *testing.T, itr tsdb.SeriesIDIterator) (out []uint64) {
	t.Helper()
	defer itr.Close()
	for {
		e, err := itr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.SeriesID == 0 {
			return out
		}
		out = append(out, e.SeriesID)
	}
}

// A list that is being read has each series that is not dropped meanwhile, once.
func TestListDoesNotChangeUnderItsReader(t *testing.T) {
	for _, index := range []string{tsdb.InmemIndexName, tsdb.TSI1IndexName} {
		t.Run(index, func(t *testing.T) {
			t.Parallel()
			s, shard := store(t, index)
			list := func() tsdb.SeriesIDIterator {
				t.Helper()
				set, err := seriesindex.SetOf(shard)
				if err != nil {
					t.Fatal(err)
				}
				itr, err := set.MeasurementSeriesByExprIterator([]byte("m"), nil)
				if err != nil {
					t.Fatal(err)
				}
				return itr
			}
			all := ids(t, list())
			if len(all) != series {
				t.Fatalf("the shard has series %d, want %d of them", all, series)
			}
			itr := list()
			first, err := itr.Next()
			if err != nil {
				t.Fatal(err)
			}
			file, err := shard.SeriesFile()
			if err != nil {
				t.Fatal(err)
			}
			_, tags := file.Series(first.SeriesID)
			drop(t, s, tags.GetString("s"))
			list().Close() // a reader for which the engine sorts its list again
			read := append([]uint64{first.SeriesID}, ids(t, itr)...)
			live := ids(t, list())
			if len(live) != series-1 {
				t.Errorf("after one was dropped, the shard has series %d", live)
			}
			if !slices.Equal(read[len(read)-len(live):], live) || len(read) > series {
				t.Errorf("a reader beside a delete saw %d, want %d once each", read, live)
			}
		})
	}
}

// Lists are read while series are dropped and written: for the race detector.
func TestListsBesideDeletes(t *testing.T) {
	t.Parallel()
	s, shard := store(t, tsdb.InmemIndexName)
	index, err := seriesindex.Of(shard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 100 {
			drop(t, s, fmt.Sprint(n%2))
			write(t, s, n%2)
		}
	}()
	for {
		itr, err := index.MeasurementSeriesIDIterator([]byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		if got := ids(t, itr); len(got) < series-1 || len(slices.Compact(got)) != len(got) {
			t.Fatalf("a list beside deletes has series %d", got)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
