package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/entropy/repair"
)

var _ entropy.Control = (*Service)(nil)

// Status tells the kept results of checks and the queue, without shards that
// expired or were dropped meanwhile. It asks no other node.
func (s *Service) Status(context.Context) (entropy.NodeStatus, error) {
	if !s.config().Enabled {
		return entropy.NodeStatus{}, nil
	}
	live := s.cluster.Live()
	out := entropy.NodeStatus{Enabled: true}
	for _, it := range s.queue.list() {
		if _, ok := live[it.ID]; ok {
			out.Queued = append(out.Queued, it.ID)
		}
	}
	for _, id := range s.dispatcher.processing() {
		if _, ok := live[id]; ok {
			out.Processing = append(out.Processing, id)
		}
	}
	slices.Sort(out.Queued)
	slices.Sort(out.Processing)
	var err error
	out.Shards, err = s.shards(live)
	return out, err
}

// shards are the results of checks, and what this node knows to be damaged of its own copies: other statuses of a shard
// do not count then.
func (s *Service) shards(live map[uint64]cluster.Shard) ([]entropy.ShardStatus, error) {
	damaged, err := s.local.Damaged()
	if err != nil {
		return nil, err
	}
	var out []entropy.ShardStatus
	for _, r := range s.checker.Results(live) {
		if _, ok := damaged[r.ID]; !ok {
			out = append(out, r)
		}
	}
	self := s.cluster.Self()
	for id, message := range damaged {
		sh, ok := live[id]
		if !ok || !sh.Owned(self) {
			continue
		}
		if len(sh.Owners) == 1 {
			message += "; no other owner has the shard"
		}
		out = append(out, entropy.ShardStatus{
			ID: id, Status: entropy.Corrupt, Message: s.cluster.Addr(self) + ": " + message,
		})
	}
	slices.SortFunc(out, func(a, b entropy.ShardStatus) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// shard returns a live shard of which this node is the first owner. what is done by first owners alone is for the
// error.
func (s *Service) shard(id uint64, what string) (cluster.Shard, error) {
	sh, ok := s.cluster.Live()[id]
	if !ok {
		return sh, fmt.Errorf("shard %d: %w", id, entropy.ErrUnknownShard)
	}
	if self := s.cluster.Self(); len(sh.Owners) == 0 || sh.Owners[0] != self {
		return sh, fmt.Errorf("%s by its first owner, which node %d is not", fmt.Sprintf(what, id), self)
	}
	return sh, nil
}

// Repair queues a shard, of which this node must be the first owner.
func (s *Service) Repair(_ context.Context, id uint64) error {
	if !s.config().Enabled {
		return entropy.ErrDisabled
	}
	sh, err := s.shard(id, "shard %d is repaired")
	if err != nil {
		return err
	}
	if err := s.onlyCopyDamaged(sh); err != nil {
		return err
	}
	return s.dispatcher.QueueNow(id)
}

// onlyCopyDamaged is why a repair of a shard cannot help: its only copy is damaged.
func (s *Service) onlyCopyDamaged(sh cluster.Shard) error {
	if len(sh.Owners) > 1 {
		return nil
	}
	damaged, err := s.local.Damaged()
	if err != nil {
		return err
	}
	if message, ok := damaged[sh.ID]; ok {
		return fmt.Errorf("the only copy of shard %d is damaged, and no other owner has what is lost: %s: "+
			"restore it from a backup, or remove the file and check the shard", sh.ID, message)
	}
	return nil
}

// CancelRepair takes a shard from the queue and stops a running repair, which
// keeps what it did. It does not wait for its end.
func (s *Service) CancelRepair(_ context.Context, id uint64) error {
	if !s.config().Enabled {
		return entropy.ErrDisabled
	}
	return s.dispatcher.drop(id, errCanceled)
}

// Check makes the next check, which is due at once, compare a shard again, or all for 0. Damaged copies are verified
// again.
func (s *Service) Check(_ context.Context, id uint64) error {
	if !s.config().Enabled {
		return entropy.ErrDisabled
	}
	s.Suspect(id)
	return s.scrubber.verifyAgain(id)
}

// Pause stops the taking of repairs, also over a restart, and running ones; or resumes.
func (s *Service) Pause(_ context.Context, paused bool) error {
	if !s.config().Enabled {
		return entropy.ErrDisabled
	}
	return s.dispatcher.pause(paused)
}

// SetMaxRate changes how many bytes a second this node reads and sends for repairs, until SetConfig.
func (s *Service) SetMaxRate(_ context.Context, bytes uint64) error {
	if !s.config().Enabled {
		return entropy.ErrDisabled
	}
	s.limit.Set(bytes)
	s.report.Log.Info("The rate of repairs was changed", zap.Uint64("max_rate", bytes))
	return nil
}

// Coverage is how much of what this node has to compare it has compared.
type Coverage struct {
	Checked   time.Time // when the last check of all shards ended; zero for never
	Unchecked []uint64  // shards of which this node is the first owner, and whose contents it has not compared yet
}

// Coverage tells how much of what this node has to compare it has compared.
func (s *Service) Coverage() Coverage {
	out := Coverage{Checked: s.checker.LastFull()}
	self := s.cluster.Self()
	for id, sh := range s.cluster.Live() {
		if len(sh.Owners) > 1 && sh.Owners[0] == self && s.checker.Compared(id).IsZero() {
			out.Unchecked = append(out.Unchecked, id)
		}
	}
	slices.Sort(out.Unchecked)
	return out
}

// Compared is when this node last found the contents of a shard equal or not; zero for never.
func (s *Service) Compared(shard uint64) time.Time { return s.checker.Compared(shard) }

// Diff compares the owners of a shard, of which this node must be the first, and changes nothing.
func (s *Service) Diff(ctx context.Context, id uint64) (entropy.DryRun, error) {
	if !s.config().Enabled {
		return entropy.DryRun{}, entropy.ErrDisabled
	}
	sh, err := s.shard(id, "shard %d is compared")
	if err != nil {
		return entropy.DryRun{}, err
	}
	return repair.DryRun(ctx, s.repairs, sh)
}

// Repairs lists what waits and runs, then what ended, the newest first.
func (s *Service) Repairs(context.Context) (entropy.NodeRepairs, error) {
	if !s.config().Enabled {
		return entropy.NodeRepairs{}, entropy.ErrDisabled
	}
	out := s.dispatcher.records()
	out.MaxRate = s.limit.Bytes()
	return out, nil
}
