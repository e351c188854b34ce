package entropy

import (
	"strconv"
	"time"

	"concord/internal/entropy/patch"
)

// NodeRepairs are the repairs of one node.
type NodeRepairs struct {
	Paused  bool
	MaxRate uint64 // bytes a second that the node reads and sends; 0 for no limit
	Repairs []RepairRecord
}

// RepairState is where a repair is.
type RepairState string

// The states of repairs.
const (
	Waiting RepairState = "queued"
	Running RepairState = "running"
	Done    RepairState = "done"
	Failed  RepairState = "failed"   // and waits to be tried again
	Stopped RepairState = "stopped"  // canceled, paused, or the node went down
	Refused RepairState = "conflict" // all is repaired but for points that owners refuse
)

// RepairRecord is one repair of a shard. Times are zero for not yet. It has many fields because it is a flat record: it
// is sent and shown as it is.
type RepairRecord struct {
	ShardID   uint64
	State     RepairState
	Owners    []string // TCP addresses of those that took part
	Added     time.Time
	Started   time.Time
	Ended     time.Time
	Attempts  int        // that failed before
	Rounds    int        // comparisons
	Total     int        // differing series-fields that the last comparison found
	Fixed     int        // of Total
	Copied    int64      // bytes of the files that a missing copy is made of, while they come
	Copying   int64      // of so many
	Points    int        // applied
	Conflicts int        // points with different values, decided
	Decided   []Decision // the first of them
	Refused   int        // series-fields of which an owner refuses points that others have
	Refusals  []Refusal  // the first of them
	BytesRx   int64
	BytesTx   int64
	Rate      float64 // bytes per second, both ways
	ETA       time.Duration
	Error     string
}

// ID names a repair in logs, in /shard-repair/repairs and in the header RepairIDHeader of package api: the shard, and
// when the repair was queued. All attempts of a repair have the same, also after a restart. It is empty when it is not
// known when the repair was queued.
func (r RepairRecord) ID() string {
	if r.Added.IsZero() {
		return ""
	}
	return strconv.FormatUint(r.ShardID, 10) + "-" + strconv.FormatInt(r.Added.UnixMicro(), 36)
}

// Decision is a point that owners held with different values, as patch.Decision has it.
type Decision struct {
	Series, Field string
	Time          int64  // nanoseconds
	Value         string // that all have now, unless it is Open
	Why           string // it was chosen, or why none was
	Open          bool   // nothing was chosen
	Held          []Held // by owners that have the point
}

// Held is the value that one owner held.
type Held struct {
	Node    string // TCP address
	Value   string
	Version uint64 // with which it was written; 0 is not known, and patch.Uncertain while it is being written
	Bound   uint64 // where Version is 0, the greatest that it can be; 0 is not known
}

// Decisions names the owners of points; addrs has them by their place among those that were merged.
func Decisions(of []patch.Decision, addrs []string) []Decision {
	out := make([]Decision, len(of))
	for i, d := range of {
		out[i] = Decision{Series: d.Series, Field: d.Field, Time: d.Time, Value: d.Value, Why: d.Why, Open: d.Open}
		for _, h := range d.Held {
			held := Held{Node: addrs[h.Owner], Value: h.Value, Version: h.Version, Bound: h.Bound}
			out[i].Held = append(out[i].Held, held)
		}
	}
	return out
}

// Refusal is a series-field of which an owner refuses the points that others have.
type Refusal struct {
	Node   string // TCP address of the owner
	Series string
	Field  string
	Reason string
}

// Progress is 0 to 1, of the files that come, and then of the last comparison.
func (r RepairRecord) Progress() float64 {
	switch {
	case r.State == Done:
		return 1
	case r.Copying > 0:
		return float64(r.Copied) / float64(r.Copying)
	case r.Total == 0:
		return 0
	}
	return float64(r.Fixed) / float64(r.Total)
}
