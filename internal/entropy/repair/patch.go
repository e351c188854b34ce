package repair

import (
	"context"
	"fmt"
	"time"

	"concord/internal/entropy"
	"concord/internal/entropy/copies"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/patch"
)

const (
	pushBytes = 8 << 20         // after which an Apply takes no more blocks
	pushAge   = 2 * time.Second // after which what was read is merged and applied: what comes meanwhile is newer
)

// patch finds which points differ, merges those of all copies, and pushes what each lacks.
func (r *Repair) patch(ctx context.Context, this, last *round) error {
	r.progress.change(func(p *entropy.RepairRecord) { p.Total, p.Fixed = len(this.diffs), 0 })
	push := make([]pusher, len(r.set.Copies))
	for i, c := range r.set.Copies {
		push[i] = pusher{repair: r, to: c, at: i}
	}
	find := r.finder()
	if few(this.diffs) && !r.overtaken {
		find.asked = r.set.Asked
	}
	merge := merger{finder: find, rules: r.rules(this, last), age: pushAge}
	merge.merged = func(p piece, m patch.Merged) error {
		this.open += m.Open
		r.progress.decided(m, r.set)
		for i := range m.Lacking {
			if err := push[i].add(ctx, p.clocks[i], m.Lacking[i]...); err != nil {
				return err
			}
		}
		return nil
	}
	err := find.each(ctx, this.diffs, func(p piece) error {
		if p.owners != nil {
			return merge.add(ctx, p)
		}
		for i, g := range p.groups {
			if g == 0 {
				if err := push[i].add(ctx, p.clocks[i], p.whole); err != nil {
					return err
				}
			}
		}
		return nil
	}, func(fields int) {
		r.progress.change(func(p *entropy.RepairRecord) { p.Fixed += fields })
	})
	if err == nil {
		err = merge.flush(ctx)
	}
	for i := range push {
		if err == nil {
			err = push[i].flush(ctx)
		}
	}
	return err
}

// finder finds points for a repair: what it reads is counted, and has to be allowed.
func (r *Repair) finder() *finder {
	return newFinder(r.set, r.Cluster.Now, func(ctx context.Context, c copies.Copy, bytes int) error {
		r.progress.received(c, bytes)
		return r.Limit.Wait(ctx, bytes)
	})
}

// rulesOf are the rules of copies that nobody writes to.
func rulesOf(set copies.Set) patch.Rules {
	return patch.Rules{
		Absent: len(set.Away), WithoutVote: set.WithoutVote(), MayHaveNewest: set.MayHaveNewest(),
	}
}

// rules are those of a round. In a shard that is written to, two owners may differ by a write that is under way, and
// the copies are not read at the same instant. There, a conflict of values is decided when it was the same in the last
// round.
func (r *Repair) rules(this, last *round) patch.Rules {
	rules := rulesOf(r.set)
	if r.set.Quiet(r.settled()) {
		this.valueConflicts = last.valueConflicts
		return rules
	}
	this.valueConflicts = make(map[uint64]struct{})
	rules.MayDecide = func(fingerprint uint64) bool {
		this.valueConflicts[fingerprint] = struct{}{}
		_, same := last.valueConflicts[fingerprint]
		return same
	}
	return rules
}

// pusher gathers what one copy lacks and applies it in batches: large ones, as each becomes a file there,
// but none waits for longer than pushAge, which is what a crash loses.
type pusher struct {
	repair *Repair
	to     copies.Copy
	at     int // its place in the set
	blocks []patch.Block
	size   int
	since  time.Time // of the first block
	clock  uint64    // of the copy from before the first block was read
}

// add adds blocks, which were read after the copy had a clock.
func (p *pusher) add(ctx context.Context, clock uint64, blocks ...patch.Block) error {
	for _, b := range blocks {
		if _, refused := p.repair.refused.Refused(p.at, b.Series, b.Field, digest.Type(b.Data[0]+1)); refused {
			continue
		}
		now := p.repair.Cluster.Now()
		if len(p.blocks) == 0 {
			p.since, p.clock = now, clock
		}
		p.clock = min(p.clock, clock)
		p.blocks = append(p.blocks, b)
		p.size += int(b.Size())
		if p.size >= pushBytes || now.Sub(p.since) > pushAge {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pusher) flush(ctx context.Context) error {
	if len(p.blocks) == 0 {
		return nil
	}
	if sh, ok := p.repair.Cluster.Live()[p.repair.shard.ID]; !ok || !sh.Owned(p.to.ID) { // writing would create it anew
		return fmt.Errorf("shard %d was dropped, expired, or moved away from %s meanwhile",
			p.repair.shard.ID, p.to.TCPAddr)
	}
	if err := p.repair.Limit.Wait(ctx, p.size); err != nil {
		return err
	}
	read := entropy.ReadAt{Deletes: p.to.State.Deletes, Clock: p.clock}
	done, err := p.to.Replica.Apply(ctx, p.repair.shard, read, p.blocks)
	if err != nil {
		return fmt.Errorf("apply points of shard %d on %s: %w", p.repair.shard.ID, p.to.TCPAddr, err)
	}
	for _, refused := range done.Refused {
		p.repair.refused.Add(p.at, len(p.repair.set.Copies), p.blocks[refused.Block], refused)
	}
	p.repair.Report.PointsRepaired.Add(int64(done.Points))
	p.repair.progress.change(func(r *entropy.RepairRecord) { r.Points += done.Points })
	p.repair.progress.sent(p.to, p.size)
	p.blocks, p.size = nil, 0
	return nil
}
