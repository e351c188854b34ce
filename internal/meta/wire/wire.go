// Package wire is the JSON in which meta nodes and data nodes tell about the cluster over HTTP: its members, its shards
// and their copies.
//
// Each answer is declared here once. The servers write these types, and influxd-ctl and tests read them. The package
// imports nothing of Concord or of the engine, so that a client does not link the server.
package wire

import "time"

// Node is a member of the cluster. It is the answer of POST /add-meta, /add-data, /remove-meta, /update-data and
// /node-labels.
type Node struct {
	ID       uint64            `json:"id"`
	TCPAddr  string            `json:"tcpAddr"`  // host:port; data nodes: 8088, meta nodes: Raft, 8089
	HTTPAddr string            `json:"httpAddr"` // host:port; data nodes: 8086, meta nodes: 8091
	Version  string            `json:"version"`
	Identity string            `json:"identity,omitempty"` // names the folders of a data node
	Labels   map[string]string `json:"labels,omitzero"`    // always there in Members
	Passive  bool              `json:"passive,omitempty"`  // coordinates, and never owns a shard
	Draining bool              `json:"draining,omitempty"` // gets no more shards: rebalance moves those that it has
	Awaited  bool              `json:"awaited,omitempty"`  // of an adopted cluster; its influxd is not Concord's yet
}

// Removed is the answer of POST /remove-data: the node, and what the cluster lost with it.
type Removed struct {
	Node
	Lost []string `json:"lost,omitempty"` // a phrase for each shard; its files are still on the node
	// Short is how many of its shards have fewer copies now than their policies ask for.
	Short int `json:"short,omitempty"`
}

// Members is the answer of GET /show-cluster.
type Members struct {
	Data []Member `json:"data"`
	Meta []Member `json:"meta"`
}

// Member is a node with its clock. Its address for clients has a second name, as sources differ: InfluxDB Enterprise
// documents addr for all nodes, and its clients read httpAddr of data nodes.
type Member struct {
	Node
	Addr       string `json:"addr"`       // HTTPAddr
	HTTPScheme string `json:"httpScheme"` // http or https; empty when the node did not answer
	Status     string `json:"status"`     // joined
	// ClockSkewMs is how far the node's clock is ahead of the clock in the middle of all; nil when it did not answer.
	ClockSkewMs *int64 `json:"clockSkewMs,omitempty"`
	ClockOff    bool   `json:"clockOff,omitempty"` // by more than a second for certain
}

// Status is the answer of GET /status of a meta node.
type Status struct {
	NodeType string   `json:"nodeType"`
	Leader   string   `json:"leader"` // Raft address, empty without one
	HTTPAddr string   `json:"httpAddr"`
	RaftAddr string   `json:"raftAddr"`
	Peers    []string `json:"peers"` // Raft addresses
}

// Shard is one entry of the answer of GET /show-shards.
type Shard struct {
	ID              uint64     `json:"id"`
	Database        string     `json:"database"`
	RetentionPolicy string     `json:"retention-policy"`
	ReplicaN        int        `json:"replica-n"`
	GroupID         uint64     `json:"shard-group-id"`
	Start           time.Time  `json:"start-time"`
	End             time.Time  `json:"end-time"`     // where it was truncated, if it was
	Expires         *time.Time `json:"expire-time"`  // null for never
	TruncatedAt     *time.Time `json:"truncated-at"` // null for not truncated
	Owners          []Owner    `json:"owners"`
}

// Owner is a data node that holds a copy of a shard.
type Owner struct {
	ID         uint64 `json:"id"`
	TCPAddr    string `json:"tcpAddr"`
	*CopyState        // what it says of its copy, with verbose=true in the request
}

// CopyState is the state of one copy, as influxdb-cluster tells it.
type CopyState struct {
	State        string    `json:"state"` // as in Copy
	LastModified time.Time `json:"last-modified"`
	Size         int64     `json:"size"` // bytes on disk
	Err          string    `json:"err"`  // why the copy is not whole; empty for one that is
}

// Copy is one owner's copy in the answer of GET /shard-copies, by shard ID.
type Copy struct {
	Node         uint64    `json:"id"`
	TCPAddr      string    `json:"tcpAddr"`
	State        string    `json:"state"` // hot, cold, missing, unreadable, unreachable or not open
	LastModified time.Time `json:"last-modified"`
	Size         int64     `json:"size"` // bytes on disk
	// NotWhole is why the copy may lack acknowledged writes or deletes, as its node says.
	NotWhole string `json:"not-whole,omitempty"`
	// Unlisted is true for a copy on the disk of a node that the metadata does not have as an owner of the shard: only
	// with unlisted=true in the request. The folder is that of Database and RetentionPolicy.
	Unlisted        bool   `json:"not-in-metadata,omitempty"`
	Database        string `json:"database,omitempty"`
	RetentionPolicy string `json:"retention-policy,omitempty"`
}

// CopyStatus is one running copy in the answer of GET /copy-shard-status.
type CopyStatus struct {
	Source      string    `json:"source"`
	Dest        string    `json:"dest"`
	Database    string    `json:"database"`
	Policy      string    `json:"retention-policy"`
	ShardID     uint64    `json:"shard-id"`
	TotalSize   int64     `json:"total-size"`
	CurrentSize int64     `json:"current-size"`
	StartedAt   time.Time `json:"started-at"`
}
