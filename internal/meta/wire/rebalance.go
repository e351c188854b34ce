package wire

// RebalancePlan is the answer of GET /rebalance: which copies of shards a rebalance would make, move and remove.
type RebalancePlan struct {
	Steps []RebalanceStep `json:"steps"`
	Bytes int64           `json:"bytes"` // that are copied
	Nodes []RebalanceNode `json:"nodes"`
	// Problems are what the plan does not reach, and why.
	Problems []string `json:"problems,omitempty"`
}

// RebalanceStep is one step of a plan. Nodes are TCP addresses.
type RebalanceStep struct {
	ShardID  uint64 `json:"shard-id"`
	Database string `json:"database"`
	Policy   string `json:"retention-policy"`
	Kind     string `json:"kind"`             // copy, move or remove
	From     string `json:"from,omitempty"`   // loses its copy
	To       string `json:"to,omitempty"`     // gets a copy
	Source   string `json:"source,omitempty"` // has the files that are copied
	Bytes    int64  `json:"bytes"`            // that are copied
	Reason   string `json:"reason"`
}

// RebalanceNode is a data node with the bytes of its copies before and after a plan.
type RebalanceNode struct {
	TCPAddr  string `json:"tcpAddr"`
	Draining bool   `json:"draining,omitempty"`
	Before   int64  `json:"before"`
	After    int64  `json:"after"`
}

// RebalanceEvent is one line of the answer of POST /rebalance. Each is one of: a plan, a wait for copies that others
// began, the state of a step, and the end.
type RebalanceEvent struct {
	Plan    *RebalancePlan `json:"plan,omitempty"`
	Waiting []CopyStatus   `json:"waiting,omitempty"`
	Step    *RebalanceStep `json:"step,omitempty"`
	State   RebalanceState `json:"state,omitempty"`
	// Note is why a step waits, was left out or failed.
	Note   string         `json:"note,omitempty"`
	Copied int64          `json:"copied,omitempty"` // bytes of the step
	Speed  RebalanceSpeed `json:"speed,omitzero"`   // of the step
	All    RebalanceTotal `json:"all,omitzero"`     // of all steps of the plan
	Ended  bool           `json:"ended,omitempty"`
	Error  string         `json:"error,omitempty"` // with Ended: what was not done
	Empty  []string       `json:"empty,omitempty"` // with Ended: nodes that are drained and own no shards any more
}

// RebalanceState is how far a step is.
type RebalanceState string

// The states of a step.
const (
	StepCopying RebalanceState = "copying"
	StepWaiting RebalanceState = "waiting" // for a whole copy, or for a data node to know the new owner
	StepDone    RebalanceState = "done"
	StepLeftOut RebalanceState = "left out" // the shard or its owners are not as they were planned any more
	StepFailed  RebalanceState = "failed"
)

// RebalanceSpeed is how fast a copy is made.
type RebalanceSpeed struct {
	Rate float64 `json:"rate"` // bytes a second
	Left float64 `json:"left"` // seconds; 0 when it is not known
}

// RebalanceTotal is how far a plan is.
type RebalanceTotal struct {
	Steps  int     `json:"steps"`
	Ended  int     `json:"ended"`  // of the steps
	Copied int64   `json:"copied"` // bytes
	Bytes  int64   `json:"bytes"`  // of all steps
	Left   float64 `json:"left"`   // seconds; 0 when it is not known
}
