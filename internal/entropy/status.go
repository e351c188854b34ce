package entropy

// Status says how the replicas of a shard differ.
type Status string

// The statuses of the API.
const (
	Diff     Status = "diff"     // contents differ
	Missing  Status = "missing"  // an owner lacks the shard entirely
	Conflict Status = "conflict" // a field has different types on two owners
	Corrupt  Status = "corrupt"  // files of an owner cannot be read back as they were written
)
