package shardcopy

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/influxdata/influxdb/tsdb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/entropy/tsmfile"
	"concord/internal/rpc"
)

// Folder is a folder that has the name of a shard. The metadata may know nothing of it.
type Folder struct {
	Database        string
	RetentionPolicy string
	Shard           uint64
	Path            string
}

// Folders lists those in the folder of all shards, or of all their write-ahead logs.
func Folders(dir string) (out []Folder, err error) {
	paths, err := tsmfile.Glob(dir, "*", "*", "*")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		policy := filepath.Dir(path)
		id, err := strconv.ParseUint(filepath.Base(path), 10, 64)
		if err != nil || filepath.Base(policy) == tsdb.SeriesFileDirectory {
			continue
		}
		out = append(out, Folder{
			Database: filepath.Base(filepath.Dir(policy)), RetentionPolicy: filepath.Base(policy), Shard: id,
			Path: path,
		})
	}
	return out, nil
}

// Size is the size of the files in a folder, in bytes.
func (f Folder) Size() (bytes int64) {
	filepath.WalkDir(f.Path, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}

// describeDisk tells about all shards that have a folder on this node, but for those that are being copied here: their
// node is no owner until the copy is whole.
func (s *Server) describeDisk() (*rpc.DescribeResponse, error) {
	copying := s.copies.list()
	folders, err := Folders(s.Store.Path())
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	resp := &rpc.DescribeResponse{}
	for _, f := range folders {
		if slices.ContainsFunc(copying, func(c *rpc.CopyStatus) bool { return c.ShardId == f.Shard }) {
			continue
		}
		d := &rpc.ShardDescription{ShardId: f.Shard, Exists: true, State: NotOpen}
		if sh := s.Store.Shard(f.Shard); sh != nil && sh.Path() == f.Path {
			d = s.describe(f.Shard, false)
		} else {
			d.Size = f.Size()
		}
		d.Database, d.RetentionPolicy = []byte(f.Database), []byte(f.RetentionPolicy)
		resp.Shards = append(resp.Shards, d)
	}
	return resp, nil
}
