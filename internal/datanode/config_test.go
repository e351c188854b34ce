package datanode

import (
	"runtime"
	"testing"

	"github.com/influxdata/influxdb/tsdb"
)

// Deletes run on four shards for each processor, unless the configuration says how many. They run on one at a
// time when all shards share an index in memory.
func TestDeletesRunOnSeveralShards(t *testing.T) {
	t.Parallel()
	for setting, want := range map[int]int{0: 4 * runtime.GOMAXPROCS(0), 1: 1, 7: 7, -1: 0} {
		c := NewConfig()
		c.Data.Index = tsdb.TSI1IndexName
		if c.Data.MaxConcurrentDeletes != 0 {
			t.Errorf("the default is %d", c.Data.MaxConcurrentDeletes)
		}
		c.Data.MaxConcurrentDeletes = setting
		if err := c.Validate(); (err == nil) != (want > 0) {
			t.Errorf("%d: %v", setting, err)
		} else if got := c.engine().MaxConcurrentDeletes; err == nil && got != want {
			t.Errorf("%d: the engine gets %d, want %d", setting, got, want)
		}
		c.Data.Index = tsdb.InmemIndexName
		if got := c.engine().MaxConcurrentDeletes; got != 1 {
			t.Errorf("%d: with %s the engine gets %d", setting, c.Data.Index, got)
		}
	}
}
