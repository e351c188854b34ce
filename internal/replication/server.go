package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/batch"
	"concord/internal/order"
	"concord/internal/rpc"
)

// Server writes to this node's store what other nodes send.
type Server struct {
	rpc.UnimplementedReplicationServer
	store  *tsdb.Store
	writer *Writer // of this node
	log    *zap.Logger
	hinted hintedWrites // messages out of hinted handoff
}

// NewServer returns the server over store.
func NewServer(store *tsdb.Store, writer *Writer, log *zap.Logger) *Server {
	return &Server{store: store, writer: writer, log: log}
}

// WriteShard writes points to one shard.
func (s *Server) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if !spansFit(r) {
		return nil, status.Error(codes.InvalidArgument, "the spans of versions do not have as many points as the write")
	}
	write := func() (*rpc.WriteShardResponse, error) {
		return s.write(ctx, arrived{request: r}, func() ([]models.Point, error) { return decodePoints(r.Points) })
	}
	if r.Hinted {
		return s.hinted.do(ctx, r, write)
	}
	return write()
}

// WriteBatch writes a batch of points to one shard.
func (s *Server) WriteBatch(ctx context.Context, r *rpc.WriteBatchRequest) (*rpc.WriteShardResponse, error) {
	w := r.Write
	if w == nil || len(w.Points)+len(w.Spans) > 0 || w.Decides || w.OnlyWhole {
		return nil, status.Error(codes.InvalidArgument, "a batch has a write without points, spans and decisions")
	}
	b, err := batch.Decode(r.Batch)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	defer b.Release() // nobody has the points when the write has returned
	if b.Len() != int(r.Points) {
		return nil, status.Errorf(codes.InvalidArgument, "%d points in a batch of %d", b.Len(), r.Points)
	}
	return s.write(ctx, arrived{request: w, batch: r}, func() (points []models.Point, err error) {
		if points = b.Points(); b.HasField(tsdb.TimeBytes) {
			points, _, err = withoutTime(points)
		}
		return points, err
	})
}

