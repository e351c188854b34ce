package ossbackup

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/services/snapshotter"
	"go.uber.org/zap"

	"concord/internal/backup"
	"concord/internal/clocks"
)

// backup answers what influxd backup asks.
func (s *Server) backup(ctx context.Context, r request, to *client) error {
	switch r.Type {
	case snapshotter.RequestMetastoreBackup:
		return s.sendMeta(to)
	case snapshotter.RequestDatabaseInfo:
		return s.list(ctx, r.BackupDatabase, "", to)
	case snapshotter.RequestRetentionPolicyInfo:
		if r.BackupDatabase == "" || r.BackupRetentionPolicy == "" {
			return errors.New("a retention policy needs its name and that of its database: -db and -rp")
		}
		return s.list(ctx, r.BackupDatabase, r.BackupRetentionPolicy, to)
	}
	return s.sendShard(ctx, r, to)
}

// sendMeta sends all metadata, and what else the tools look for behind it.
func (s *Server) sendMeta(to io.Writer) error {
	if err := s.Meta.Refresh(); err != nil {
		return fmt.Errorf("back up the metadata: %w", err)
	}
	data, err := s.Meta.State().Data.MarshalBinary()
	if err != nil {
		return fmt.Errorf("back up the metadata: %w", err)
	}
	node, err := json.Marshal(influxdb.Node{})
	if err != nil {
		return err
	}
	out := binary.BigEndian.AppendUint64(nil, snapshotter.BackupMagicHeader)
	for _, b := range [][]byte{data, node} {
		out = append(binary.BigEndian.AppendUint64(out, uint64(len(b))), b...)
	}
	_, err = to.Write(out)
	return err
}

// list names the shards that have points, as folders: database, policy and ID.
func (s *Server) list(ctx context.Context, db, rp string, to io.Writer) error {
	plan, err := s.plan(ctx, db, rp, 0)
	if err != nil {
		return fmt.Errorf("list the shards: %w", err)
	}
	answer := snapshotter.Response{Paths: []string{}}
	for _, from := range plan {
		answer.Paths = append(answer.Paths, fmt.Sprintf("%s/%s/%d", from.Database, from.Policy, from.ShardID))
	}
	return json.NewEncoder(to).Encode(answer)
}

// span limits a backup to times, both included, in nanoseconds.
type span struct {
	limited    bool
	start, end int64
}

// spanOf is what a request asks for. The tools leave out what they are not given.
func spanOf(r request) span {
	if r.Type != snapshotter.RequestShardExport {
		return span{}
	}
	in := span{limited: true, start: models.MinNanoTime, end: models.MaxNanoTime}
	if !r.ExportStart.IsZero() {
		in.start = nanoseconds(r.ExportStart)
	}
	if !r.ExportEnd.IsZero() {
		in.end = nanoseconds(r.ExportEnd)
	}
	return in
}

// nanoseconds is a time that the engine can have.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, models.MinNanoTime)):
		return models.MinNanoTime
	case t.After(time.Unix(0, models.MaxNanoTime)):
		return models.MaxNanoTime
	}
	return t.UnixNano()
}

// sendShard sends the files of a shard, from one whole copy. With -since, a shard that did not change sends none, and
// one that did sends all of them.
func (s *Server) sendShard(ctx context.Context, r request, to *client) error {
	p := part{to.host(), r.ShardID}
	if r.ShardID == 0 {
		return errors.New("a shard needs its ID")
	}
	if err := s.broken.check(p); err != nil {
		return fmt.Errorf("back up shard %d: %w", r.ShardID, err)
	}
	in := spanOf(r)
	if in.start > in.end {
		return fmt.Errorf("back up shard %d: -start is after -end", r.ShardID)
	}
	began := time.Now()
	from, files, err := s.open(ctx, r.ShardID, in)
	if err != nil {
		return fmt.Errorf("back up shard %d: %w", r.ShardID, err)
	}
	if files == nil || !r.Since.IsZero() && from.LastModified < nanoseconds(r.Since.Add(-clocks.Limit)) {
		if files != nil {
			files.Close()
		}
		return tar.NewWriter(to).Close()
	}
	defer files.Close()
	n, err := io.CopyBuffer(to, struct{ io.Reader }{files}, make([]byte, 256<<10))
	if err != nil {
		if to.wrote {
			s.broken.note(p)
		}
		return fmt.Errorf("back up shard %d from %s: %w", r.ShardID, from.Node, err)
	}
	s.Log.Info("Backed up a shard for influxd backup of InfluxDB OSS", zap.Uint64("db_shard_id", r.ShardID),
		zap.String("source", from.Node), zap.Int64("bytes", n), zap.Duration("duration", time.Since(began)),
		zap.Stringer("client", to.RemoteAddr()))
	return nil
}

// open opens the files of a whole copy. When that fails, another owner is tried once. There are no files of a shard
// that is empty.
func (s *Server) open(ctx context.Context, shard uint64, in span) (from backup.Source, files io.ReadCloser, err error) {
	for range 2 {
		var plan []backup.Source
		if plan, err = s.plan(ctx, "", "", shard); err != nil || len(plan) == 0 {
			return from, nil, err
		}
		if from = plan[0]; from.Problem != "" {
			return from, nil, errors.New(strings.TrimSpace(from.Problem))
		}
		if files, err = s.read(ctx, from, in); err == nil {
			return from, files, nil
		}
	}
	return from, nil, err
}
