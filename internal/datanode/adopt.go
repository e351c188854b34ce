package datanode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/durable"
	"concord/internal/rpc"
)

// A data node that is started on the folders of a plain server of InfluxDB 1.x opens nothing, and waits to be adopted.
// So does one on the folders of a data node of influxdb-cluster, whose metadata the cluster has adopted before.
// influxd-ctl adopt then takes these steps. A crash between two of them loses nothing, and the command finishes them
// when it is run again:
//
//  1. Survey: the meta node asks for the server's metadata and for the shards on disk. Nothing changes.
//  2. Prepare: the node writes the adoption file: which folders of shards get other names. Nothing else changes, and
//     the plain server can still be started.
//  3. The meta nodes log the change.
//  4. Join: the node notes in the adoption file that the cluster has it, renames the folders, marks the data folder,
//     and joins. From here on the folders are this cluster's.
//  5. The node opens its parts, tells the other owners of shared shards that the copies differ, and ends the merges of
//     these shards, which began with the change of step 3. Then it removes the file.

// endMergesAgain is between two attempts to tell the meta nodes that an adoption is over.
const endMergesAgain = 5 * time.Second

// adoptionFile is in the data folder.
const adoptionFile = "concord-adoption"

// adoption is what the adoption file says.
type adoption struct {
	Cluster   uint64              `json:"cluster,string"`
	Moves     []cluster.ShardMove `json:"moves"`
	Shared    []uint64            `json:"shared"`    // shards that other nodes own, too, with other points
	Committed bool                `json:"committed"` // the cluster has the server: the moves are to be done
	Lifted    bool                `json:"lifted"`    // no folder has its old name any more
}

// checkedAdoption is the format of the file.
type checkedAdoption struct {
	Version  int             `json:"version"`
	Adoption json.RawMessage `json:"adoption"`
	Checksum uint32          `json:"checksum"` // CRC-32C of Adoption
}

func (f dataFolder) writeAdoption(a adoption) error {
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	b, err := json.Marshal(checkedAdoption{Version: 1, Adoption: body, Checksum: crc32.Checksum(body, castagnoli)})
	if err == nil {
		err = durable.WriteFile(filepath.Join(f.dir, adoptionFile), b, 0o640)
	}
	if err != nil {
		return fmt.Errorf("write the adoption of the server: %w", err)
	}
	return nil
}

