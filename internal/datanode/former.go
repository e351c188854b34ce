package datanode

import (
	"errors"
	"fmt"
	"io/fs"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/durable"
	"concord/internal/handoff"
)

// A data node that was removed with force while nobody could reach it was not told to leave. When it is added again on
// its folders, it gets another ID. From its removal on, the others did not wait for it before they forgot versions and
// deletes. Two things that it noted as the former node would be wrong from then on:
//
//   - The queues of hinted handoff have writes and deletes from before the removal. Other nodes may have forgotten what
//     is newer. They would write old values over new ones, and points that were deleted.
//   - deletes.db says that it has every delete since it began. It lacks those that ran while the node was no member.
//
// Both are set aside before the new ID is stored: after a crash in between, the node still is one that was removed, and
// serves nothing. With a new deletes.db it learns what the others remember, as a new node does. The rest stays. It owns
// none of the copies on its disk: when it is to own one, that is made of another owner's.

// errPartsChange is the answer of the idle server while n.life is held. It must not wait for n.life: the goroutine that
// holds it may be closing the idle server, and waits for this answer.
var errPartsChange = status.Error(codes.Unavailable, "this data node opens or closes its files: ask again")

// endFormer sets aside what this node noted while it was the data node with the ID former. The error is of gRPC. Its
// code is Unavailable while this node still serves as that data node: it has yet to find out that it was removed, and
// to close the files. It does so by itself, and is to be asked again.
func (n *Node) endFormer(former uint64) error {
	if !n.life.TryLock() {
		return errPartsChange
	}
	defer n.life.Unlock()
	if n.partsOpen() {
		n.CheckPlace()
		return status.Errorf(codes.Unavailable, "this data node still serves as data node %d: ask again", former)
	}
	if err := n.setFormerAside(former); err != nil {
		return status.Errorf(codes.FailedPrecondition, "this data node was removed as data node %d, and cannot begin "+
			"anew: %v", former, err)
	}
	return nil
}

// setFormerAside is endFormer of a node whose parts are closed.
func (n *Node) setFormerAside(former uint64) error {
	log := n.log.With(zap.Uint64("former_node_id", former))
	dir := n.cfg.HintedHandoff.Dir
	if dir != "" {
		aside, queues, err := handoff.SetFormerAside(dir, former)
		if errors.Is(err, fs.ErrPermission) && !n.cfg.HintedHandoff.Enabled {
			err = nil // no folder of this node's
		}
		if err != nil {
			return err
		}
		if queues > 0 {
			log.Warn("Set aside what hinted handoff kept for other nodes: it is not sent any more",
				zap.Int("queues", queues), zap.String("kept", aside), zap.String("reason",
					"this node was removed, and the others may have forgotten which writes and deletes are newer"))
		}
	}
	aside, err := durable.SetAside(n.ranLogFile(), fmt.Sprintf("former-node%d", former))
	if err != nil {
		return fmt.Errorf("set the log of deletes aside: %w", err)
	}
	if aside != "" {
		log.Info("Set the log of deletes aside: it lacks those that ran while this node was removed",
			zap.String("kept", aside))
	}
	return nil
}
