package check

import (
	"slices"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// conclude keeps the result of a check, nil for clean, and queues the shard if it is to be repaired automatically.
func (j *judge) conclude(set copies.Set, result *entropy.ShardStatus, check *lastCheck) {
	sh := set.Shard
	news, before := j.keep(sh.ID, result, check)
	if result == nil {
		return
	}
	if news {
		j.Report.Log.Info("Found entropy", zap.Uint64("db_shard_id", sh.ID), zap.String("db_instance", sh.Database),
			zap.String("db_rp", sh.RetentionPolicy), zap.String("status", string(result.Status)),
			zap.String("message", result.Message))
	}
	missing, cfg := result.Status == entropy.Missing || check.lacks != nil, j.Config()
	auto := missing && cfg.AutoRepairMissing || result.Status == entropy.Diff && cfg.AutoRepairDiff
	if !auto || !j.queue(sh) {
		return
	}
	// The last attempt may have failed because an owner was away. Other owners are there now, or more was lost: try
	// now.
	if before == nil || !slices.Equal(before.owners, check.owners) || !slices.Equal(before.lacks, check.lacks) {
		if err := j.Repairs.Hurry(sh.ID); err != nil {
			j.Report.Fail("Cannot hurry the repair of a shard", sh.ID, err)
		}
	}
}

// repairBeside queues a shard in conflict, of which owners can be repaired of something else. late tells that an owner
// has only what was written since it lost the shard.
func (j *judge) repairBeside(set copies.Set, late bool) {
	if cfg := j.Config(); cfg.AutoRepairDiff || late && cfg.AutoRepairMissing {
		j.queue(set.Shard)
	}
}

// queue queues a shard when this node is its first owner, which repairs it.
func (j *judge) queue(sh cluster.Shard) bool {
	if sh.Owners[0] != j.Cluster.Self() {
		return false
	}
	if err := j.Repairs.Queue(sh.ID); err != nil {
		j.Report.Fail("Cannot queue shard", sh.ID, err)
		return false
	}
	return true
}
