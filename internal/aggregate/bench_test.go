package aggregate_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/aggregate"
	"concord/internal/enginetest"
)

const (
	benchSeries = 1000
	benchPoints = 1500 // of each series, ten seconds apart
)

// newBenchShard is one flushed shard of 1.5 million floating-point numbers in 1,000 series.
func newBenchShard(b *testing.B) *tsdb.Shard {
	b.Helper()
	store := enginetest.Store(b, tsdb.InmemIndexName)
	shard := enginetest.Shard(b, store, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	for s := range benchSeries {
		tags := models.NewTags(map[string]string{"host": fmt.Sprintf("h%04d", s), "region": fmt.Sprintf("r%d", s%10)})
		v := 50.0
		points := make([]models.Point, 0, benchPoints)
		for i := range benchPoints {
			v += float64(rng.IntN(21)-10) / 10
			points = append(points, models.MustNewPoint("cpu", tags, models.Fields{"v": v}, time.Unix(int64(10*i), 0)))
		}
		enginetest.WritePoints(b, store, 1, points...)
	}
	enginetest.Flush(b, shard)
	return shard
}

// BenchmarkPaths compares the engine's iterators with arrays, on the same shard.
func BenchmarkPaths(b *testing.B) {
	sh := newBenchShard(b)
	for _, q := range []struct {
		call   string
		every  time.Duration
		groups []string
	}{
		{"mean", 0, nil}, {"count", 0, nil}, {"max", 0, nil}, {"last", 0, []string{"host"}},
		{"mean", time.Hour, []string{"region"}}, {"mean", time.Minute, []string{"region"}},
		{"max", time.Hour, []string{"host"}},
	} {
		v := &influxql.VarRef{Val: "v", Type: influxql.Float}
		opt := query.IteratorOptions{
			Expr:     &influxql.Call{Name: q.call, Args: []influxql.Expr{v}},
			Interval: query.Interval{Duration: q.every}, Dimensions: q.groups, GroupBy: map[string]struct{}{},
			StartTime: 0, EndTime: int64(benchPoints * 10 * time.Second), Ascending: true, Ordered: true,
		}
		for _, g := range q.groups {
			opt.GroupBy[g] = struct{}{}
		}
		mm := &influxql.Measurement{Database: "db", RetentionPolicy: "rp", Name: "cpu"}
		for _, path := range []string{"engine", "arrays"} {
			b.Run(fmt.Sprintf("%s/%v/%v/%s", q.call, q.every, q.groups, path), func(b *testing.B) {
				for b.Loop() {
					var itr query.Iterator
					var err error
					if path == "engine" {
						itr, err = sh.CreateIterator(context.Background(), mm, opt)
					} else {
						var s *aggregate.Scan
						s, _, err = aggregate.Open(context.Background(), sh, nil, mm, opt, opt.Expr)
						if err == nil {
							itr = s.Iterator(0)
						}
					}
					if err != nil {
						b.Fatal(err)
					}
					drain(b, itr)
				}
				b.ReportMetric(float64(benchSeries*benchPoints)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpoints/s")
			})
		}
	}
}

func drain(b *testing.B, itr query.Iterator) {
	defer itr.Close()
	for {
		var end bool
		var err error
		switch itr := itr.(type) {
		case query.FloatIterator:
			p, e := itr.Next()
			end, err = p == nil, e
		case query.IntegerIterator:
			p, e := itr.Next()
			end, err = p == nil, e
		}
		if err != nil {
			b.Fatal(err)
		}
		if end {
			return
		}
	}
}
