package wire

import "time"

// This file has what meta nodes and data nodes say to each other, besides the state itself, and the limits that both
// sides rely on.

// The headers of every answer of a meta node.
const (
	ClockHeader  = "Concord-Clock"  // the node's time as it answers, nanoseconds since the epoch
	LeaderHeader = "Concord-Leader" // true when the node leads the meta nodes
)

const (
	// MaxBody bounds a request to a meta node, in bytes. The files of a restore are the one exception.
	MaxBody = 1 << 20
	// CommitTimeout is how long the leader tries to commit a change.
	CommitTimeout = 10 * time.Second
	// JoinTimeout is how long a data node that joins waits for its first state.
	JoinTimeout = 5 * time.Second
)

// Error is the answer to a request that failed: one line that says what to do.
type Error struct {
	Error string `json:"error"`
}

// Execution is the answer of POST /execute.
type Execution struct {
	Result any    `json:"result,omitempty"`
	Error  string `json:"error,omitempty"` // why the command itself failed
	Index  uint64 `json:"index"`           // of the state that shows the effect
}

// Identity is the answer of GET /identity: what a meta node says of itself to other nodes.
type Identity struct {
	RaftID    string `json:"raftID"`
	RaftAddr  string `json:"raftAddr"`
	HTTPAddr  string `json:"httpAddr"`
	Version   string `json:"version"`
	ClusterID uint64 `json:"clusterID,string"` // 0 without a cluster
	Applied   uint64 `json:"applied"`          // index in the log
	Clock     int64  `json:"clock,string"`     // its time as it answers, nanoseconds since the epoch
}
