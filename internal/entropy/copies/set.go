package copies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"concord/internal/cluster"
	"concord/internal/copystate"
	"concord/internal/entropy"
	"concord/internal/entropy/digest"
	"concord/internal/entropy/reconcile"
	"concord/internal/rpc"
)

// Copy is one owner's copy of a shard.
type Copy struct {
	cluster.Node
	Replica entropy.Replica
	State   entropy.ShardState // when it was asked
	Own     bool               // it is this node's
}

// Set is the copies of one shard that can be used, in the order of its owners. It has many methods, because a check, a
// repair and a dry run each ask other things of the same copies.
type Set struct {
	Shard  cluster.Shard
	Copies []Copy
	Away   []error // for each other owner: why its copy cannot be used
	Asked  time.Time
}

// Complete reports whether all owners take part.
func (s Set) Complete() bool { return len(s.Copies) == len(s.Shard.Owners) }

// AwayError says why owners do not take part. It is nil when all do.
func (s Set) AwayError() error { return errors.Join(s.Away...) }

// Owners are the IDs of the nodes that take part.
func (s Set) Owners() []uint64 { return column(s, func(c Copy) uint64 { return c.ID }) }

// Addrs are the TCP addresses of the nodes that take part.
func (s Set) Addrs() []string { return column(s, func(c Copy) string { return c.TCPAddr }) }

// Clocks are those of the nodes when they were asked, 0 for not known.
func (s Set) Clocks() []uint64 { return column(s, func(c Copy) uint64 { return c.State.Clock }) }

// Versions returns the Version of each copy, in the order of Copies. It changes with the contents of the copy.
func (s Set) Versions() []entropy.Version {
	return column(s, func(c Copy) entropy.Version { return c.State.Version })
}

// Lacks returns the Lack.Gen of each copy, in the order of Copies. It changes when the copy misses something more.
func (s Set) Lacks() []uint64 { return column(s, func(c Copy) uint64 { return c.State.Lack.Gen }) }

func column[T any](s Set, of func(Copy) T) []T {
	out := make([]T, len(s.Copies))
	for i, c := range s.Copies {
		out[i] = of(c)
	}
	return out
}

// Any reports whether there is a copy of which something holds.
func (s Set) Any(holds func(entropy.ShardState) bool) bool {
	return slices.ContainsFunc(s.Copies, func(c Copy) bool { return holds(c.State) })
}

// Existing is how many copies exist. The others can be made.
func (s Set) Existing() (n int) {
	for _, c := range s.Copies {
		if c.State.Exists {
			n++
		}
	}
	return n
}

// MostLacking is the copy that lacks the most. any is false when none is known to lack anything.
func (s Set) MostLacking() (worst Copy, any bool) {
	for _, c := range s.Copies {
		if c.State.Lack.Kind.Worse(worst.State.Lack.Kind) {
			worst, any = c, true
		}
	}
	return worst, any
}

// OnItsWay finds a copy for which a node keeps writes or deletes, and that node.
func (s Set) OnItsWay() (from, to uint64, any bool) {
	owners := s.Owners()
	for _, c := range s.Copies {
		for _, to := range c.State.Hints {
			if slices.Contains(owners, to) {
				return c.ID, to, true
			}
		}
		if len(c.State.Waiting) > 0 {
			return c.State.Waiting[0], c.ID, true
		}
	}
	return 0, 0, false
}

// Quiet reports whether no copy was written to since a time.
func (s Set) Quiet(since time.Time) bool {
	return !s.Any(func(st entropy.ShardState) bool { return st.Exists && st.LastModified >= since.UnixNano() })
}

// OneBeganLate reports whether a copy lacks older points that another one may have, as their beginnings tell.
func (s Set) OneBeganLate() bool {
	first, last := s.Copies[0].State.Beginning, s.Copies[0].State.Beginning
	for _, c := range s.Copies {
		first, last = min(first, c.State.Beginning), max(last, c.State.Beginning)
	}
	return last.LaterThan(first)
}

// SettledAt is when the time settle is over since a write began the newest of the existing copies. It is the zero time
// when one of them was not begun by a write.
func (s Set) SettledAt(settle time.Duration) (settled time.Time) {
	for _, c := range s.Copies {
		if !c.State.Exists {
			continue
		}
		began, ok := c.State.Beginning.Time()
		if !ok {
			return time.Time{}
		}
		if at := began.Add(settle); at.After(settled) {
			settled = at
		}
	}
	return settled
}

// EqualRoots reports whether all copies have the same root over the windows that end at or before until, in nanoseconds
// or entropy.Everything. It asks all owners at the same time. The error names the owners that failed.
func (s Set) EqualRoots(ctx context.Context, until int64) (bool, error) {
	roots := rpc.AskAll(ctx, s.Copies, 0, func(ctx context.Context, c Copy) (digest.Sum, error) {
		return c.Replica.Root(ctx, s.Shard, until)
	})
	var errs []error
	equal := true
	for _, r := range roots {
		if r.Err != nil {
			errs = append(errs, fmt.Errorf("digest of shard %d on %s: %w", s.Shard.ID, r.Node.TCPAddr, r.Err))
		}
		equal = equal && r.Value == roots[0].Value
	}
	if err := errors.Join(errs...); err != nil {
		return false, err
	}
	return equal, nil
}

