package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"concord/internal/rpc"
)

// A shard moves while some coordinators still have the metadata from before. They send their writes to nodes that are
// no owners any more. Such a node refuses them: its copy is about to be removed, or was removed, and nobody would read
// what it takes. The coordinator then asks for the owners and tries once more (Writer.write). Package operator takes a
// shard away from a node only when all coordinators know the new owner.

// notOwnerError is that a node takes no writes to a shard, because it does not own the shard any more. It is not
// permanent: the owners that the shard has now take the write.
type notOwnerError struct {
	node  string // as people call it
	shard uint64
}

func (e *notOwnerError) Error() string {
	return fmt.Sprintf("%s does not own shard %d any more", e.node, e.shard)
}

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
	return &notOwnerError{"this node", shard}
}

// refuses is disowned for a write of another node. It returns nil when the sender has newer metadata than this node,
// which has then tried to catch up, and could not: this node may have become an owner.
func (c *ownCopies) refuses(ctx context.Context, shard uint64) error {
	if c.Meta.Index() < rpc.Relied(ctx).Index {
		return nil
	}
	return c.disowned(shard)
}
