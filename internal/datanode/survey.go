package datanode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/cluster"
	"concord/internal/handoff"
	"concord/internal/rpc"
	"concord/internal/shardcopy"
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
		folders, err := shardcopy.Folders(dir)
		if err != nil {
			return err
		}
		for _, f := range folders {
			out.Bytes += uint64(f.Size())
			place := filepath.Join(f.Database, f.RetentionPolicy, strconv.FormatUint(f.Shard, 10))
			if known[place] {
				continue
			}
			known[place] = true
			out.Unknown = append(out.Unknown, &rpc.ShardMove{
				Database: f.Database, RetentionPolicy: f.RetentionPolicy, From: f.Shard,
			})
		}
	}
	return nil
}