// Unchanged reports whether all copies exist, and none was modified since the owners were asked.
func (s Set) Unchanged(ctx context.Context) (bool, error) {
	for _, c := range s.Copies {
		m, err := c.Replica.States(ctx, []uint64{s.Shard.ID})
		if err != nil {
			return false, fmt.Errorf("state of shard %d on %s: %w", s.Shard.ID, c.TCPAddr, err)
		}
		if m[s.Shard.ID].LastModified != c.State.LastModified || !m[s.Shard.ID].Exists {
			return false, nil
		}
	}
	return true, nil
}

// Reconciled are the copies as a Reconciler takes them, with the windows that end at or before until, in nanoseconds.
func (s Set) Reconciled(until int64) []reconcile.Owner {
	out := make([]reconcile.Owner, len(s.Copies))
	for i, c := range s.Copies {
		out[i].Addr = c.TCPAddr
		out[i].List = func(ctx context.Context, fn func(*digest.SeriesField) error) error {
			return c.Replica.Digests(ctx, s.Shard, until, fn)
		}
		if !c.Own { // this node lists its own copy: nothing crosses the network
			out[i].Summarize = func(ctx context.Context, key uint64) (reconcile.Summary, error) {
				return c.Replica.Summarize(ctx, s.Shard, until, key)
			}
		}
	}
	return out
}

// Sources are the owners whose files a missing copy can be made of: those whose copies are whole, then those that lack
// some writes, then the others.
func (s Set) Sources() (out []cluster.Node) {
	var whole, right, rest []Copy
	for _, c := range s.Copies {
		switch {
		case c.State.Whole():
			whole = append(whole, c)
		case c.State.Right():
			right = append(right, c)
		case c.State.Healthy():
			rest = append(rest, c)
		}
	}
	for _, c := range slices.Concat(s.largestFirst(whole), s.largestFirst(right), s.largestFirst(rest)) {
		out = append(out, c.Node)
	}
	return out
}

// largestFirst orders copies by size. Of those that are about as large as the largest, it depends on the shard which is
// first, so that not one node is the source of all.
func (s Set) largestFirst(copies []Copy) []Copy {
	if len(copies) == 0 {
		return nil
	}
	slices.SortStableFunc(copies, func(a, b Copy) int { return cmp.Compare(b.State.Size, a.State.Size) })
	most, equal := copies[0].State.Size, 0
	for equal < len(copies) && copies[equal].State.Size >= most-most/10 {
		equal++
	}
	slices.SortFunc(copies[:equal], func(a, b Copy) int { return cmp.Compare(a.ID, b.ID) })
	first := s.Shard.ID % uint64(equal)
	return slices.Concat(copies[first:equal], copies[:first], copies[equal:])
}

// Replaces reports whether the one copy that is Older can be made anew from the others, although none of them is whole.
// All other owners must take part, and their copies may lack some writes at most. A write that more than half of the
// owners acknowledged is then on at least one of the other owners. If two copies are Older, a write may be on these
// two only. It is false while any copy lacks only deletes (Lack.OnlyDeletes): that copy is merged once they have run.
func (s Set) Replaces() bool {
	older := 0
	for _, c := range s.Copies {
		switch {
		case c.State.Older() && !c.State.Lack.OnlyDeletes():
			older++
		case !c.State.Right() || c.State.Beginning == copystate.FromFiles:
			return false
		}
	}
	return s.Complete() && older == 1
}

// foreign reports whether a copy is something else than what its node was sent: it is damaged, or was made of the files
// of another owner.
func (c Copy) foreign() bool {
	return c.State.Corrupt != "" || c.State.Beginning == copystate.FromFiles
}

// MayHaveNewest reports, for each copy in the order of Copies, whether the last acknowledged value of a point may be on
// this one alone, although it lacks other writes: the node may have gone down before it had sent the write to other
// owners. Why a copy missed writes is not known here, so every one that missed some counts. It is nil for none.
func (s Set) MayHaveNewest() []bool {
	out := column(s, func(c Copy) bool { return !c.foreign() && c.State.Lack.Kind == copystate.Missed })
	if !slices.Contains(out, true) {
		return nil
	}
	return out
}

// WithoutVote reports, for each copy in the order of Copies, whether it has no vote about which value is right. A copy
// has none when it lacks something, is damaged, or was made of another owner's files: with two votes, what a minority
// holds would become the majority. When no copy would have a vote, the Missed and Lost ones that are neither damaged
// nor made of files have one, if they are two or more. Otherwise every copy has one that is neither Outdated nor Stale.
func (s Set) WithoutVote() []bool {
	older := func(c Copy) bool { return c.State.Lack.Kind.Worse(copystate.Lost) }
	without := column(s, func(c Copy) bool { return c.foreign() || c.State.Lack.Kind != "" })
	if slices.Contains(without, false) {
		return without
	}
	without = column(s, func(c Copy) bool { return c.foreign() || older(c) })
	if voters := slices.DeleteFunc(slices.Clone(without), func(d bool) bool { return d }); len(voters) > 1 {
		return without
	}
	return column(s, older)
}
