package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy"
	"concord/internal/meta/wire"
	"concord/internal/operator/balance"
	"concord/internal/rpc"
)

const (
	// patience is how long a step waits for a whole copy, or until data nodes know the new owner, or tries to make a
	// copy, before it fails.
	patience = 15 * time.Minute
	// compareAgain is how often anti-entropy is asked to compare a copy that was made.
	compareAgain = 20 * time.Second
	// tryAgain is how long a step waits after a copy failed, and so much longer each time.
	tryAgain = 5 * time.Second
)

// task is one step of a plan while it is carried out. It begins anew with each advance: it looks who owns the shard,
// and does what is left to do. So it goes on from wherever an earlier run ended.
type task struct {
	run   *run
	step  balance.Step
	shown wire.RebalanceStep
	least int  // so many copies must be left
	empty bool // nothing was ever written to the shard, when the plan was made

	copied int64     // bytes
	since  time.Time // of the last progress
	asked  time.Time // when anti-entropy was asked for the last time
	failed int       // copies
	next   time.Time // when the next copy may be made
	note   string    // why it waits

	index uint64    // of the metadata when this run saw the new owner for the first time
	known time.Time // since when all data nodes have that metadata; zero while it is not known that they do
	told  bool      // the node of the new copy was told to have it compared
}

// advance does what can be done now. It reports whether the step has ended.
func (t *task) advance(ctx context.Context) (ended bool) {
	if t.since.IsZero() {
		t.since = time.Now()
	}
	note, err := t.do(ctx)
	var gone leftOutError
	switch {
	case ctx.Err() != nil:
		return false
	case errors.As(err, &gone):
		return t.run.ended(t, wire.StepLeftOut, err.Error())
	case errors.Is(err, errWait):
		return t.wait(note)
	case err != nil:
		return t.run.ended(t, wire.StepFailed, rpc.Message(err))
	}
	return t.run.ended(t, wire.StepDone, note)
}

// errWait is that a step has to wait.
var errWait = errors.New("wait")

// leftOutError is why a step is not done: the cluster is not as it was planned any more.
type leftOutError struct{ why string }

func (e leftOutError) Error() string { return e.why }

// wait says why a step waits, when that has changed. It fails the step when it waited too long.
func (t *task) wait(note string) (ended bool) {
	if time.Since(t.since) > patience {
		return t.run.ended(t, wire.StepFailed, fmt.Sprintf("%s, for %s by now", note, patience))
	}
	if note != t.note {
		t.note = note
		t.run.tell(t, wire.StepWaiting, note, t.copied, wire.RebalanceSpeed{})
	}
	return false
}

// do makes the new copy if it is not there, and then removes the old one. The error is errWait, with a note that says
// for what, when a part has to be done later.
func (t *task) do(ctx context.Context) (note string, err error) {
	sh, ok := t.run.shardNow(t.step.Shard)
	if !ok {
		return "", leftOutError{"the shard is gone"}
	}
	st := t.run.nodes.state()
	if to, ok := st.DataNode(t.step.To); t.step.To != 0 && !sh.Owned(t.step.To) {
		if !ok {
			return "", leftOutError{"the new owner is gone"}
		} else if err := to.CheckMayOwn(); err != nil {
			return "", leftOutError{err.Error()}
		}
		if note, err := t.add(ctx, sh, to); err != nil {
			return note, err
		}
		if t.step.From == 0 { // nothing waits for it to be whole
			return "", cmp.Or(t.compare(ctx), ctx.Err())
		}
		if sh, ok = t.run.shardNow(t.step.Shard); !ok {
			return "", leftOutError{"the shard is gone"}
		}
	}
	if from, ok := st.DataNode(t.step.From); ok && sh.Owned(from.ID) {
		return t.giveUp(ctx, sh, from)
	}
	return "", nil
}

