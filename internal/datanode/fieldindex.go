package datanode

import (
	"go.uber.org/zap"

	"concord/internal/entropy/fieldindex"
	"concord/internal/entropy/tsmfile"
)

// fieldFolders are where the indexes of fields are, and where those that are replaced are kept.
func (n *Node) fieldFolders() fieldindex.Folders {
	return fieldindex.Folders{Data: n.cfg.Data.Dir, WAL: n.cfg.Data.WALDir, Aside: n.memory.Aside()}
}

// fieldsRebuilt logs what was done to indexes of fields at the start. A shard that could not be put right is damaged.
func (n *Node) fieldsRebuilt(all []fieldindex.Rebuilt) error {
	for _, r := range all {
		log := n.log.With(zap.Uint64("db_shard_id", r.Shard), zap.String("reason", r.Reason))
		for _, c := range r.Conflicts {
			log.Warn("A field has values of several types", zap.String("conflict", c))
		}
		if r.Err == nil {
			log.Warn("The index of fields of a shard was made anew from its data files", zap.String("kept", r.Kept))
			continue
		}
		if r.Reason == "" {
			log.Warn("Cannot verify the index of fields of a shard", zap.Error(r.Err))
			continue
		}
		log.Error("Cannot put the index of fields of a shard right", zap.Error(r.Err))
		d := &tsmfile.Damage{File: fieldindex.File, Offset: -1, Reason: r.Reason + ": " + r.Err.Error()}
		if err := n.memory.Found(r.Shard, d); err != nil {
			return err
		}
	}
	return nil
}
