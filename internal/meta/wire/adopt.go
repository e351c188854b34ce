package wire

// MaxMetadata bounds the body of POST /adopt-cluster: the metadata of the other cluster, in bytes.
const MaxMetadata = 64 << 20

// Adoption is the answer of POST /adopt and /adopt-cluster: what adopting a plain server, or another cluster, does to
// this one, or did.
type Adoption struct {
	Node      Node            `json:"node"`    // empty for a dry run
	DryRun    bool            `json:"dry-run"` // nothing was changed
	Already   bool            `json:"already"` // it was adopted before; only Node is set
	Bytes     uint64          `json:"bytes"`   // of the server's shards on disk
	Policies  []AdoptedPolicy `json:"policies"`
	Users     []string        `json:"users"`
	KeptUsers []string        `json:"kept-users"` // that the cluster has already: they stay as they are
	Queries   []string        `json:"continuous-queries"`
	Kept      []string        `json:"kept"`   // other things that the cluster has already, each a phrase
	Moves     []ShardMove     `json:"moves"`  // folders that get another name
	Shared    []uint64        `json:"shared"` // shards of the cluster that get the node as another owner
	// Missing are shards that an awaited data node owns, and that are not on its disk.
	Missing []uint64 `json:"missing,omitempty"`
	// Awaited are the data nodes of a cluster that was adopted: each is adopted when its influxd runs on its folders.
	Awaited []Node `json:"awaited,omitempty"`
}

// AdoptedPolicy is a retention policy of the server.
type AdoptedPolicy struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Replicas int    `json:"replicas"`
	Shards   int    `json:"shards"` // of the server
	Merged   int    `json:"merged"` // of these, shards that the cluster has too
}

// ShardMove is a folder of a shard that gets the name of another ID.
type ShardMove struct {
	Database        string `json:"database"`
	RetentionPolicy string `json:"retention-policy"`
	From            uint64 `json:"from"`
	To              uint64 `json:"to"` // 0 when the server knows no such shard: the folder is set aside
}