// add makes the new copy, and asks anti-entropy to bring what was written meanwhile.
func (t *task) add(ctx context.Context, sh cluster.Shard, to cluster.Node) (note string, err error) {
	copies := t.run.copies.describeCopies(ctx, []cluster.Shard{sh}, false)[sh.ID]
	if time.Now().Before(t.next) {
		return t.note, errWait
	}
	if t.empty && nothingWritten(copies) {
		_, err := t.run.execute(cluster.AddShardOwner{ID: sh.ID, NodeID: to.ID})
		return "", err
	}
	t.empty = false
	from, ok := source(copies, t.step.From)
	if !ok {
		return "no owner has all of it: " + problems(copies), errWait
	}
	began := time.Now()
	err = t.copy(ctx, copyOrder{
		shard: sh, from: cluster.Node{ID: from.Node, TCPAddr: from.TCPAddr}, to: to, maxRate: t.run.maxRate,
	})
	switch code := status.Code(err); {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case code == codes.AlreadyExists, code == codes.Unavailable, code == codes.Aborted:
		t.failed++ // somebody else makes it, or a node was away
		t.next = time.Now().Add(time.Duration(t.failed) * tryAgain)
		return rpc.Message(err), errWait
	case err != nil:
		return "", err
	}
	t.run.total.Copied += t.copied
	t.run.took += time.Since(began)
	t.since = time.Now()
	return "", nil
}

