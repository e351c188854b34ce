package replication

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/influxdata/influxdb/models"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/entropy/fieldindex"
	"concord/internal/rpc"
	"concord/internal/statement"
)

// Server does on this node's store what other nodes ask.
type Server struct {
	rpc.UnimplementedReplicationServer
	store  *tsdb.Store
	writer *Writer // of this node
	log    *zap.Logger
}

// NewServer returns the server over store. The writer is told of deletes.
func NewServer(store *tsdb.Store, writer *Writer, log *zap.Logger) *Server {
	return &Server{store: store, writer: writer, log: log}
}

// WriteShard writes points to one shard.
func (s *Server) WriteShard(ctx context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	// The names become folders.
	if r.ShardId == 0 || !emeta.ValidName(r.Database) || !emeta.ValidName(r.RetentionPolicy) {
		return nil, status.Error(codes.InvalidArgument, "a write needs a shard, a database and a retention policy")
	}
	// Its copy would be one that no query reads, and nothing removes.
	if s.writer.deleted(r.ShardId, rpc.Relied(ctx)) {
		return nil, status.Error(codes.NotFound, errShardDeleted.Error())
	}
	points, err := decodePoints(r.Points)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if s.writer.Handoff != nil && r.SenderNode != 0 {
		s.writer.Handoff.Heard(r.SenderNode)
	}
	if !versioned(r) && s.writer.holdsDeletes(r.SenderNode) {
		return nil, status.Error(codes.FailedPrecondition, "deletes wait here for the sender of the write: they come first")
	}
	if s.writer.tooLate(r) {
		return nil, status.Error(codes.Canceled, "the write came too late: its sender has given it up")
	}
	if r.Decides && r.OnlyWhole && s.writer.notWhole(ctx, r.ShardId) {
		return &rpc.WriteShardResponse{Undecided: true}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	err = s.writer.acceptSpans(r, points)
	var p tsdb.PartialWriteError
	if err == nil || errors.As(err, &p) {
		s.writer.received.add(r)
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
			resp.Conflicts, err = conflicts(s.store.Shard(r.ShardId), r.Points)
			if err != nil {
				return nil, status.Error(codes.Internal, err.Error())
			}
		}
		return resp, nil
	}
	return &rpc.WriteShardResponse{Error: err.Error(), Retryable: true}, nil
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

// Execute runs a statement on this node's store alone.
func (s *Server) Execute(_ context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	s.writer.heard(r.Version) // what comes after the delete has a greater one
	if r.AnnounceOnly && r.Ended && r.Id == "" && r.SenderNode != 0 {
		s.writer.deletes.endBefore(r.SenderNode, r.Started)
		return &rpc.ExecuteResponse{}, nil
	}
	if err := check(r); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: %v", r.Kind, err)
	}
	if r.Bounds != nil {
		return &rpc.ExecuteResponse{}, nil // it concerned what waited before it in the queue of its sender
	}
	deletes := isDelete(r.Kind) && r.Id != ""
	switch {
	case r.AnnounceOnly && !deletes:
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly && r.Ended:
		s.writer.deletes.end(r.Database, r.Id, time.Now())
		s.writer.removals.ended(r.Database, r.Id)
		return &rpc.ExecuteResponse{}, nil
	case r.AnnounceOnly:
		s.writer.deletes.begin(r.Database, r.Id, announced{time.Now(), r.SenderNode, r.Started})
		s.writer.removals.announce(r, time.Now())
	case deletes:
		return s.ran(s.writer.runOnce(r))
	default:
		return s.ran(s.writer.runDelete(s.store, r))
	}
	return &rpc.ExecuteResponse{Clock: s.writer.clock()}, nil
}

// ran is the answer to a statement that ran here.
func (s *Server) ran(err error) (*rpc.ExecuteResponse, error) {
	if neverRuns(err) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	out := &rpc.ExecuteResponse{Clock: s.writer.clock()}
	if err != nil {
		out.Error = err.Error()
	}
	return out, nil
}

// Hint keeps a delete for nodes that its sender did not reach.
func (s *Server) Hint(_ context.Context, r *rpc.HintRequest) (*rpc.HintResponse, error) {
	if r.Delete == nil || !isDelete(r.Delete.Kind) {
		return nil, status.Error(codes.InvalidArgument, "a hint needs a delete")
	} else if err := check(r.Delete); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v: %v", r.Delete.Kind, err)
	}
	if err := s.writer.HintDelete(r.Delete, r.Nodes); err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return &rpc.HintResponse{}, nil
}

// Received compares what another owner got of a node that went down with what this node got.
func (s *Server) Received(ctx context.Context, r *rpc.ReceivedRequest) (*rpc.ReceivedResponse, error) {
	if err := s.writer.compareReceived(ctx, r); err != nil {
		return nil, err
	}
	return &rpc.ReceivedResponse{}, nil
}

// isDelete tells statements that remove points from those that remove shards
// together with their metadata.
func isDelete(k rpc.ExecuteRequest_Kind) bool {
	return k == rpc.ExecuteRequest_DELETE_SERIES || k == rpc.ExecuteRequest_DROP_MEASUREMENT
}

