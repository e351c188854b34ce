package page

import "time"

// State is what GET /cluster/state answers, and the event state of the stream: sections, and in each of them values by
// their keys. An event of the kind patch has the same shape with what changed; null removes a value.
//
// IDs are the keys, in decimal. Times are RFC 3339 in UTC. Sizes are in bytes.
type State struct {
	Summary   Summary              `json:"summary"`
	Attention map[string]Attention `json:"attention"`
	Nodes     map[string]Node      `json:"nodes"`
	Shards    map[string]Shard     `json:"shards"`
	// What follows is for administrators, and absent for other users.
	Repairs  map[string]Repair  `json:"repairs,omitempty"`
	Copies   map[string]Copy    `json:"copies,omitempty"`
	Queries  map[string]Query   `json:"queries,omitempty"`
	Meta     map[string]Meta    `json:"meta,omitempty"`
	Policies map[string]Policy  `json:"policies,omitempty"`
	Events   map[string]Event   `json:"events,omitempty"`
	Deletes  map[string]Delete  `json:"deletes,omitempty"`
	Settings map[string]Setting `json:"settings,omitempty"`
}

// Summary is how far the replicas agree. A shard with one owner has nothing to agree with, and is only in Single.
// It is a flat object of JSON, as Node and Repair are, so they have many fields.
type Summary struct {
	Node    string `json:"node"`    // HTTP address of the node that says this
	Kind    string `json:"kind"`    // data or meta: what that node is
	Version string `json:"version"` // of that node

	Level    string `json:"level"`    // good, busy, warn or bad
	Sentence string `json:"sentence"` // "1,204 of 1,206 shards agree; 2 differ"
	Enabled  bool   `json:"enabled"`  // anti-entropy is on at least at one node

	Shards    int `json:"shards"` // with several owners
	Agree     int `json:"agree"`
	Differ    int `json:"differ"`
	Missing   int `json:"missing"`
	Conflict  int `json:"conflict"`
	Corrupt   int `json:"corrupt"`
	Unchecked int `json:"unchecked"` // not compared yet
	Away      int `json:"away"`      // an owner cannot be reached, and nothing else is known to be wrong
	Single    int `json:"single"`

	Queued    int `json:"queued"`
	Repairing int `json:"repairing"`
	Writing   int `json:"writing"`

	// Deletes is how many deletes wait for nodes; MoreDeletes says that it is at least as many. For administrators.
	Deletes     int  `json:"deletes,omitempty"`
	MoreDeletes bool `json:"more_deletes,omitempty"`

	// Checked is before which time every shard was looked at: the oldest end of a full check at all nodes. It is absent
	// while a node has not ended one.
	Checked *time.Time `json:"checked,omitempty"`
}

// Attention is something that needs a person.
type Attention struct {
	Level string `json:"level"` // warn or bad
	Text  string `json:"text"`
	Do    string `json:"do"` // what to do
	Shard string `json:"shard,omitempty"`
	Node  string `json:"node,omitempty"` // ID
}

// Node is a data node. It has many fields because it is a flat record: the page shows all that is known of a node in
// one place.
type Node struct {
	Address string `json:"address"` // TCP
	HTTP    string `json:"http"`
	Up      bool   `json:"up"`
	Passive bool   `json:"passive,omitempty"` // it coordinates, and never owns a shard
	// Draining is true for a node that gets no more shards: those that it has are moved to other nodes.
	Draining bool              `json:"draining,omitempty"`
	Since    *time.Time        `json:"since,omitempty"` // since when it is as Up says, as far as this node knows
	Error    string            `json:"error,omitempty"`
	Version  string            `json:"version,omitempty"`
	Started  *time.Time        `json:"started,omitempty"`
	Zone     string            `json:"zone,omitempty"` // the label az
	Labels   map[string]string `json:"labels,omitempty"`
	Disks    []Disk            `json:"disks,omitempty"`
	Hints    []Hints           `json:"hints,omitempty"`
	Bytes    int64             `json:"bytes"`  // of its copies
	Shards   int64             `json:"shards"` // copies on its disk
	Load     *Load             `json:"load,omitempty"`
	Checked  *time.Time        `json:"checked,omitempty"` // when its last check of all shards ended
}

// Disk is a file system of a node.
type Disk struct {
	Path string `json:"path"`
	Free uint64 `json:"free"` // rounded, so that it does not change all the time
	Size uint64 `json:"size"`
	Low  bool   `json:"low"` // less than 5 % is free
}

// Hints are what waits in hinted handoff for another node.
type Hints struct {
	For     string     `json:"for"` // ID of the node
	Bytes   int64      `json:"bytes"`
	Shards  int64      `json:"shards"`
	Oldest  *time.Time `json:"oldest,omitempty"`
	Rate    float64    `json:"rate"`              // bytes a second that are sent
	Drained float64    `json:"drained,omitempty"` // seconds until nothing waits, at that rate; 0 for not known
	Dropped int64      `json:"dropped,omitempty"` // entries
}

