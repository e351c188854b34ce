package datanode

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"concord/internal/budget"
)

// machineMemory is what the control group lets this process have, or what the machine has.
var machineMemory = memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)

// limitMemory makes the garbage collector work harder before the machine has no memory left, unless GOMEMLIMIT says
// when. It is the last resort: the budget of queries bounds what they hold, and nothing bounds their garbage.
func limitMemory() error {
	_, err := memlimit.SetGoMemLimitWithOpts(memlimit.WithRatio(0.9), memlimit.WithProvider(machineMemory))
	return err
}

// queryBudget is the memory for queries, nil for no limit.
func (c *Config) queryBudget() (*budget.Budget, error) {
	switch most := int64(c.Cluster.MaxQueryMemory); {
	case most > 0:
		return budget.New(most), nil
	case most < 0:
		return nil, nil
	}
	memory := uint64(debug.SetMemoryLimit(-1))
	if memory == math.MaxInt64 { // no limit
		var err error
		if memory, err = machineMemory(); err != nil {
			return nil, fmt.Errorf("find out how much memory there is, set [cluster] max-query-memory: %w", err)
		}
	}
	return budget.New(int64(memory / 4)), nil
}

// takenAtMost is how many bytes of memory one processor takes in a second at most. It would have to write to all of it.
const takenAtMost = 1 << 30

// memoryLasts is for how long the memory that is free now lasts, whatever this process does meanwhile. When it ends
// earlier, it has not run out of memory.
func memoryLasts() time.Duration {
	return time.Duration(float64(freeMemory()) / float64(takenAtMost*runtime.GOMAXPROCS(0)) * float64(time.Second))
}
