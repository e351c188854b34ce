package check

import (
	"cmp"
	"slices"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/copies"
)

// Results are what the checks found of live shards, by ascending ID.
func (c *Checker) Results(live map[uint64]cluster.Shard) (out []entropy.ShardStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, r := range c.results {
		if _, ok := live[id]; ok {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b entropy.ShardStatus) int { return cmpIDs(a.ID, b.ID) })
	return out
}

func cmpIDs(a, b uint64) int { return cmp.Compare(a, b) }

// Status is what the checks found of a shard, empty for nothing.
func (c *Checker) Status(shard uint64) entropy.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.results[shard].Status
}

// Forget forgets what is known of a shard: it was repaired, or another node checks it.
func (c *Checker) Forget(shard uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.results, shard)
	delete(c.last, shard)
}

// InConflict keeps that a repair ended with points that owners refuse.
func (c *Checker) InConflict(shard uint64, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results[shard] = entropy.ShardStatus{ID: shard, Status: entropy.Conflict, Message: message}
}

// forgetGone forgets all that is known of shards that expired or were dropped.
func (c *Checker) forgetGone(live map[uint64]cluster.Shard) {
	gone := func(id uint64) bool { _, ok := live[id]; return !ok }
	c.Equality.Forget(gone)
	c.Refusals.Forget(gone)
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.results {
		if gone(id) {
			delete(c.results, id)
		}
	}
	for id := range c.last {
		if gone(id) {
			delete(c.last, id)
		}
	}
}

// conclude keeps the result of a check, nil for clean, and queues the shard if it is to be repaired automatically.
func (c *Checker) conclude(set copies.Set, result *entropy.ShardStatus, check *lastCheck) {
	sh := set.Shard
	c.mu.Lock()
	old, had := c.results[sh.ID]
	before := c.last[sh.ID]
	c.last[sh.ID] = check
	if result == nil {
		delete(c.results, sh.ID)
	} else {
		c.results[sh.ID] = *result
	}
	c.mu.Unlock()
	if result == nil {
		return
	}
	if !had || old != *result {
		c.Report.Log.Info("Found entropy", zap.Uint64("db_shard_id", sh.ID), zap.String("db_instance", sh.Database),
			zap.String("db_rp", sh.RetentionPolicy), zap.String("status", string(result.Status)),
			zap.String("message", result.Message))
	}
	missing, cfg := result.Status == entropy.Missing || check.lacks != nil, c.Config()
	auto := missing && cfg.AutoRepairMissing || result.Status == entropy.Diff && cfg.AutoRepairDiff
	if !auto || !c.queue(sh) {
		return
	}
	// An earlier attempt that failed, because an owner was away, says nothing of what was lost, or who came, since.
	if before == nil || !slices.Equal(before.owners, check.owners) || !slices.Equal(before.lacks, check.lacks) {
		if err := c.Repairs.Hurry(sh.ID); err != nil {
			c.Report.Fail("Cannot hurry the repair of a shard", sh.ID, err)
		}
	}
}

// repairBeside queues a shard in conflict, of which owners can be repaired of something else. late tells that an owner
// has only what was written since it lost the shard.
func (c *Checker) repairBeside(set copies.Set, late bool) {
	if cfg := c.Config(); cfg.AutoRepairDiff || late && cfg.AutoRepairMissing {
		c.queue(set.Shard)
	}
}

// queue queues a shard when this node is its first owner, which repairs it.
func (c *Checker) queue(sh cluster.Shard) bool {
	if sh.Owners[0] != c.Cluster.Self() {
		return false
	}
	if err := c.Repairs.Queue(sh.ID); err != nil {
		c.Report.Fail("Cannot queue shard", sh.ID, err)
		return false
	}
	return true
}
