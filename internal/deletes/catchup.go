package deletes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/order"
	"concord/internal/rpc"
)

// catchUpTimeout is for all deletes of one node.
const catchUpTimeout = 10 * time.Minute

// CatchUp runs the deletes with versions above since that other nodes remember and this one does not: its disk was
// rolled back to a moment that is not before since. All nodes must answer, as a delete may have run on some of them
// only.
//
// An older delete must not run. When it ran on the others, this node had no part in it, as it joined later for example,
// and may have newer points whose versions are forgotten.
func (d *Service) CatchUp(ctx context.Context, since order.Version) error {
	if d.deps.Ran == nil {
		return nil // without hinted handoff nobody remembers deletes
	}
	nodes, err := d.others()
	if err != nil {
		return err
	}
	every := func(*rpc.Delete) bool { return true }
	return d.fromAll(ctx, nodes, catchUpTimeout, func(ctx context.Context, n cluster.Node) error {
		return d.catchUpFrom(ctx, n, since, every)
	})
}

// RunMissed runs deletes that other nodes ran, that this one did not, and that nobody may keep for it. It does not ask
// the nodes for which away is true. What these keep for this node comes when they are back. If they lose it, this node
// hears of the loss. At least half of the other nodes must answer, or RunMissed fails. As each acknowledged delete ran
// on more than half of all nodes, one of those that answer ran it. A node whose disk is new, and that has not yet heard
// from all others what they remember, counts as away.
//
// It leaves out a delete when the journal may have forgotten which points are newer, or when the delete is from before
// the log began and was not learned: newer points would go too. all is false then. all is also false without hinted
// handoff, and when a node of an earlier version does not tell what it ran, or for which nodes a delete was.
func (d *Service) RunMissed(ctx context.Context, away func(cluster.Node) bool) (all bool, err error) {
	if d.deps.Ran == nil {
		return false, nil
	}
	began, err := d.logBegan()
	if err != nil {
		return false, err
	}
	others, err := d.others()
	if err != nil {
		return false, err
	}
	nodes := slices.DeleteFunc(slices.Clone(others), away)
	var silent atomic.Int64
	silent.Store(int64(len(others) - len(nodes)))
	forgot, mine := d.deps.Journal.Forgot(), d.mine()
	var left atomic.Bool // some that this node may lack
	missed := func(r *rpc.Delete) bool {
		v := order.Version(r.Version)
		switch {
		case d.ran(r.Id), v <= began && d.deps.Ran.learned(r):
			return false
		case len(r.Nodes) == 0, mine(r) && v <= max(forgot, began):
			left.Store(true)
			return false
		}
		return mine(r)
	}
	err = d.fromAll(ctx, nodes, catchUpTimeout, func(ctx context.Context, n cluster.Node) error {
		err := d.catchUpFrom(ctx, n, 0, missed)
		switch {
		case isOld(err):
			left.Store(true)
			return nil
		case status.Code(err) == codes.FailedPrecondition:
			silent.Add(1)
			return nil
		}
		return err
	})
	if n := int(silent.Load()); err == nil && n > len(others)/2 {
		err = fmt.Errorf("%d of %d other data nodes are away, or do not know yet which deletes ran", n, len(others))
	}
	return err == nil && !left.Load(), err
}

// fromAll does something with all nodes, and returns an error that names those with which it failed.
func (d *Service) fromAll(
	ctx context.Context, nodes []cluster.Node, timeout time.Duration, from func(context.Context, cluster.Node) error,
) error {
	var errs []error
	for _, a := range rpc.TellAll(ctx, nodes, timeout, from) {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", a.Node.TCPAddr, rpc.Message(a.Err)))
		}
	}
	return errors.Join(errs...)
}

// errNotLearned is why a node does not run yet what it may have missed: its log is new, and it cannot tell which
// deletes are from before. These would take newer points, whose versions nobody knows any more.
var errNotLearned = errors.New("the disk of this node is new, and not all nodes have told it yet which deletes they " +
	"remember: it asks them again by itself")

// logBegan is Began of the log, or errNotLearned while that is not certain.
func (d *Service) logBegan() (order.Version, error) {
	if !d.deps.Ran.Learned() { // before Began is asked for: learning raises it
		return 0, errNotLearned
	}
	return d.deps.Ran.Began(), nil
}

// catchUpFrom runs what one node remembers with a version above since, and is wanted.
func (d *Service) catchUpFrom(
	ctx context.Context, n cluster.Node, since order.Version, wanted func(*rpc.Delete) bool,
) error {
	p, err := d.peer(n)
	if err != nil {
		return err
	}
	stream, err := p.deletes.RememberedDeletes(ctx, &rpc.RememberedDeletesRequest{Since: uint64(since), All: true})
	if err != nil {
		return err
	}
	for {
		if ctx.Err() != nil { // Recv still returns what had come before
			return context.Cause(ctx)
		}
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = valid(r)
		}
		if err == nil && (order.Version(r.Version) <= since || !wanted(r)) {
			continue
		}
		if err == nil {
			err = d.heard(r.Version)
		}
		if err == nil {
			err = d.runOnce(r, true)
		}
		if err != nil && !neverRuns(err) {
			return err
		}
	}
}