// write writes the points of a message to one shard.
func (s *Server) write(
	ctx context.Context, a arrived, read func() ([]models.Point, error),
) (*rpc.WriteShardResponse, error) {
	r := a.request
	// The names become folders.
	if r.ShardId == 0 || !emeta.ValidName(r.Database) || !emeta.ValidName(r.RetentionPolicy) {
		return nil, status.Error(codes.InvalidArgument, "a write needs a shard, a database and a retention policy")
	}
	// Its copy would be one that no query reads, and nothing removes.
	if s.writer.Meta.Deleted(r.ShardId, rpc.Relied(ctx).Index) {
		return nil, status.Error(codes.NotFound, errShardDeleted.Error())
	}
	if err := s.writer.refuses(ctx, r.ShardId); err != nil {
		return nil, status.Error(codes.Aborted, err.Error())
	}
	points, err := read()
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// A node that was removed may have kept writes. Its floor is forgotten, and so may be what is newer than these.
	if _, member := s.writer.Meta.DataNode(r.SenderNode); r.SenderNode != 0 && !r.Relayed && !member {
		return nil, status.Errorf(codes.FailedPrecondition,
			"node %d, which sends the write, is not a data node of the cluster: stop it, or add it again", r.SenderNode)
	}
	if s.writer.Handoff != nil && r.SenderNode != 0 && !r.Relayed {
		s.writer.Handoff.Heard(r.SenderNode)
	}
	if !versioned(r) && s.writer.holdsDeletes(r.SenderNode) {
		return nil, status.Error(codes.FailedPrecondition,
			"deletes wait here for the sender of the write: they come first")
	}
	if r.Relayed && (s.writer.received.has(r) || s.writer.floors.ended(r)) {
		return s.answer(a, nil)
	}
	if r.Relayed {
		ended, ok := s.writer.floors.beginRelayed(order.Version(r.Version))
		if !ok {
			return nil, status.Error(codes.Canceled,
				"the write came too late: this node may have forgotten newer writes of the same points")
		}
		defer ended()
	} else if s.writer.floors.tooLate(r) {
		return nil, status.Error(codes.Canceled, "the write came too late: its sender has given it up")
	}
	if r.Decides && r.OnlyWhole && s.writer.notWhole(ctx, r.ShardId) {
		return &rpc.WriteShardResponse{Undecided: true}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	err = s.writer.acceptSpans(r, points)
	if p := (tsdb.PartialWriteError{}); err == nil || errors.As(err, &p) {
		s.noteOwnersLeftOut(r)
	}
	return s.answer(a, err)
}

// noteOwnersLeftOut notes that the copies of owners lack a write whose sender does not know them: its metadata is from
// before they became owners. It is called before the sender has an answer.
func (s *Server) noteOwnersLeftOut(r *rpc.WriteShardRequest) {
	if len(r.Owners) == 0 {
		return
	}
	for _, owner := range s.writer.Meta.OwnersOf(r.ShardId) {
		if owner != s.writer.Meta.NodeID() && !slices.Contains(r.Owners, owner) {
			s.writer.Copies.Missed(owner, r.ShardId, false)
		}
	}
}

// answer is what the sender of a write is told of its outcome.
func (s *Server) answer(a arrived, err error) (*rpc.WriteShardResponse, error) {
	r := a.request
	var p tsdb.PartialWriteError
	if a.part = errors.As(err, &p); err == nil || a.part {
		s.writer.received.add(a)
	}
	clock := s.writer.clock()
	switch {
	case err == nil:
		return &rpc.WriteShardResponse{Clock: clock}, nil
	case errors.Is(err, errBehind):
		return &rpc.WriteShardResponse{Clock: clock, Behind: true}, nil
	case errors.As(err, &p):
		resp := &rpc.WriteShardResponse{Error: p.Reason, Dropped: int32(p.Dropped), Partial: true, Clock: clock}
		if r.Decides {
			resp.TypeConflicts, err = typeConflicts(s.store.Shard(r.ShardId), r.Points)
			if err != nil {
				return nil, status.Error(codes.Internal, err.Error())
			}
		}
		return resp, nil
	}
	return &rpc.WriteShardResponse{Error: err.Error(), Temporary: true}, nil
}

// spansFit reports whether the spans of a message, if it has some, have all of its points.
func spansFit(r *rpc.WriteShardRequest) bool {
	left := uint64(len(r.Points))
	for _, s := range r.Spans {
		if uint64(s.Points) > left {
			return false
		}
		left -= uint64(s.Points)
	}
	return len(r.Spans) == 0 || left == 0
}

// versioned reports whether all points of a message have versions.
func versioned(r *rpc.WriteShardRequest) bool {
	if len(r.Spans) == 0 {
		return r.Version != 0
	}
	return !slices.ContainsFunc(r.Spans, func(s *rpc.VersionSpan) bool { return s.Version == 0 })
}

// decodePoints reads points that another node sent, or that hinted handoff kept.
func decodePoints(encoded [][]byte) ([]models.Point, error) {
	points := make([]models.Point, len(encoded))
	for i, b := range encoded {
		p, err := decodePoint(b)
		if err != nil {
			return nil, fmt.Errorf("point %d: %w", i, err)
		}
		points[i] = p
	}
	// Those of a node of an older version, or of an old queue; this version strips them before.
	points, _, err := withoutTime(points)
	return points, err
}

// decodePoint reads the engine's binary form, whose reader trusts its input.
func decodePoint(b []byte) (p models.Point, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed: %v", r)
		}
	}()
	if p, err = models.NewPointFromBytes(b); err != nil {
		return nil, err
	}
	if err := models.CheckTime(p.Time()); err != nil {
		return nil, err
	}
	if len(p.Key()) > models.MaxKeyLength {
		return nil, fmt.Errorf("malformed: a key of %d bytes", len(p.Key()))
	}
	if len(p.Name()) == 0 {
		return nil, errors.New("malformed: no measurement")
	}
	p.Tags()
	bad := false
	err = p.ForEachField(func(_, v []byte) bool {
		bad = len(v) == 0 || v[0] == '"' && (len(v) < 2 || v[len(v)-1] != '"')
		return !bad
	})
	if err == nil && bad {
		err = errors.New("malformed: field value")
	}
	return p, err
}

// Received compares what another owner got of a node that went down with what this node got.
func (s *Server) Received(ctx context.Context, r *rpc.ReceivedRequest) (*rpc.ReceivedResponse, error) {
	if err := s.writer.relays.compare(ctx, r); err != nil {
		return nil, err
	}
	return &rpc.ReceivedResponse{}, nil
}
