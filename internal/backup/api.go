package backup

// The bodies of the meta node's HTTP API for backup and restore.

// Source is one shard in the answer of GET /backup/plan, with the copy to read.
type Source struct {
	ShardID      uint64 `json:"shard"`
	Database     string `json:"database"`
	Policy       string `json:"policy"`
	Node         string `json:"node"`         // TCP address of the owner; empty when no copy can be read
	LastModified int64  `json:"lastModified"` // nanoseconds
	Size         int64  `json:"size"`         // bytes on disk
	// Problem is why no whole copy can be read. The copy at Node, if there is one, may lack points then.
	Problem string `json:"problem,omitempty"`
}

// Target is the body of POST /restore/begin: what of a backup is to be restored, and as what.
type Target struct {
	Meta      []byte   `json:"meta"`   // as portable.EncodeMeta made it
	Shards    []uint64 `json:"shards"` // of the backup, with data in it
	Database  string   `json:"db,omitempty"`
	Policy    string   `json:"rp,omitempty"`
	Shard     uint64   `json:"shard,omitempty"`
	NewDB     string   `json:"newdb,omitempty"`
	NewPolicy string   `json:"newrp,omitempty"`
	NewShard  uint64   `json:"newshard,omitempty"`
	Replicas  int      `json:"newrf,omitempty"`
	Duration  string   `json:"newduration,omitempty"`
	MetaOnly  bool     `json:"metaOnly,omitempty"`  // no shards
	Overwrite bool     `json:"overwrite,omitempty"` // change policies and users that are there
}

// Mapping is where a shard of the backup goes.
type Mapping struct {
	Shard    uint64   `json:"shard"`
	NewShard uint64   `json:"newShard"`
	Database string   `json:"database"` // as it is called now
	Policy   string   `json:"policy"`
	Owners   []string `json:"owners"` // TCP addresses
}

// Restored is the answer of POST /restore/shard.
type Restored struct {
	Owners []string `json:"owners"` // that have the shard now
	Failed []string `json:"failed"` // that get it by anti-entropy, and whose copies are incomplete until then
}
