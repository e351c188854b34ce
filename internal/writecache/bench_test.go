package writecache

import (
	"fmt"
	"testing"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
)

// BenchmarkWriteBesideADelete writes a point to each of 1000 series, of which the cache has many values. It does so
// while no delete runs, and while one of the same series does.
func BenchmarkWriteBesideADelete(b *testing.B) {
	const series = 1000
	for _, values := range []int{100, 1000} {
		for _, beside := range []bool{false, true} {
			b.Run(fmt.Sprintf("values=%d/delete=%v", values, beside), func(b *testing.B) {
				s := mustOpen(b)
				at := int64(0)
				write := func() {
					batch := make([]models.Point, series)
					for i := range batch {
						batch[i] = point(i, at)
					}
					at++
					if err := s.WriteToShard(tsdb.WriteContext{}, 1, batch); err != nil {
						b.Fatal(err)
					}
				}
				for range values {
					write()
				}
				if beside {
					defer BeforeDelete(s.Store, "db", ofAll)()
				}
				for b.Loop() {
					write()
				}
			})
		}
	}
}
