// Package api is the JSON of the HTTP routes below /shard-repair, which data nodes and meta nodes serve.
//
// Each answer is declared here once. The server writes these types, and influxd-ctl and tests read them. The package
// imports nothing, so that a client does not link the server. IDs and times are decimal strings, because a JSON number
// cannot hold all of them in every language; times are nanoseconds since the epoch.
package api

// RepairIDHeader is the header with the ID of the repair in the answer of POST /shard-repair/repair.
const RepairIDHeader = "Repair-Id"

// Base is the path below which all routes are.
const Base = "/shard-repair"

// Failure is the answer of every route that fails.
type Failure struct {
	Error string `json:"error"`
}

// Status is the answer of GET /shard-repair/status.
type Status struct {
	Shards      []Shard  `json:"shards"` // whose replicas differ
	Queued      []string `json:"queued_shards"`
	Processing  []string `json:"processing_shards"`
	Unreachable []string `json:"unreachable_nodes,omitempty"`
}

// Clean reports whether nothing differs, nothing is queued and every node was asked.
func (s Status) Clean() bool {
	return len(s.Shards)+len(s.Queued)+len(s.Processing)+len(s.Unreachable) == 0
}

// Shard is a shard whose replicas differ.
type Shard struct {
	ID              string `json:"id"`
	Database        string `json:"database"`
	RetentionPolicy string `json:"retention_policy"`
	Start           string `json:"start_time"`
	End             string `json:"end_time"`
	Expires         string `json:"expires"`           // "0" for never
	Status          string `json:"status"`            // diff, missing, conflict or corrupt
	Message         string `json:"message,omitempty"` // of conflict and corrupt: what and where
}

// Repairs is the answer of GET /shard-repair/repairs.
type Repairs struct {
	Repairs []Repair `json:"repairs"`
	Paused  []string `json:"paused_nodes,omitempty"`
	// MaxRates are the bytes a second that nodes read and send for repairs, 0 for no limit, by TCP address.
	MaxRates    map[string]uint64 `json:"max_rates,omitempty"`
	Unreachable []string          `json:"unreachable_nodes,omitempty"`
}

// Repair is one repair. A time of "0" is for not yet. Clients get it as one flat object of JSON, so it has many fields.
type Repair struct {
	ID              string    `json:"id"`        // of the shard
	RepairID        string    `json:"repair_id"` // of the repair, which the log has, too
	Database        string    `json:"database"`
	RetentionPolicy string    `json:"retention_policy"`
	State           string    `json:"state"`
	Node            string    `json:"node"` // that drives it
	Owners          []string  `json:"owners"`
	Added           string    `json:"added"`
	Started         string    `json:"started"`
	Ended           string    `json:"ended"`
	Attempts        int       `json:"attempts"`
	Rounds          int       `json:"rounds"`
	Progress        float64   `json:"progress"` // 0 to 1
	Points          int       `json:"points"`
	Conflicts       int       `json:"conflicts"`          // points with different values, decided
	Decided         []Decided `json:"decided,omitempty"`  // the first 100 of them
	Refused         int       `json:"refused"`            // series-fields of which an owner refuses points
	Refusals        []Refusal `json:"refusals,omitempty"` // the first 100 of them
	BytesReceived   int64     `json:"bytes_received"`
	BytesSent       int64     `json:"bytes_sent"`
	Rate            float64   `json:"bytes_per_second"`
	ETA             float64   `json:"eta_seconds"` // 0 for not known
	Error           string    `json:"error,omitempty"`
}

// Decided is a point that owners held with different values.
type Decided struct {
	Series string `json:"series"`
	Field  string `json:"field"`
	Time   string `json:"time"`
	Value  string `json:"value"` // that all owners have now, or would have after a repair; empty when it is undecided
	Reason string `json:"reason,omitempty"`
	// Undecided is true when a repair leaves the point as it is.
	Undecided bool   `json:"undecided,omitempty"`
	Held      []Held `json:"held"` // by the owners that have the point
}

// Held is the value of a point that an owner held.
type Held struct {
	Node  string `json:"node"` // TCP address of the owner
	Value string `json:"value"`
	// Version says when the value was written: the time of the cluster's clock, a counter, and the node that gave the
	// version, as in "2026-01-02T15:04:05.000001Z #0 node 2". It is BeingWritten for a value that is. It is absent when
	// it is not known.
	Version string `json:"version,omitempty"`
	// NotAfter is a time after which a value of no known version was not written. It is absent when that is not known.
	NotAfter string `json:"not_after,omitempty"`
}

// BeingWritten is the version of a value that was being written when it was looked at.
const BeingWritten = "is being written"

// Refusal is a series-field of which an owner refuses the points that others have.
type Refusal struct {
	Node   string `json:"node"` // TCP address of the owner
	Series string `json:"series"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// Diff is the answer of GET /shard-repair/diff, a dry run.
type Diff struct {
	ID        string    `json:"id"`
	Owners    []string  `json:"owners"`
	Pairs     []Pair    `json:"pairs"`
	Bytes     int64     `json:"bytes"`            // that a repair would send
	Count     int       `json:"differing_fields"` // series-fields that differ
	Series    []Series  `json:"series"`           // the first 1,000 of them
	Decided   []Decided `json:"decided"`          // the first 100 points with different values
	Truncated bool      `json:"truncated,omitempty"`
	Conflict  string    `json:"conflict,omitempty"`
	Away      string    `json:"unreachable,omitempty"`
}

// Pair is how two owners differ, in points.
type Pair struct {
	A         string `json:"a"`
	B         string `json:"b"`
	MissingA  int    `json:"missing_on_a"`
	MissingB  int    `json:"missing_on_b"`
	Conflicts int    `json:"conflicts"`
}

// Series is a series-field that differs, in a range of time.
type Series struct {
	Series string `json:"series"`
	Field  string `json:"field"`
	Start  string `json:"start_time"`
	End    string `json:"end_time"`
}

// Resolved is the answer of POST /shard-repair/resolve.
type Resolved struct {
	ID     string     `json:"id"`
	Owners []SetAside `json:"owners"`
}

// SetAside is what one owner set aside.
type SetAside struct {
	Node   string `json:"node"` // TCP address of the owner
	Points int    `json:"points"`
	Kept   string `json:"kept,omitempty"` // the file with them, on that node
}
