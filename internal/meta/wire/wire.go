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
	Labels   map[string]string `json:"labels,omitempty"`
	Passive  bool              `json:"passive,omitempty"` // coordinates, and never owns a shard
	Awaited  bool              `json:"awaited,omitempty"` // of an adopted cluster; its influxd is not Concord's yet
}

// Removed is the answer of POST /remove-data: the node, and what the cluster lost with it.
type Removed struct {
	Node
	Lost []string `json:"lost,omitempty"` // a phrase for each shard; its files are still on the node
}

// Members is the answer of GET /show-cluster.
type Members struct {
	Data []Member `json:"data"`
	Meta []Member `json:"meta"`
}

// Member is a node with its clock.
type Member struct {
	Node
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
	End             time.Time  `json:"end-time"` // where it was truncated, if it was
	Expires         *time.Time `json:"expire-time,omitempty"`
	TruncatedAt     *time.Time `json:"truncated-at,omitempty"`
	Owners          []Owner    `json:"owners"`
}

// Owner is a data node that holds a copy of a shard.
type Owner struct {
	ID      uint64 `json:"id"`
	TCPAddr string `json:"tcpAddr"`
}

// Copy is one owner's copy in the answer of GET /shard-copies, by shard ID.
type Copy struct {
	Node         uint64    `json:"id"`
	TCPAddr      string    `json:"tcpAddr"`
	State        string    `json:"state"` // hot, cold, missing, unreadable or unreachable
	LastModified time.Time `json:"last-modified"`
	Size         int64     `json:"size"` // bytes on disk
	// NotWhole is why the copy may lack acknowledged writes or deletes, as its node says.
	NotWhole string `json:"not-whole,omitempty"`
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

// ShardStatus is the answer of GET /shard-status of a data node: its copies by database and policy.
type ShardStatus struct {
	Databases []DatabaseStatus `json:"databases"`
}

// DatabaseStatus is a node's copies of one database.
type DatabaseStatus struct {
	Name     string         `json:"name"`
	Policies []PolicyStatus `json:"retention-policies"`
}

// PolicyStatus is a node's copies of one retention policy.
type PolicyStatus struct {
	Name     string       `json:"name"`
	ReplicaN int          `json:"replication-factor"`
	Shards   []LocalShard `json:"shards"`
}

// LocalShard is a node's copy of a shard.
type LocalShard struct {
	ID    uint64 `json:"id,string"`
	Size  int64  `json:"size,string"` // bytes on disk
	IsHot bool   `json:"is_hot"`
	State string `json:"state"` // hot, cold or missing
}