// Load is what clients asked of a node in a part of an hour.
type Load struct {
	Start    time.Time `json:"start"`
	Seconds  int64     `json:"seconds"`
	Writes   float64   `json:"writes"`  // requests a second
	Points   float64   `json:"points"`  // a second
	Queries  float64   `json:"queries"` // requests a second
	WriteP99 float64   `json:"write_p99"`
	QueryP99 float64   `json:"query_p99"` // seconds
}

// Shard is a shard.
type Shard struct {
	Database string     `json:"database"`
	Policy   string     `json:"policy"`
	Start    time.Time  `json:"start"`
	End      time.Time  `json:"end"`
	Expires  *time.Time `json:"expires,omitempty"`
	Owners   []string   `json:"owners"` // IDs of nodes; the first one drives its repairs
	// Status is equal, diff, missing, conflict, corrupt, unchecked, away or single.
	Status  string `json:"status"`
	Message string `json:"message,omitempty"`
	Writing bool   `json:"writing,omitempty"`
	Repair  string `json:"repair,omitempty"` // queued or running
}

// Repair is a repair, by node, shard and when it was asked for. It has many fields because it is a flat record, as in
// the log of the node that drives it.
type Repair struct {
	ID        string     `json:"id"` // as in the log of the node that drives it
	Shard     string     `json:"shard"`
	Database  string     `json:"database"`
	Policy    string     `json:"policy"`
	Node      string     `json:"node"`  // TCP address of the node that drives it
	State     string     `json:"state"` // queued, running, done, failed, stopped or conflict
	Owners    []string   `json:"owners"`
	Added     *time.Time `json:"added,omitempty"`
	Started   *time.Time `json:"started,omitempty"`
	Ended     *time.Time `json:"ended,omitempty"`
	Attempts  int        `json:"attempts,omitempty"`
	Rounds    int        `json:"rounds,omitempty"`
	Progress  float64    `json:"progress"` // 0 to 1
	Points    int        `json:"points"`
	Received  int64      `json:"received"`
	Sent      int64      `json:"sent"`
	Rate      float64    `json:"rate"` // bytes a second
	Left      float64    `json:"left"` // seconds; 0 for not known
	Conflicts int        `json:"conflicts,omitempty"`
	Refused   int        `json:"refused,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// Copy is a copy of a shard's files that runs.
type Copy struct {
	Shard  string    `json:"shard"`
	From   string    `json:"from"` // TCP address
	To     string    `json:"to"`
	Bytes  int64     `json:"bytes"`
	Total  int64     `json:"total"`
	Since  time.Time `json:"since"`
	Policy string    `json:"policy"`
}

// Query is a query that runs.
type Query struct {
	Node     string    `json:"node"` // ID
	ID       string    `json:"id"`
	Database string    `json:"database"`
	Text     string    `json:"text"`
	Since    time.Time `json:"since"`
	Status   string    `json:"status"`
}

// Meta is a meta node.
type Meta struct {
	Address string     `json:"address"` // HTTP
	Raft    string     `json:"raft"`    // TCP address
	Up      bool       `json:"up"`
	Error   string     `json:"error,omitempty"`
	Version string     `json:"version,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	State   string     `json:"state,omitempty"` // leader, follower or candidate
	Term    uint64     `json:"term"`
	Applied uint64     `json:"applied"`
	Lag     uint64     `json:"lag"` // entries of the log that it has to apply to be where the others are
}

// Policy is a retention policy with what its shards take.
type Policy struct {
	Database string         `json:"database"`
	Name     string         `json:"name"`
	Replicas int            `json:"replicas"` // that it asks for
	Shards   int            `json:"shards"`
	TooFew   int            `json:"too_few"` // shards with fewer owners than that
	Owned    map[string]int `json:"owned"`   // shards, by ID of the node
}

// Event is a line of a node's log that people want to know of.
type Event struct {
	Time  time.Time `json:"time"`
	Node  string    `json:"node"` // address
	Level string    `json:"level"`
	Kind  string    `json:"kind"`
	Text  string    `json:"text"`
	Shard string    `json:"shard,omitempty"`
}

// Delete is a delete that waits for nodes that missed it.
type Delete struct {
	Database string     `json:"database"`
	Text     string     `json:"text"` // the statement, or its beginning
	Since    *time.Time `json:"since,omitempty"`
	For      []string   `json:"for"`  // IDs of the nodes that it waits for
	Kept     []string   `json:"kept"` // IDs of the nodes that keep it
}

// Setting is what can be changed while the nodes run, by TCP address of the node.
type Setting struct {
	Paused  bool   `json:"paused"`
	MaxRate uint64 `json:"max_rate"` // bytes a second; 0 for no limit
}