// readAdoption returns nil when no adoption was prepared.
func (f dataFolder) readAdoption() (*adoption, error) {
	path := filepath.Join(f.dir, adoptionFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var c checkedAdoption
	var a adoption
	err = json.Unmarshal(b, &c)
	switch {
	case err == nil && c.Version != 1:
		err = fmt.Errorf("its version is %d", c.Version)
	case err == nil && crc32.Checksum(c.Adoption, castagnoli) != c.Checksum:
		err = errDamagedMark
	case err == nil:
		err = json.Unmarshal(c.Adoption, &a)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return &a, nil
}

// endAdoption removes the adoption file.
func (f dataFolder) endAdoption() error {
	err := os.Remove(filepath.Join(f.dir, adoptionFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.SyncDir(f.dir)
}

// resumeAdoption does what a crash left undone of an adoption that the cluster has.
func (f dataFolder) resumeAdoption() error {
	a, err := f.readAdoption()
	if err != nil || a == nil || !a.Committed {
		return err
	}
	return f.finishAdoption(*a, rename)
}

// finishAdoption renames the folders of shards, and marks the data folder. It goes on where an earlier attempt stopped.
//
// There are two passes, as the new name of one folder may be the old name of another. The file says that the first one
// has ended.
func (f dataFolder) finishAdoption(a adoption, rename func(from, to string) error) error {
	for _, m := range a.Moves {
		if a.Lifted {
			break
		}
		for _, dir := range []string{f.dir, f.walDir} {
			if err := rename(shardFolder(dir, m, m.From), shardFolder(dir, m, m.From)+movingSuffix); err != nil {
				return err
			}
		}
	}
	a.Lifted = true
	if err := f.writeAdoption(a); err != nil {
		return err
	}
	for _, m := range a.Moves {
		for _, dir := range []string{f.dir, f.walDir} {
			to := shardFolder(dir, m, m.To)
			if m.To == 0 {
				to = shardFolder(dir, m, m.From) + asideSuffix
			}
			if err := rename(shardFolder(dir, m, m.From)+movingSuffix, to); err != nil {
				return err
			}
		}
	}
	return f.writeMark(a.Cluster)
}

const (
	movingSuffix = ".moving" // a folder that is on its way to another name
	asideSuffix  = ".aside"  // of a shard that the server did not know; the engine does not open it
)

func shardFolder(dir string, m cluster.ShardMove, id uint64) string {
	return filepath.Join(dir, m.Database, m.RetentionPolicy, strconv.FormatUint(id, 10))
}

// rename renames a folder durably. One that is not there was renamed before, or never was.
func rename(from, to string) error {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%s cannot be renamed: %s exists", from, to)
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(to))
}

// metaDB is where a plain server has its metadata.
func (n *Node) metaDB() string { return filepath.Join(n.cfg.Meta.Dir, "meta.db") }

// clientFile is where a data node of influxdb-cluster has the addresses of its meta nodes.
func (n *Node) clientFile() string { return filepath.Join(n.cfg.Meta.Dir, "client.json") }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// plain says why this node waits to be adopted; it is empty when it does not.
func (n *Node) plain() string {
	if p := n.place.plain.Load(); p != nil && n.Meta.NodeID() == 0 {
		return *p
	}
	return ""
}

// openFolder looks whose shards are on disk. A plain server's are left alone.
func (n *Node) openFolder() error {
	if err := n.folder().resumeAdoption(); err != nil {
		return err
	}
	err := n.folder().keep()
	var foreign *foreignShards
	if !errors.As(err, &foreign) || foreign.mark != 0 || n.Meta.NodeID() != 0 {
		return err
	}
	if !exists(n.metaDB()) && !exists(n.clientFile()) {
		return err
	}
	why := fmt.Sprintf("%s holds the shards of another InfluxDB server (%s): "+
		"run influxd-ctl adopt %s to take it into a cluster; nothing was changed",
		n.cfg.Data.Dir, foreign.databases, n.tcpAddr)
	n.place.plain.Store(&why)
	return nil
}

// PrepareAdoption notes what an adoption will do with the folders.
func (m *membership) PrepareAdoption(
	_ context.Context, r *rpc.PrepareAdoptionRequest,
) (*rpc.PrepareAdoptionResponse, error) {
	n := m.node
	if n.plain() == "" {
		return nil, errNotPlain
	}
	if r.ClusterId == 0 {
		return nil, status.Error(codes.InvalidArgument, "an adoption needs a cluster id")
	}
	if r.Identity != n.Meta.Identity() {
		return nil, status.Error(codes.FailedPrecondition, "another process answered at this address a moment ago")
	}
	a := adoption{Cluster: r.ClusterId, Shared: r.Shared}
	for _, mv := range r.Moves {
		for _, name := range []string{mv.Database, mv.RetentionPolicy} {
			if name == "" || name != filepath.Base(name) || name == ".." || name == "." {
				return nil, status.Errorf(codes.InvalidArgument, "%q cannot be the name of a folder", name)
			}
		}
		if mv.From == 0 {
			return nil, status.Error(codes.InvalidArgument, "a shard that moves needs an id")
		}
		a.Moves = append(a.Moves, cluster.ShardMove{
			Database: mv.Database, RetentionPolicy: mv.RetentionPolicy, From: mv.From, To: mv.To,
		})
	}
	if err := n.folder().writeAdoption(a); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &rpc.PrepareAdoptionResponse{}, nil
}

// commitAdoption does what was prepared: the cluster has the server now.
func (f dataFolder) commitAdoption(cluster uint64) error {
	a, err := f.readAdoption()
	if err != nil {
		return err
	}
	if a == nil { // an earlier attempt got further
		return f.join(cluster)
	}
	if a.Cluster != cluster {
		return errors.New("the adoption was prepared by another cluster: run influxd-ctl adopt again")
	}
	a.Committed = true
	if err := f.writeAdoption(*a); err != nil {
		return err
	}
	return f.finishAdoption(*a, rename)
}

// tellOfAdoption tells the other owners of shared shards that the copies differ, and ends the adoption. Until the
// copies were compared and made equal, answers carry a warning. Before the owners were told, they carry it because the
// metadata says that the shards are merged.
func (n *Node) tellOfAdoption() error {
	a, err := n.folder().readAdoption()
	if err != nil || a == nil || !a.Committed || n.Meta.NodeID() == 0 {
		return err
	}
	var shared []cluster.Shard
	for _, id := range a.Shared {
		if sh, ok := n.Meta.Shard(id); ok && sh.Owned(n.Meta.NodeID()) {
			shared = append(shared, sh)
		}
	}
	n.copies.Differ(shared, "its node was adopted, and it is not compared with the other copies yet")
	n.log.Info("This node has adopted the shards of a plain server", zap.Int("shared_shards", len(a.Shared)),
		zap.Int("renamed_shards", len(a.Moves)))
	if len(a.Shared) == 0 {
		return n.folder().endAdoption()
	}
	n.inBackground(func(ctx context.Context) { n.endMerges(ctx, a.Shared) }) // other nodes may be away
	return nil
}

// endMerges tells the meta nodes when the other owners of shared shards know that the copies differ, and ends the
// adoption.
func (n *Node) endMerges(ctx context.Context, shared []uint64) {
	for n.copies.Noted(ctx, shared) {
		if err := n.Meta.Execute(cluster.EndMerges{Node: n.Meta.NodeID()}); err != nil {
			n.log.Warn("Cannot tell the meta nodes that the adoption has ended: answers carry a warning until they "+
				"know. It is tried again", zap.Error(err))
		} else if err := n.folder().endAdoption(); err != nil {
			n.log.Warn("The adoption has ended, but its file cannot be removed. It is tried again", zap.Error(err))
		} else {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(endMergesAgain):
		}
	}
}
