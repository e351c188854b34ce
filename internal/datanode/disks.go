package datanode

import (
	"cmp"
	"slices"

	"github.com/influxdata/influxdb/models"

	"concord/internal/fulldisk"
)

// disks are the folders of a node, for the statistic disk.
type disks []string

// disks are the folders of this node. Several may be on one file system.
func (n *Node) disks() disks {
	dirs := disks{n.cfg.Data.Dir, n.cfg.Data.WALDir, n.cfg.Meta.Dir}
	if n.cfg.HintedHandoff.Enabled {
		dirs = append(dirs, n.cfg.HintedHandoff.Dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Statistics are disk, for each folder: what is free on its file system for this process, and its size.
func (d disks) Statistics(tags map[string]string) []models.Statistic {
	var out []models.Statistic
	for _, dir := range d {
		free, total, err := fulldisk.Free(dir)
		if err != nil {
			continue // the engine makes some of the folders later
		}
		out = append(out, models.Statistic{
			Name: "disk", Tags: models.StatisticTags{"path": dir}.Merge(tags),
			Values: map[string]any{"freeBytes": int64(free), "totalBytes": int64(total)},
		})
	}
	slices.SortFunc(out, func(a, b models.Statistic) int { return cmp.Compare(a.Tags["path"], b.Tags["path"]) })
	return out
}
