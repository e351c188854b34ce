package datanode

import "context"

// notWhole is why copies of this node may lack acknowledged writes or deletes, in one clause each, by shard. A copy
// that has them all is not in it. It is what a backup, a copy and a removal ask before they trust a copy.
func (n *Node) notWhole(ctx context.Context, shards ...uint64) map[uint64]string {
	why := make(map[uint64]string)
	if n.seams.NotWhole != nil {
		for _, id := range shards {
			if reason := n.seams.NotWhole(id); reason != "" {
				why[id] = reason
			}
		}
		return why
	}
	for id, unfit := range n.copies.Unfit(ctx, shards...) {
		why[id] = unfit.Reason
	}
	return why
}
