package wire

// The states of a LocalShard, in the words of InfluxDB Enterprise.
const (
	Healthy         = "healthy"
	RestorePending  = "restore pending"  // the copy is missing, or lacks something that waits elsewhere
	Restoring       = "restoring"        // and is being brought
	Repairing       = "repairing"        // the owners differ, and are or will be made equal
	ErrorProcessing = "error processing" // a repair failed, or owners refuse points of each other
)

// ShardStatus is the answer of GET /shard-status of a data node: its copies by database and policy.
type ShardStatus struct {
	Databases []DatabaseStatus `json:"databases"`
}

// DatabaseStatus is a node's copies of one database.
type DatabaseStatus struct {
	Name     string         `json:"name"`
	Policies []PolicyStatus `json:"retention_policies"` // as InfluxDB Enterprise documents them
	Former   []FormerPolicy `json:"retention-policies"` // the same, as earlier versions of Concord told it
}

// PolicyStatus is a node's copies of one retention policy.
type PolicyStatus struct {
	Name     string       `json:"name"`
	ReplicaN int          `json:"replication_factor"`
	Shards   []LocalShard `json:"shards"`
}

// LocalShard is a node's copy of a shard.
type LocalShard struct {
	ID    uint64 `json:"id"`
	Size  int64  `json:"size"` // bytes on disk
	IsHot bool   `json:"is_hot"`
	State string `json:"state"`
}

// FormerPolicy is PolicyStatus as earlier versions told it.
type FormerPolicy struct {
	Name     string        `json:"name"`
	ReplicaN int           `json:"replication-factor"`
	Shards   []FormerShard `json:"shards"`
}

// FormerShard is LocalShard as earlier versions told it.
type FormerShard struct {
	ID    uint64 `json:"id,string"`
	Size  int64  `json:"size,string"`
	IsHot bool   `json:"is_hot"`
	State string `json:"state"` // hot, cold or missing
}
