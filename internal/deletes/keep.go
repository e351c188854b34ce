package deletes

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"concord/internal/cluster"
	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// keep queues a delete for missed nodes, here and on every node that was reached. One of these queues is enough for it
// not to be lost. The others bring it sooner when they reach a missed node first.
func (d *Service) keep(r *rpc.Delete, missed missedNodes, reached []cluster.Node) error {
	if len(missed) == 0 {
		return nil
	}
	ids := make([]uint64, len(missed))
	for i, n := range missed {
		ids[i] = n.ID
	}
	own := d.hint(r, ids)
	kept := own == nil
	hint := func(ctx context.Context, p peer) error {
		return p.hint(ctx, &rpc.HintDeleteRequest{Delete: r, Nodes: ids})
	}
	for _, a := range d.tellAll(reached, hint) {
		if kept = kept || a.Err == nil; a.Err != nil {
			d.deps.Log.Warn("A data node does not keep a delete for those that miss it",
				zap.String("node", a.Node.TCPAddr), zap.String("error", rpc.Message(a.Err)))
		}
	}
	if kept {
		return nil
	}
	return own
}

// hint queues a delete for nodes that were not reached, or on which it failed. This node may be one of them.
func (d *Service) hint(req *rpc.Delete, nodes []uint64) error {
	if d.deps.Handoff == nil {
		return errors.New("[hinted-handoff] enabled is false")
	}
	b, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range nodes {
		err := d.deps.Handoff.Append(n, handoff.WholeDatabase, handoff.Entry{Kind: handoff.Delete, Data: b})
		if err == nil {
			d.deps.Missed(n, handoff.WholeDatabase)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Description is a delete for people.
type Description struct {
	ID       string // the same on all nodes; empty for one of a node without versions
	Database string
	Text     string // InfluxQL
}

// Describe reads an entry of hinted handoff that is a delete.
func Describe(e handoff.Entry) (d Description, err error) {
	req := &rpc.Delete{}
	if err := proto.Unmarshal(e.Data, req); err != nil {
		return d, err
	}
	if err := check(req); err != nil {
		return d, err
	}
	d = Description{ID: req.Id, Database: req.Database, Text: req.Statement}
	if req.Kind == rpc.Delete_DROP_MEASUREMENT {
		d.Text = "DROP MEASUREMENT " + influxql.QuoteIdent(req.Name)
	}
	return d, nil
}

// Deliver sends entries of hinted handoff to a node: handoff.Deps.Deliver. The writer sends those that are writes. It
// is here because queues from before writes had versions have deletes among their writes, which take points out of
// those before them.
func (d *Service) Deliver(ctx context.Context, node, shard uint64, entries, behind []handoff.Entry) (int, error) {
	for i := 0; i < len(entries); {
		if entries[i].Kind == handoff.Delete {
			if err := d.deliverDelete(ctx, node, entries[i]); err != nil {
				return i, err
			}
			i++
			continue
		}
		end := i
		for end < len(entries) && entries[end].Kind == handoff.Write {
			end++
		}
		deletes, err := d.behind(shard, entries[end:], behind)
		if err != nil {
			return i, err
		}
		removed := func(version uint64) (func(models.Point) bool, error) {
			return deletes.removed(version), d.mayDeliver(node, shard, version)
		}
		n, err := d.deps.Writes.DeliverWrites(ctx, node, entries[i:end], removed)
		if i += n; err != nil {
			return i, err
		}
	}
	return len(entries), nil
}

// mayDeliver returns an error while a delete runs on this node that would remove a newer write which is brought to it.
func (d *Service) mayDeliver(node, shard, version uint64) error {
	sh, ok := d.deps.Meta.Shard(shard)
	if ok && node == d.deps.Meta.NodeID() && d.deps.Memory.removals.runsBelow(sh.Database, order.Version(version)) {
		return errDeleteRuns
	}
	return nil
}

var errDeleteRuns = errors.New("a delete runs on this node, and writes that are newer wait for its end")

// behind returns the deletes among entries that wait behind writes of a shard. Only queues from before writes had
// versions have some.
func (d *Service) behind(shard uint64, lists ...[]handoff.Entry) (out coverings, err error) {
	sh, ok := d.deps.Meta.Shard(shard)
	for _, entries := range lists {
		for _, e := range entries {
			if e.Kind != handoff.Delete {
				continue
			} else if !ok {
				return nil, fmt.Errorf("shard %d is not in the metadata", shard)
			}
			req := &rpc.Delete{}
			err := proto.Unmarshal(e.Data, req)
			if err == nil {
				err = check(req)
			}
			if err != nil {
				continue // it is dropped as malformed when it is its turn
			}
			c, err := newCovering(req, sh.RetentionPolicy)
			if err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

func (d *Service) deliverDelete(ctx context.Context, node uint64, e handoff.Entry) error {
	req := &rpc.Delete{}
	err := proto.Unmarshal(e.Data, req)
	if err == nil {
		err = check(req)
	}
	if err != nil {
		return &handoff.PermanentError{Err: fmt.Errorf("malformed entry: %w", err)}
	}
	if req.Bounds != nil {
		return nil // it took its points out of what was before it
	}
	if node == d.deps.Meta.NodeID() { // it failed here before
		err := d.runOnce(req, true)
		if neverRuns(err) {
			return &handoff.PermanentError{Err: err}
		}
		return err
	}
	n, ok := d.deps.Meta.DataNode(node)
	if !ok {
		return fmt.Errorf("data node %d is not in the cluster", node)
	}
	p, err := d.peer(n)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	resp, err := p.run(ctx, &rpc.RunDeleteRequest{Delete: req, Hinted: true})
	d.deps.HearMark(resp.GetMark())
	switch {
	case status.Code(err) == codes.InvalidArgument:
		return &handoff.PermanentError{Err: errors.New(rpc.Message(err))}
	case err != nil:
		return errors.New(rpc.Message(err))
	case resp.Error != "":
		return errors.New(resp.Error)
	}
	return nil
}
