package entropy

// Status says how the replicas of a shard differ.
type Status string

// The statuses of the API.
const (
	Diff     Status = "diff"     // contents differ
	Missing  Status = "missing"  // an owner has no copy, or one that lacks more than a few writes
	Conflict Status = "conflict" // an owner refuses points of others: a field has another type there, for example
	Corrupt  Status = "corrupt"  // files of an owner cannot be read back as they were written
)
