package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"concord/internal/handoff"
	"concord/internal/order"
	"concord/internal/rpc"
)

// A shard moves while some coordinators still have the metadata from before. They send their writes to nodes that are
// no owners any more. Such a node refuses them: its copy is about to be removed, or was removed, and nobody would read
// what it takes. This file has what the owners that were and the coordinators do then. What keeps a shard from being
// taken away from a node before all coordinators know the new owner is in package operator.

// notOwnerError is that a node takes no writes to a shard, because it does not own the shard any more. It is not
// permanent: the owners that the shard has now take the write.
type notOwnerError struct {
	node  string // as people call it
	shard uint64
}

func (e *notOwnerError) Error() string {
	return fmt.Sprintf("%s does not own shard %d any more", e.node, e.shard)
}

// thisNode is what an error calls the node itself.
const thisNode = "this node"

// isNotOwner reports whether a write failed because its owner is none any more.
func isNotOwner(err error) bool {
	var e *notOwnerError
	return errors.As(err, &e)
}

// disowned returns an error when this node does not own a shard, as far as its metadata says. It returns nil for a
// shard that is not in its metadata: the shard may be newer.
func (c *ownCopies) disowned(shard uint64) error {
	owners := c.Meta.OwnersOf(shard)
	if len(owners) == 0 || slices.Contains(owners, c.Meta.NodeID()) {
		return nil
	}
	return &notOwnerError{thisNode, shard}
}

// refuses is disowned for a write of another node. It returns nil when the sender has newer metadata than this node,
// which has then tried to catch up, and could not: this node may have become an owner.
func (c *ownCopies) refuses(ctx context.Context, shard uint64) error {
	if c.Meta.Index() < rpc.Relied(ctx).Index {
		return nil
	}
	return c.disowned(shard)
}

// keepsAlone reports whether hinted handoff may have the only copy of a write. That is so where it has something for
// all owners of a shard. It is also so where it has something for a node that is no owner any more: the owners may get
// it instead (Writer.Heirs). mu of floors must be held.
func (f *floors) keepsAlone() bool {
	if f.Handoff == nil {
		return false
	}
	waits := make(map[uint64][]uint64) // nodes, by shard
	for _, q := range f.Handoff.Waiting() {
		waits[q.Shard] = append(waits[q.Shard], q.Node)
	}
	for shard, nodes := range waits {
		owners := f.Meta.OwnersOf(shard)
		owns := func(node uint64) bool { return slices.Contains(owners, node) }
		waitsFor := func(owner uint64) bool { return slices.Contains(nodes, owner) }
		if len(owners) == 0 {
			continue // it was dropped
		}
		if !every(nodes, owns) || every(owners, waitsFor) {
			return true
		}
	}
	return false
}

func every(nodes []uint64, ok func(uint64) bool) bool {
	return !slices.ContainsFunc(nodes, func(n uint64) bool { return !ok(n) })
}

// Heirs returns the nodes that are to get a write which hinted handoff has for a node that does not own the shard any
// more. There are none when one of the owners that the shard has now was sent the write, too: it has the write, or an
// entry of its own. An owner that was told that nothing as old reaches it any more does not get it either. The write
// was then not acknowledged because hinted handoff has it, or an earlier build kept it.
func (w *Writer) Heirs(shard uint64, e handoff.Entry) (heirs []uint64) {
	m := &rpc.WriteShardRequest{}
	if e.Kind != handoff.Write || proto.Unmarshal(e.Data, m) != nil || m.Version == 0 {
		return nil
	}
	owners := w.Meta.OwnersOf(shard)
	if slices.ContainsFunc(owners, func(o uint64) bool { return slices.Contains(m.Owners, o) }) {
		return nil
	}
	for _, o := range owners {
		if w.floors.mayStillSend(o, order.Version(m.Version)) {
			heirs = append(heirs, o)
		}
	}
	return heirs
}

// mayStillSend reports whether a node that gets something of version v is not told before that it gets nothing as old.
// While keepsAlone is true, that does not change.
func (f *floors) mayStillSend(node uint64, v order.Version) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return v >= f.said[node]
}
