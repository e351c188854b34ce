package ossbackup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/snapshotter"
	"go.uber.org/zap"

	"concord/internal/backup"
	"concord/internal/backup/portable"
	"concord/internal/cluster"
)

// restoreMeta makes the databases, policies and shard groups of a backup, and answers where its shards go: with none
// when nothing was made.
func (s *Server) restoreMeta(ctx context.Context, r request, to io.Writer) error {
	maps, err := s.makeRestored(ctx, r)
	answer := binary.BigEndian.AppendUint64(nil, snapshotter.BackupMagicHeader)
	answer = binary.BigEndian.AppendUint64(answer, uint64(len(maps)))
	for _, m := range maps {
		answer = binary.BigEndian.AppendUint64(answer, m.Shard)
		answer = binary.BigEndian.AppendUint64(answer, m.NewShard)
	}
	if _, werr := to.Write(answer); err == nil {
		err = werr
	}
	if err != nil {
		return fmt.Errorf("restore the metadata: %w", err)
	}
	s.Log.Info("Restored the metadata of a backup for influxd restore of InfluxDB OSS", zap.Int("shards", len(maps)),
		zap.String("database", r.BackupDatabase))
	return nil
}

func (s *Server) makeRestored(ctx context.Context, r request) ([]backup.Mapping, error) {
	data, err := decode(r.metadata)
	if err != nil {
		return nil, err
	}
	if err := s.Meta.Refresh(); err != nil {
		return nil, err
	}
	t, err := target(s.Meta.State(), data, r.Request)
	if err != nil {
		return nil, err
	}
	return s.beginRestore(ctx, t)
}

// decode reads the metadata of a backup.
func decode(b []byte) (*meta.Data, error) {
	d := &meta.Data{}
	if err := d.UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("this is not valid metadata: %w", err)
	}
	return d, nil
}

// target is what is restored of a backup, as InfluxDB OSS does it: databases that are not there yet, without users and
// continuous queries, and without _internal unless it is asked for.
func target(st *cluster.State, data *meta.Data, r snapshotter.Request) (backup.Target, error) {
	t := backup.Target{
		Database: r.BackupDatabase, Policy: r.BackupRetentionPolicy, NewDB: r.RestoreDatabase,
		NewPolicy: r.RestoreRetentionPolicy,
	}
	if t.NewDB != "" && t.Database == "" {
		return t, errors.New("-newdb needs -db")
	}
	if t.Database == "" && (t.Policy != "" || t.NewPolicy != "") {
		return t, errors.New("-rp needs -db")
	}
	if t.Policy == "" {
		t.NewPolicy = ""
	}
	kept := &meta.Data{ClusterID: data.ClusterID, MaxShardGroupID: data.MaxShardGroupID, MaxShardID: data.MaxShardID}
	ofCluster := false
	for _, db := range data.Databases {
		if t.Database == "" && db.Name == "_internal" || t.Database != "" && db.Name != t.Database {
			continue
		}
		name := db.Name
		if t.NewDB != "" {
			name = t.NewDB
		}
		if st.Data.Database(name) != nil {
			return t, fmt.Errorf("database %q is there already: drop it first, or restore into another one with -newdb",
				name)
		}
		db.ContinuousQueries = nil
		kept.Databases = append(kept.Databases, db)
		for _, rp := range db.RetentionPolicies {
			if t.Policy != "" && rp.Name != t.Policy {
				continue
			}
			for _, g := range rp.ShardGroups {
				for _, sh := range g.Shards {
					t.Shards = append(t.Shards, sh.ID)
					ofCluster = ofCluster || len(sh.Owners) > 0
				}
			}
		}
	}
	if t.Database != "" && len(kept.Databases) == 0 {
		return t, fmt.Errorf("the backup does not have database %q", t.Database)
	}
	if t.Policy != "" && !slices.ContainsFunc(kept.Databases[0].RetentionPolicies,
		func(rp meta.RetentionPolicyInfo) bool { return rp.Name == t.Policy }) {
		return t, fmt.Errorf("the backup does not have retention policy %q of database %q", t.Policy, t.Database)
	}
	if len(t.Shards) > 0 && !ofCluster {
		t.Replicas = st.DefaultReplicaN() // a single node says nothing about copies
	}
	var err error
	t.Meta, err = portable.EncodeMeta(kept)
	return t, err
}

// upload takes the files of a shard to its owners. The client does not wait for an answer.
func (s *Server) upload(ctx context.Context, r request) error {
	if err := s.Meta.Refresh(); err != nil {
		return fmt.Errorf("restore shard %d: %w", r.ShardID, err)
	}
	if _, ok := s.Meta.State().Shard(r.ShardID); !ok {
		return fmt.Errorf("restore shard %d: it does not exist", r.ShardID)
	}
	files := &wholeTar{from: r.upload}
	done, err := s.write(ctx, r.ShardID, files)
	if cut := files.failure(); cut != nil {
		err = fmt.Errorf("its files did not come whole: %w", cut)
	}
	if err != nil {
		return fmt.Errorf("restore shard %d: %w", r.ShardID, err)
	}
	s.Log.Info("Restored a shard for influxd restore of InfluxDB OSS", zap.Uint64("db_shard_id", r.ShardID),
		zap.Strings("owners", done.Owners))
	if len(done.Failed) > 0 {
		s.Log.Warn("Some owners did not take a restored shard: anti-entropy brings it there, "+
			"and their copies are incomplete until then",
			zap.Uint64("db_shard_id", r.ShardID), zap.String("owners", strings.Join(done.Failed, ", ")))
	}
	return nil
}

// tarEnd is how many zeros end a tar.
const tarEnd = 1024

// wholeTar reads a tar, and fails at the end of one that was cut. A client that was killed between two files closes its
// connection as one that is done.
type wholeTar struct {
	from io.Reader
	last []byte // at most tarEnd bytes

	mu  sync.Mutex // the HTTP library may read on after it has answered
	err error      // of the client's connection; nil at the end of a whole tar
}

func (w *wholeTar) Read(b []byte) (int, error) {
	n, err := w.from.Read(b)
	w.last = append(w.last, b[:n]...)
	w.last = append(w.last[:0], w.last[max(0, len(w.last)-tarEnd):]...)
	if errors.Is(err, io.EOF) {
		if bytes.Equal(w.last, make([]byte, tarEnd)) {
			return n, err
		}
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
	}
	return n, err
}

// failure is why the tar did not come whole; nil when it did, or when its reader ended it.
func (w *wholeTar) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
