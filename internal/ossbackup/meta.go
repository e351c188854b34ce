package ossbackup

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"concord/internal/backup"
	"concord/internal/cluster"
)

const (
	planTime  = 12 * time.Minute // to plan a backup: each owner writes what it has in memory to files first
	beginTime = 2 * time.Minute  // to begin a restore
	wholeWait = 10 * time.Second // for a whole copy of each shard, as influxd-ctl backup waits
	maxAnswer = 64 << 20         // bytes of a plan, or of what a restore maps
)

// Meta is the state of the cluster, and the meta nodes.
type Meta interface {
	State() *cluster.State
	Refresh() error // makes State the newest
	// Operate sends a meta node what influxd-ctl sends it, and returns the body of the answer.
	Operate(ctx context.Context, method, path string, params url.Values, body io.Reader) (io.ReadCloser, error)
}

// plan says from where to read the shards of a database and a policy, or one shard; empty names and 0 are all.
func (s *Server) plan(ctx context.Context, db, rp string, shard uint64) (plan []backup.Source, err error) {
	params := url.Values{"db": {db}, "rp": {rp}, "wait": {wholeWait.String()}}
	if shard != 0 {
		params.Set("shard", strconv.FormatUint(shard, 10))
	}
	err = s.ask(ctx, planTime, http.MethodGet, "/backup/plan", params, nil, &plan)
	return plan, err
}

// read opens the files of a copy as a tar.
func (s *Server) read(ctx context.Context, from backup.Source, in span) (io.ReadCloser, error) {
	params := url.Values{"shard": {strconv.FormatUint(from.ShardID, 10)}, "from": {from.Node}}
	if in.limited {
		params.Set("start", strconv.FormatInt(in.start, 10))
		params.Set("end", strconv.FormatInt(in.end, 10))
	}
	return s.Meta.Operate(ctx, http.MethodGet, "/backup/shard", params, nil)
}

// beginRestore makes what is to be restored, and says where each shard goes.
func (s *Server) beginRestore(ctx context.Context, t backup.Target) (to []backup.Mapping, err error) {
	body, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	err = s.ask(ctx, beginTime, http.MethodPost, "/restore/begin", nil, bytes.NewReader(body), &to)
	return to, err
}

// write sends a tar to all owners of a shard.
func (s *Server) write(ctx context.Context, shard uint64, tar io.Reader) (done backup.Restored, err error) {
	params := url.Values{"shard": {strconv.FormatUint(shard, 10)}}
	err = s.ask(ctx, longest, http.MethodPost, "/restore/shard", params, tar, &done)
	return done, err
}

// ask reads the answer of a meta node into out.
func (s *Server) ask(
	ctx context.Context, limit time.Duration, method, path string, params url.Values, body io.Reader, out any,
) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer, err := s.Meta.Operate(ctx, method, path, params, body)
	if err != nil {
		return err
	}
	defer answer.Close()
	if err := json.NewDecoder(io.LimitReader(answer, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("answer of the meta nodes: %w", err)
	}
	return nil
}
