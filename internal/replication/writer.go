// Package replication is the write path: each point goes to all owners of its
// shard, and the consistency level decides the answer. Deletes run on every node.
package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"

	"concord/internal/cluster"
	"concord/internal/rpc"
)

// Metadata is what writes need to know of the cluster.
type Metadata interface {
	Database(name string) *emeta.DatabaseInfo
	RetentionPolicy(database, policy string) (*emeta.RetentionPolicyInfo, error)
	CreateShardGroup(database, policy string, at time.Time) (*emeta.ShardGroupInfo, error)
	NodeID() uint64
	DataNode(id uint64) (cluster.Node, bool)
	DataNodes() []cluster.Node
}

// Subscriber gets a copy of every write.
type Subscriber interface {
	Send(*coordinator.WritePointsRequest)
}

// Writer sends points to all owners of their shards, in parallel, and answers
// as soon as the consistency level is decided; the other owners go on in the
// background. There is no hinted handoff yet: what an unreachable owner misses is
// counted, logged, and left to anti-entropy.
type Writer struct {
	WriteTimeout time.Duration // for one owner

	meta   Metadata
	store  *tsdb.Store
	sub    Subscriber
	pool   *rpc.Pool
	mapper *coordinator.PointsWriter // maps points to shards
	log    *zap.Logger
	missed missedLog

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	stats struct {
		req, points, local, remote, hinted, ok, dropped, timeout, failed, sub atomic.Int64
		shardReq, shardPoints, shardFail                                      atomic.Int64
	}
}

// NewWriter returns a writer that Open starts.
func NewWriter(meta Metadata, store *tsdb.Store, sub Subscriber, pool *rpc.Pool) *Writer {
	m := coordinator.NewPointsWriter()
	m.MetaClient = meta
	return &Writer{WriteTimeout: coordinator.DefaultWriteTimeout, meta: meta, store: store, sub: sub, pool: pool, mapper: m, log: zap.NewNop()}
}

// WithLogger sets the logger; call it before Open.
func (w *Writer) WithLogger(log *zap.Logger) { w.log = log.With(zap.String("service", "write")) }

// Open makes the writer take writes.
func (w *Writer) Open() error {
	w.ctx, w.stop = context.WithCancel(context.Background())
	return nil
}

// Close ends writes in flight to other nodes and waits for them.
func (w *Writer) Close() error {
	if w.stop != nil {
		w.stop()
	}
	w.wg.Wait()
	return nil
}

// WritePointsInto takes the points of SELECT INTO.
func (w *Writer) WritePointsInto(r *coordinator.IntoWriteRequest) error {
	return w.WritePointsPrivileged(tsdb.WriteContext{UserId: tsdb.SelectIntoUser}, r.Database, r.RetentionPolicy, models.ConsistencyLevelOne, r.Points)
}

// WritePoints takes the points of a client.
func (w *Writer) WritePoints(db, policy string, level models.ConsistencyLevel, user emeta.User, points []models.Point) error {
	id := tsdb.UnknownUser
	if user != nil {
		id = user.ID()
	}
	return w.WritePointsPrivileged(tsdb.WriteContext{UserId: id}, db, policy, level, points)
}

