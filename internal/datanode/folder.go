package datanode

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"concord/internal/durable"
	"concord/internal/entropy/tsmfile"
	"concord/internal/meta/client"
)

// The mark is a file in the data folder, beside the databases. It says of which cluster the shards in the folder are.
// Shards without it are another server's: their IDs mean something else, and this cluster would write into them
// and drop them. docs/format/mark.md describes the file.
const (
	markFile   = "concord-cluster"
	markFormat = "concord 1 cluster %016x"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errDamagedMark is wrapped by the errors of readMark for a file that is not a mark.
var errDamagedMark = errors.New("its checksum is wrong")

func encodeMark(cluster uint64) []byte {
	text := fmt.Sprintf(markFormat, cluster)
	return fmt.Appendf(nil, "%s %08x\n", text, crc32.Checksum([]byte(text), castagnoli))
}

func decodeMark(b []byte) (cluster uint64, err error) {
	if _, err := fmt.Sscanf(string(b), markFormat, &cluster); err != nil || string(encodeMark(cluster)) != string(b) {
		return 0, errDamagedMark
	}
	return cluster, nil
}

// readMark returns the cluster whose shards are in a data folder, 0 when it has no mark.
func readMark(dir string) (cluster uint64, err error) {
	path := filepath.Join(dir, markFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil {
		cluster, err = decodeMark(b)
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return cluster, nil
}

// dataFolder is where the shards of this node are.
type dataFolder struct {
	dir    string // of the engine's files; has the mark
	walDir string
	meta   *client.Client
	log    *zap.Logger
}

func (n *Node) folder() dataFolder {
	return dataFolder{dir: n.cfg.Data.Dir, walDir: n.cfg.Data.WALDir, meta: n.Meta, log: n.log}
}

func (f dataFolder) writeMark(cluster uint64) error {
	err := os.MkdirAll(f.dir, 0o755)
	if err == nil {
		err = durable.WriteFile(filepath.Join(f.dir, markFile), encodeMark(cluster), 0o640)
	}
	if err != nil {
		return fmt.Errorf("mark the data folder %s: %w", f.dir, err)
	}
	return nil
}

// keep refuses to start on shards that are not of this node's cluster, before anything touches them. A node that
// joined with a version that had no mark gets one.
func (f dataFolder) keep() error {
	cluster, earlier := f.meta.ClusterID(), f.meta.NodeID() != 0 && f.meta.Identity() == ""
	mark, err := readMark(f.dir)
	switch {
	case errors.Is(err, errDamagedMark) && cluster != 0:
		f.log.Warn("The mark of the data folder is written anew", zap.Error(err)) // node.json has the cluster, too
		earlier = true
	case errors.Is(err, errDamagedMark): // join refuses shards that it finds
		return nil
	case err != nil:
		return err
	case mark != 0 && mark == cluster, mark != 0 && cluster == 0:
		return f.meta.Name()
	}
	if !earlier || mark != 0 {
		if err := f.refuseForeign(mark); err != nil {
			return err
		}
	}
	if cluster == 0 {
		return nil
	}
	if err := f.writeMark(cluster); err != nil {
		return err
	}
	return f.meta.Name()
}

// check refuses shards that are not of a cluster.
func (f dataFolder) check(cluster uint64) error {
	mark, err := readMark(f.dir)
	if err != nil && !errors.Is(err, errDamagedMark) {
		return err
	}
	if mark == cluster {
		return nil
	}
	return f.refuseForeign(mark)
}

// join marks the data folder for the cluster that this node joins.
func (f dataFolder) join(cluster uint64) error {
	if err := f.check(cluster); err != nil {
		return err
	}
	return f.writeMark(cluster)
}

// refuseForeign returns an error when there are shards on disk. mark is the cluster whose they are, 0 for none.
func (f dataFolder) refuseForeign(mark uint64) error {
	found, databases := 0, make(map[string]bool)
	for _, dir := range []string{f.dir, f.walDir} {
		paths, err := tsmfile.Glob(dir, "*", "*", "*")
		if err != nil {
			return fmt.Errorf("look for shards in %s: %w", dir, err)
		}
		for _, p := range paths {
			if _, err := strconv.ParseUint(filepath.Base(p), 10, 64); err == nil {
				found++
				databases[filepath.Base(filepath.Dir(filepath.Dir(p)))] = true
			}
		}
	}
	if found == 0 {
		return nil
	}
	whose := "that no cluster of Concord created"
	if mark != 0 {
		whose = fmt.Sprintf("of another cluster (%x)", mark)
	}
	names := slices.Sorted(maps.Keys(databases))
	const few = 5
	if more := len(names) - few; more > 0 {
		names = append(names[:few], fmt.Sprintf("and %d more", more))
	}
	list := strings.Join(names, ", ")
	return &foreignShards{mark: mark, databases: list, text: fmt.Sprintf(
		"%s and %s hold shards %s (databases: %s): nothing was changed; take a plain server in with influxd-ctl adopt, "+
			"or set [data] dir and wal-dir to empty folders, and bring the data in with influxd-ctl restore of a portable backup",
		f.dir, f.walDir, whose, list)}
}

// foreignShards is the error for shards on disk that are not of the node's cluster.
type foreignShards struct {
	mark      uint64 // the cluster whose they are, 0 for none
	databases string
	text      string
}

func (e *foreignShards) Error() string { return e.text }
