package deletes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// catchUpTimeout is for all deletes of one node.
const catchUpTimeout = 10 * time.Minute

// CatchUp runs the deletes that other nodes remember and this one does not: its disk is older than it was, or deletes
// that were kept for it are lost. All nodes must answer, as a delete may have run on some of them only.
func (d *Service) CatchUp(ctx context.Context) error {
	if d.deps.Ran == nil {
		return nil // without hinted handoff nobody remembers deletes
	}
	nodes, err := d.others()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range rpc.TellAll(ctx, nodes, catchUpTimeout, d.catchUpFrom) {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %s", a.Node.TCPAddr, rpc.Message(a.Err)))
		}
	}
	return errors.Join(errs...)
}

// catchUpFrom runs what one node remembers.
func (d *Service) catchUpFrom(ctx context.Context, n cluster.Node) error {
	p, err := d.peer(n)
	if err != nil {
		return err
	}
	stream, err := p.deletes.RememberedDeletes(ctx, &rpc.RememberedDeletesRequest{})
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = valid(r)
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
