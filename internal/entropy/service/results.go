package service

import "concord/internal/entropy"

// results is where the dispatcher says what came of repairs: the checker. The checker is made after the dispatcher, as
// it queues repairs there.
type results struct{ *Service }

// copiesFiles reports whether the repair of a shard most likely copies files alone: an owner lacks it.
func (r results) copiesFiles(shard uint64) bool { return r.checker.Status(shard) == entropy.Missing }

func (r results) repaired(shard uint64) { r.checker.Repaired(shard) }

func (r results) inConflict(shard uint64, message string) { r.checker.InConflict(shard, message) }

func (r results) checkAgain() { r.checker.Soon() }
