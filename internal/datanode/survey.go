package datanode

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/entropy/tsmfile"
	"concord/internal/handoff"
	"concord/internal/rpc"
)

// errNotPlain refuses to adopt a data node.
var errNotPlain = status.Error(codes.FailedPrecondition,
	"this data node does not run on the folders of another server")

// Survey tells what the other server has on whose folders this node runs.
func (m *membership) Survey(context.Context, *rpc.SurveyRequest) (*rpc.SurveyResponse, error) {
	n := m.node
	if n.plain() == "" {
		return nil, errNotPlain
	}
	out := &rpc.SurveyResponse{Member: exists(n.clientFile())}
	known := make(map[string]bool)
	var err error
	if out.Member {
		out.Waiting, err = handoff.PeerQueues(n.cfg.HintedHandoff.Dir)
	} else {
		out.Server, err = os.ReadFile(n.metaDB())
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if !out.Member {
		server, err := cluster.DecodeServer(out.Server)
		if err != nil {
			return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("%s: %v", n.metaDB(), err))
		}
		for _, sh := range (&cluster.State{Data: server}).Shards() {
			known[filepath.Join(sh.Database, sh.RetentionPolicy, strconv.FormatUint(sh.ID, 10))] = true
		}
	}
	if err := n.surveyShards(known, out); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return out, nil
}

// surveyShards adds the shards on disk that are not known, and the size of all.
func (n *Node) surveyShards(known map[string]bool, out *rpc.SurveyResponse) error {
	for _, dir := range []string{n.cfg.Data.Dir, n.cfg.Data.WALDir} {
		paths, err := tsmfile.Glob(dir, "*", "*", "*")
		if err != nil {
			return err
		}
		for _, path := range paths {
			id, err := strconv.ParseUint(filepath.Base(path), 10, 64)
			place, relErr := filepath.Rel(dir, path)
			if err != nil || relErr != nil || filepath.Base(filepath.Dir(path)) == tsdb.SeriesFileDirectory {
				continue
			}
			out.Bytes += sizeOf(path)
			if known[place] {
				continue
			}
			known[place] = true
			policy := filepath.Dir(place)
			out.Unknown = append(out.Unknown, &rpc.ShardMove{
				Database: filepath.Dir(policy), RetentionPolicy: filepath.Base(policy), From: id,
			})
		}
	}
	return nil
}

// sizeOf is the size of the files in a folder, in bytes.
func sizeOf(dir string) (bytes uint64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += uint64(info.Size())
			}
		}
		return nil
	})
	return bytes
}
