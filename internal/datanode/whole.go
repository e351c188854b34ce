package datanode

import (
	"context"

	"concord/internal/entropy"
)

// notWhole is why this node's copy of a shard may lack acknowledged writes or deletes, in one clause; empty when
// it has them all. It is what a backup, a copy and a removal ask before they trust the copy.
func (n *Node) notWhole(shard uint64) string {
	if n.NotWhole != nil {
		return n.NotWhole(shard)
	}
	states, err := n.local.States(context.Background(), []uint64{shard})
	st := states[shard]
	switch {
	case err != nil:
		return "its state cannot be read: " + err.Error()
	case st.Corrupt != "":
		return "it is damaged: " + st.Corrupt
	case entropy.BegunByCopy(st.Begun):
		return "it is a copy that was not yet compared with the other owners'"
	}
	return ""
}