// check refuses what no statement can be; database and policy become folders.
func check(r *rpc.ExecuteRequest) error {
	if r.Kind != rpc.ExecuteRequest_DROP_SHARD && !emeta.ValidName(r.Database) {
		return fmt.Errorf("invalid database %q", r.Database)
	}
	switch r.Kind {
	case rpc.ExecuteRequest_DELETE_SERIES:
		return checkDelete(r)
	case rpc.ExecuteRequest_DROP_RETENTION_POLICY:
		if !emeta.ValidName(r.Name) {
			return fmt.Errorf("invalid retention policy %q", r.Name)
		}
	case rpc.ExecuteRequest_DROP_MEASUREMENT:
		if r.Name == "" {
			return errors.New("no measurement")
		}
	case rpc.ExecuteRequest_DROP_DATABASE, rpc.ExecuteRequest_DROP_SHARD:
	default:
		return errors.New("unknown statement")
	}
	return nil
}

// checkDelete refuses what every store refuses: such a delete would wait for ever in a queue.
func checkDelete(r *rpc.ExecuteRequest) error {
	sources, _, err := parseDelete(r.Statement)
	if err != nil {
		return err
	}
	if _, err := newCovering(r, ""); err != nil {
		return err
	}
	for _, s := range sources { // of type Measurement, says newCovering
		if want, got := sources[0].(*influxql.Measurement).RetentionPolicy, s.(*influxql.Measurement).RetentionPolicy; got != want {
			return fmt.Errorf("mixed retention policies not supported, wanted %q got %q", want, got)
		}
	}
	return nil
}

// neverRuns tells an error of the engine that a delete meets each time. It depends on what the store has,
// and so cannot be found before.
func neverRuns(err error) bool {
	return err != nil && strings.Contains(err.Error(), "fields not supported in WHERE clause during deletion")
}

func execute(store *tsdb.Store, r *rpc.ExecuteRequest) error {
	switch r.Kind {
	case rpc.ExecuteRequest_DELETE_SERIES:
		sources, cond, err := parseDelete(r.Statement)
		if err != nil {
			return err
		}
		return durably(store, r.Database, func() error {
			return store.DeleteSeries(r.Database, sources, influxql.CloneExpr(cond))
		})
	case rpc.ExecuteRequest_DROP_MEASUREMENT:
		return durably(store, r.Database, func() error {
			return store.DeleteMeasurement(r.Database, r.Name)
		})
	case rpc.ExecuteRequest_DROP_DATABASE:
		return store.DeleteDatabase(r.Database)
	case rpc.ExecuteRequest_DROP_RETENTION_POLICY:
		return store.DeleteRetentionPolicy(r.Database, r.Name)
	case rpc.ExecuteRequest_DROP_SHARD:
		// Not every node has every shard.
		if err := store.DeleteShard(r.ShardId); !errors.Is(err, tsdb.ErrShardNotFound) {
			return err
		}
		return nil
	}
	return fmt.Errorf("unknown statement %v", r.Kind)
}

// durably runs a delete of points so that nothing of it comes back: neither points from a cache snapshot, nor, after
// a crash, the types of fields of measurements that it dropped.
func durably(store *tsdb.Store, db string, run func() error) error {
	return fieldindex.AfterDelete(store, db, func() error { return betweenSnapshots(store, db, run) })
}

var everyName = regexp.MustCompile(`.*`)

// deleteText writes a delete as InfluxQL, and is sure that parseDelete reads the
// same from it: names and expressions with control characters or invalid UTF-8
// have no InfluxQL form, and nothing else must be deleted in their place.
func deleteText(sources []influxql.Source, cond influxql.Expr) (string, error) {
	// A time literal is written as a string, and read as one.
	cond = influxql.RewriteExpr(influxql.CloneExpr(cond), func(e influxql.Expr) influxql.Expr {
		if t, ok := e.(*influxql.TimeLiteral); ok {
			return &influxql.StringLiteral{Val: t.Val.UTC().Format(time.RFC3339Nano)}
		}
		return e
	})
	text := (&influxql.DeleteSeriesStatement{Sources: sources, Condition: cond}).String()
	gotSources, gotCond, err := parseDelete(text)
	if err == nil && (!reflect.DeepEqual(gotSources, sources) || !reflect.DeepEqual(gotCond, cond)) {
		err = errors.New("it reads differently")
	}
	if err != nil {
		return "", fmt.Errorf("this delete cannot be sent to other nodes as %q: %w", text, err)
	}
	return text, nil
}

func parseDelete(text string) ([]influxql.Source, influxql.Expr, error) {
	if err := statement.Peer.Query(text, nil); err != nil {
		return nil, nil, fmt.Errorf("parse the delete: %w", err)
	}
	q, err := influxql.ParseQuery(text)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the delete: %w", err)
	}
	if len(q.Statements) == 1 {
		if d, ok := q.Statements[0].(*influxql.DeleteSeriesStatement); ok {
			return d.Sources, d.Condition, nil
		}
	}
	return nil, nil, fmt.Errorf("%q is no delete", text)
}
