package deletes

import (
	"hash/maphash"
	"sync"

	"github.com/influxdata/influxql"

	"concord/internal/rpc"
)

// turns lets deletes run in one database that have no measurement in common, and has the others wait for each other.
// The engine runs any deletes at the same time. Two that remove the same measurement end the process sometimes: one
// reads a map of the index tsi1 without its lock (logTagKey.TagValueIterator of v1.13.2) while the other one writes to
// it.
type turns struct {
	all sync.RWMutex // held for writing by a delete of several measurements, or of a pattern
	of  [64]sync.Mutex
}

var turnsSeed = maphash.MakeSeed()

// begin waits until a delete may run. measurement is empty when the delete has more than one.
func (t *turns) begin(measurement string) (end func()) {
	if measurement == "" {
		t.all.Lock()
		return t.all.Unlock
	}
	t.all.RLock()
	one := t.lockOf(measurement)
	one.Lock()
	return func() {
		one.Unlock()
		t.all.RUnlock()
	}
}

// lockOf is the lock of a measurement, which a few others share.
func (t *turns) lockOf(measurement string) *sync.Mutex {
	return &t.of[maphash.String(turnsSeed, measurement)%uint64(len(t.of))]
}

// turn waits until a delete may run.
func (d *Service) turn(r *rpc.Delete) (end func()) {
	of, _ := d.turns.LoadOrStore(r.Database, new(turns))
	return of.(*turns).begin(onlyMeasurement(r))
}

// onlyMeasurement is the measurement that a delete is about. It is empty when there may be others.
func onlyMeasurement(r *rpc.Delete) string {
	if r.Kind == rpc.Delete_DROP_MEASUREMENT {
		return r.Name
	}
	sources, _, err := parseDelete(r.Statement)
	if err != nil || len(sources) != 1 {
		return ""
	}
	if m, ok := sources[0].(*influxql.Measurement); ok && m.Regex == nil {
		return m.Name
	}
	return ""
}