// WritePointsPrivileged writes points at a consistency level. A partial write is a
// tsdb.PartialWriteError, as in InfluxDB 1.x; a missed level is
// coordinator.ErrTimeout, ErrPartialWrite or the error of an owner.
func (w *Writer) WritePointsPrivileged(ctx tsdb.WriteContext, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	w.stats.req.Add(1)
	w.stats.points.Add(int64(len(points)))
	if policy == "" {
		info := w.meta.Database(db)
		if info == nil {
			return influxdb.ErrDatabaseNotFound(db)
		}
		policy = info.DefaultRetentionPolicy
	}
	mapping, err := w.mapper.MapShards(&coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points})
	if err != nil {
		return err
	}
	results := make(chan error, len(mapping.Points))
	for id, pts := range mapping.Points {
		go func() { results <- w.writeShard(ctx, mapping.Shards[id], db, policy, level, pts) }()
	}
	w.sub.Send(&coordinator.WritePointsRequest{Database: db, RetentionPolicy: policy, Points: points})
	w.stats.sub.Add(1)

	var partial *tsdb.PartialWriteError
	if n := mapping.Dropped(); n > 0 {
		w.stats.dropped.Add(int64(n))
		partial = &tsdb.PartialWriteError{Reason: mapping.SummariseDropped(), Dropped: n, Database: db, RetentionPolicy: policy}
	}
	var failed error
	for range mapping.Points {
		var p tsdb.PartialWriteError
		switch err := <-results; {
		case err == nil:
		case errors.As(err, &p):
			if partial != nil {
				p.Dropped += partial.Dropped
			}
			partial = &p
		case failed == nil:
			failed = err
		}
	}
	if failed != nil {
		return failed
	}
	if partial != nil {
		return *partial
	}
	return nil
}

// result is what one owner made of a write.
type result struct {
	err     error // of the owner or of the way to it
	partial *tsdb.PartialWriteError
}

// required is how many of n owners must have written.
func required(level models.ConsistencyLevel, n int) int {
	switch level {
	case models.ConsistencyLevelAll:
		return n
	case models.ConsistencyLevelQuorum:
		return n/2 + 1
	}
	return 1
}

// writeShard writes to all owners and returns when the level is decided.
func (w *Writer) writeShard(ctx tsdb.WriteContext, shard *emeta.ShardInfo, db, policy string, level models.ConsistencyLevel, points []models.Point) error {
	owners := shard.Owners
	if len(owners) == 0 {
		return fmt.Errorf("shard %d has no owners", shard.ID)
	}
	// Other owners may still be written to after the answer, when the caller's
	// points may be gone: their bytes are taken now.
	var encoded [][]byte
	self := w.meta.NodeID()
	for _, o := range owners {
		if o.NodeID != self {
			var err error
			if encoded, err = encode(points); err != nil {
				return err
			}
			break
		}
	}
	results := make(chan result, len(owners))
	for _, o := range owners {
		if o.NodeID == self {
			// The engine must be done with the points before the caller gets them back.
			results <- w.writeLocal(ctx, shard.ID, db, policy, points)
		} else {
			w.wg.Add(1)
			go func() {
				defer w.wg.Done()
				results <- w.writeRemote(o.NodeID, &rpc.WriteShardRequest{
					ShardId: shard.ID, Database: db, RetentionPolicy: policy, UserId: ctx.UserId, Points: encoded,
				})
			}()
		}
	}
	need := required(level, len(owners))
	var (
		wrote, failed int
		first         error
		partial       *tsdb.PartialWriteError
	)
	for range owners {
		r := <-results
		if r.err != nil {
			if failed++; first == nil {
				first = r.err
			}
		} else {
			wrote++
			if r.partial != nil {
				partial = r.partial
			}
		}
		if wrote >= need {
			w.stats.ok.Add(1)
			if partial != nil {
				return *partial
			}
			return nil
		}
		if failed > len(owners)-need {
			break
		}
	}
	w.stats.failed.Add(1)
	if errors.Is(first, coordinator.ErrTimeout) {
		w.stats.timeout.Add(1)
		return coordinator.ErrTimeout
	}
	if wrote > 0 {
		return coordinator.ErrPartialWrite
	}
	return first
}

func encode(points []models.Point) ([][]byte, error) {
	out := make([][]byte, len(points))
	for i, p := range points {
		b, err := p.MarshalBinary()
		if err != nil {
			return nil, fmt.Errorf("encode a point: %w", err)
		}
		out[i] = b
	}
	return out, nil
}

func (w *Writer) writeLocal(ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) result {
	w.stats.local.Add(int64(len(points)))
	return judge(writeStore(w.store, ctx, id, db, policy, points))
}

// judge tells a partial write, after which the owner has the other points, from a failure.
func judge(err error) result {
	var p tsdb.PartialWriteError
	if errors.As(err, &p) {
		return result{partial: &p}
	}
	return result{err: err}
}