// copy makes a copy, and tells how far it is. When ctx ends the copy goes on without it.
func (t *task) copy(ctx context.Context, o copyOrder) error {
	t.shown.Source = o.from.TCPAddr
	done := make(chan error, 1)
	t.run.background.Go(func() { done <- t.run.shards.make(t.run.closing, o) })
	began, tick := time.Now(), time.NewTicker(lookAgain)
	defer tick.Stop()
	t.say(ctx, o, began)
	for {
		select {
		case err := <-done:
			if err == nil {
				t.copied = t.shown.Bytes
				return t.slowDown(ctx, o.maxRate, began)
			}
			return err
		case <-tick.C:
			t.say(ctx, o, began)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// slowDown keeps the rate over many small shards: what is sent at once at the beginning of each is not limited.
func (t *task) slowDown(ctx context.Context, maxRate uint64, began time.Time) error {
	if maxRate == 0 {
		return nil
	}
	due := time.Duration(float64(t.copied) / float64(maxRate) * float64(time.Second))
	return pause(ctx, max(due-time.Since(began), 0))
}

// say tells how far a copy is.
func (t *task) say(ctx context.Context, o copyOrder, began time.Time) {
	var copied int64
	if c, err := t.run.nodes.client(o.to.TCPAddr); err == nil {
		ctx, cancel := context.WithTimeout(ctx, lookAgain)
		defer cancel()
		all, _ := c.Copies(ctx, &rpc.CopiesRequest{}) // without an answer nothing is known
		for _, c := range all.GetCopies() {
			if c.ShardId == o.shard.ID {
				copied = c.Current
			}
		}
	}
	speed := wire.RebalanceSpeed{Rate: rate(copied, time.Since(began))}
	speed.Left = left(t.shown.Bytes-copied, speed.Rate)
	t.run.tell(t, wire.StepCopying, "", copied, speed)
}

// giveUp removes the old copy, when enough whole copies are left.
//
// A data node that does not know the new owner sends its writes to the old one alone. So all have to know it first,
// also one that cannot ask the meta nodes. A write may have been on its way by then. It ends within the time writes.
// Then the new copy is compared once more.
func (t *task) giveUp(ctx context.Context, sh cluster.Shard, from cluster.Node) (note string, err error) {
	if len(sh.Owners)-1 < t.least {
		return "", leftOutError{fmt.Sprintf("it has %d copies now, and must keep %d", len(sh.Owners), t.least)}
	}
	if note, err := t.allKnow(ctx); err != nil {
		return note, err
	}
	// An owner that is away is none that a write or a reader relies on: another whole copy is enough. The new one
	// becomes whole later, perhaps only when this owner does not lead its repairs any more.
	if !t.isAway(ctx, sh, from) {
		if note, err := t.await(ctx, sh); err != nil {
			return note, err
		}
	}
	if why := t.run.losses.heldAlone(ctx, []cluster.Shard{sh}, from)[sh.ID]; why != "" {
		return why, cmp.Or(t.compare(ctx), errWait)
	}
	// One that was down may serve again, with what it knew before.
	if why := t.run.nodes.behind(ctx, t.index); why != "" {
		t.known, t.told = time.Time{}, false
		return why, errWait
	}
	err = t.run.shards.giveUp(ctx, sh, from)
	if files := (filesLeftError{}); errors.As(err, &files) {
		return files.Error(), nil
	}
	return "", err
}

// compareAgain has the new copy compared once more: that of a move, or the one that is left when there were two.
func (t *task) compareAgain(ctx context.Context, sh cluster.Shard) error {
	id := t.step.To
	if id == 0 && len(sh.Owners) == 2 {
		id = sh.Owners[0]
		if id == t.step.From {
			id = sh.Owners[1]
		}
	}
	if t.told || id == 0 {
		return nil
	}
	c, err := t.run.nodes.client(t.run.nodes.addr(id))
	if err != nil {
		return err
	}
	_, err = c.Doubt(ctx, &rpc.DoubtRequest{ShardId: sh.ID})
	if code := status.Code(err); err != nil && code != codes.NotFound && code != codes.Unimplemented {
		return err // the others are of a shard without points, and of a node of an earlier build
	}
	t.told, t.asked = true, time.Time{} // what anti-entropy was asked for before does not count
	return nil
}

// allKnow waits until all data nodes know the owners of the shard.
func (t *task) allKnow(ctx context.Context) (note string, err error) {
	if !t.known.IsZero() {
		return "", nil
	}
	if t.index == 0 {
		t.index = t.run.nodes.state().Index
	}
	if why := t.run.nodes.behind(ctx, t.index); why != "" {
		return why, errWait
	}
	t.known = time.Now()
	return "", nil
}

// isAway reports whether an owner does not answer.
func (t *task) isAway(ctx context.Context, sh cluster.Shard, n cluster.Node) bool {
	copies := t.run.copies.describeCopies(ctx, []cluster.Shard{sh}, false)[sh.ID]
	return slices.ContainsFunc(copies, func(c Copy) bool { return c.Node == n.ID && c.State == unreachable })
}

// await waits until the new copy is whole, also with all writes that began before all data nodes knew of it.
func (t *task) await(ctx context.Context, sh cluster.Shard) (note string, err error) {
	if time.Since(t.known) < t.run.writes {
		return "writes that began before may be under way", errWait
	}
	if err := t.compareAgain(ctx, sh); err != nil {
		return rpc.Message(err), errWait
	}
	if t.step.To == 0 {
		return "", nil
	}
	copies := t.run.copies.describeCopies(ctx, []cluster.Shard{sh}, false)[sh.ID]
	i := slices.IndexFunc(copies, func(c Copy) bool { return c.Node == t.step.To })
	if i < 0 {
		return "", leftOutError{"the new owner does not own the shard any more"}
	}
	if p := copies[i].problem(); p != "" && !nothingWritten(copies) {
		return p, cmp.Or(t.compare(ctx), errWait)
	}
	return "", nil
}

// compare asks anti-entropy to compare the copies of the shard now, unless it was asked a moment ago. It fails where
// nothing will ever compare them.
func (t *task) compare(ctx context.Context) error {
	if time.Since(t.asked) < compareAgain {
		return nil
	}
	t.asked = time.Now()
	if err := t.run.repair(ctx, t.step.Shard); errors.Is(err, entropy.ErrDisabled) {
		return errors.New("the new copy lacks what was written while it was made: enable [anti-entropy], " +
			"which brings it, and run influxd-ctl rebalance again")
	}
	return nil // other errors pass: the first owner may be away, and the others compare the copies later
}
