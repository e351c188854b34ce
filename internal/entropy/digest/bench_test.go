package digest_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"

	"concord/internal/enginetest"
	"concord/internal/entropy/digest"
)

// BenchmarkDigest digests a compacted shard, beside the bare decode of the same
// blocks: the same cursors, and nothing done with the points.
func BenchmarkDigest(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, kind := range []struct {
		name  string
		value func(i int) any
	}{
		// a thermometer
		{"float", func(i int) any { return math.Round(100*(20+8*math.Sin(float64(i)/700)+rnd.Float64())) / 100 }},
		{"integer", func(i int) any { return int64(i % 1000) }},
		{"unsigned", func(i int) any { return uint64(i % 1000) }},
		{"boolean", func(i int) any { return i%3 == 0 }},
		{"string", func(i int) any { return fmt.Sprint("state ", i%10) }},
	} {
		s := openStore(b)
		if err := s.CreateShard("db", "rp", 1, true); err != nil {
			b.Fatal(err)
		}
		const series, perSeries = 100, 10_000
		for h := range series {
			points := make([]models.Point, perSeries)
			tags := models.NewTags(map[string]string{"host": fmt.Sprint(h)})
			for i := range points {
				points[i] = models.MustNewPoint("cpu", tags, models.Fields{"v": kind.value(i)},
					time.Unix(0, int64(i)*6))
			}
			enginetest.WritePoints(b, s, 1, points...)
		}
		enginetest.Flush(b, s.Shard(1))
		rate := func(b *testing.B) {
			b.ReportMetric(float64(b.N)*series*perSeries/b.Elapsed().Seconds()/1e6, "Mpoints/s")
		}
		b.Run(kind.name+"/decode", func(b *testing.B) {
			for b.Loop() {
				if n := decode(b, s.Shard(1)); n != series*perSeries {
					b.Fatal(n)
				}
			}
			rate(b)
		})
		b.Run(kind.name+"/digest", func(b *testing.B) {
			for b.Loop() {
				if root, err := digest.Root(context.Background(), s.Shard(1), key, shardRange, math.MaxInt64); err != nil ||
					root.Count != series*perSeries {
					b.Fatal(root, err)
				}
			}
			rate(b)
		})
	}
}

// decode reads a shard as a digest does, and counts its points.
func decode(b *testing.B, sh *tsdb.Shard) (n int) {
	cursors, err := sh.CreateCursorIterator(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	err = digest.EachSeries(context.Background(), sh, func(k []byte) error {
		name, tags := models.ParseKeyBytes(k)
		cur, err := cursors.Next(context.Background(), &tsdb.CursorRequest{
			Name: name, Tags: tags, Field: "v", Ascending: true, StartTime: models.MinNanoTime,
			EndTime: models.MaxNanoTime,
		})
		if err != nil {
			b.Fatal(err)
		}
		switch c := cur.(type) {
		case tsdb.FloatArrayCursor:
			for a := c.Next(); a.Len() > 0; a = c.Next() {
				n += a.Len()
			}
		case tsdb.IntegerArrayCursor:
			for a := c.Next(); a.Len() > 0; a = c.Next() {
				n += a.Len()
			}
		case tsdb.UnsignedArrayCursor:
			for a := c.Next(); a.Len() > 0; a = c.Next() {
				n += a.Len()
			}
		case tsdb.BooleanArrayCursor:
			for a := c.Next(); a.Len() > 0; a = c.Next() {
				n += a.Len()
			}
		case tsdb.StringArrayCursor:
			for a := c.Next(); a.Len() > 0; a = c.Next() {
				n += a.Len()
			}
		}
		cur.Close()
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}
