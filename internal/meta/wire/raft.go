package wire

import "time"

// Raft is the answer of GET /raft: what a meta node says to other nodes of its part in the consensus, and what its log
// says that people want to know of.
type Raft struct {
	HTTPAddr string    `json:"httpAddr"`
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	State    string    `json:"state"` // leader, follower, candidate or shutdown
	Leader   string    `json:"leader"`
	Term     uint64    `json:"term"`
	Last     uint64    `json:"last"`    // index of the last entry of the log
	Commit   uint64    `json:"commit"`  // and of the last one that is known to be committed
	Applied  uint64    `json:"applied"` // and of the last one that was applied
	Contact  time.Time `json:"contact"` // when a follower last heard of the leader; zero for never, and of the leader
	Process  uint64    `json:"process,string"`
	Events   []Event   `json:"events,omitempty"` // with greater numbers than the parameter after, if process is as asked
}

// Event is a line of a node's log that people want to know of.
type Event struct {
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	Level  string    `json:"level"`
	Kind   string    `json:"kind"`
	Text   string    `json:"text"`
	Shard  uint64    `json:"shard,omitempty"`
}