// writeStore writes to the local copy of a shard and creates it where it is missing.
func writeStore(store *tsdb.Store, ctx tsdb.WriteContext, id uint64, db, policy string, points []models.Point) error {
	err := store.WriteToShard(ctx, id, points)
	if errors.Is(err, tsdb.ErrShardNotFound) {
		if err = store.CreateShard(db, policy, id, true); err == nil {
			err = store.WriteToShard(ctx, id, points)
		}
	}
	if errors.Is(err, tsdb.ErrShardDeletion) {
		return tsdb.PartialWriteError{Reason: fmt.Sprintf("shard %d is pending deletion", id), Dropped: len(points), Database: db, RetentionPolicy: policy}
	}
	return err
}

func (w *Writer) writeRemote(node uint64, req *rpc.WriteShardRequest) result {
	w.stats.remote.Add(int64(len(req.Points)))
	w.stats.shardReq.Add(1)
	w.stats.shardPoints.Add(int64(len(req.Points)))
	n, ok := w.meta.DataNode(node)
	if !ok {
		return result{err: fmt.Errorf("owner %d of shard %d is not in the cluster", node, req.ShardId)}
	}
	ctx, cancel := context.WithTimeout(w.ctx, w.WriteTimeout)
	defer cancel()
	var resp *rpc.WriteShardResponse
	conn, err := w.pool.Conn(n.TCPAddr)
	if err == nil {
		resp, err = rpc.NewReplicationClient(conn).WriteShard(ctx, req)
	}
	if err != nil {
		w.stats.shardFail.Add(1)
		w.missed.note(w.log, n.TCPAddr, len(req.Points), err)
		if ctx.Err() != nil {
			return result{err: coordinator.ErrTimeout}
		}
		return result{err: fmt.Errorf("write to %s: %s", n.TCPAddr, rpc.Message(err))}
	}
	switch {
	case resp.Partial:
		return result{partial: &tsdb.PartialWriteError{
			Reason: resp.Error, Dropped: int(resp.Dropped), Database: req.Database, RetentionPolicy: req.RetentionPolicy,
		}}
	case resp.Error != "":
		w.stats.shardFail.Add(1)
		return result{err: fmt.Errorf("write to %s: %s", n.TCPAddr, resp.Error)}
	}
	return result{}
}

// missedLog says once, and then every ten seconds, what a node misses.
type missedLog struct {
	mu    sync.Mutex
	nodes map[string]*missedBy
}

type missedBy struct {
	last   time.Time
	points int
}

func (m *missedLog) note(log *zap.Logger, addr string, points int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.nodes == nil {
		m.nodes = make(map[string]*missedBy)
	}
	by := m.nodes[addr]
	if by == nil {
		by = &missedBy{}
		m.nodes[addr] = by
	}
	by.points += points
	if time.Since(by.last) < 10*time.Second {
		return
	}
	log.Warn("A data node misses writes; anti-entropy will repair it", zap.String("node", addr), zap.Int("points", by.points), zap.Error(err))
	by.last, by.points = time.Now(), 0
}

// Statistics are the engine's of writes, with those of the cluster.
func (w *Writer) Statistics(tags map[string]string) []models.Statistic {
	s := &w.stats
	return []models.Statistic{{
		Name: "write", Tags: tags,
		Values: map[string]any{
			"req": s.req.Load(), "pointReq": s.points.Load(), "pointReqLocal": s.local.Load(), "pointReqRemote": s.remote.Load(),
			"pointReqHH": s.hinted.Load(), "writeOk": s.ok.Load(), "writeDrop": s.dropped.Load(),
			"writeTimeout": s.timeout.Load(), "writeError": s.failed.Load(), "subWriteOk": s.sub.Load(),
		},
	}, {
		Name: "cluster", Tags: tags,
		Values: map[string]any{
			"writeShardReq": s.shardReq.Load(), "writeShardPointsReq": s.shardPoints.Load(), "writeShardFail": s.shardFail.Load(),
		},
	}}
}
