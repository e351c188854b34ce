package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"concord/internal/rpc"
)

// Server does on this node's store what other nodes ask.
type Server struct {
	rpc.UnimplementedReplicationServer
	store *tsdb.Store
	log   *zap.Logger
}

// NewServer returns the server over store.
func NewServer(store *tsdb.Store, log *zap.Logger) *Server { return &Server{store: store, log: log} }

// WriteShard writes points to one shard.
func (s *Server) WriteShard(_ context.Context, r *rpc.WriteShardRequest) (*rpc.WriteShardResponse, error) {
	if r.ShardId == 0 || r.Database == "" || r.RetentionPolicy == "" {
		return nil, status.Error(codes.InvalidArgument, "a write needs a shard, a database and a retention policy")
	}
	points := make([]models.Point, len(r.Points))
	for i, b := range r.Points {
		p, err := decodePoint(b)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "point %d: %v", i, err)
		}
		points[i] = p
	}
	err := writeStore(s.store, tsdb.WriteContext{UserId: r.UserId}, r.ShardId, r.Database, r.RetentionPolicy, points)
	var p tsdb.PartialWriteError
	switch {
	case err == nil:
		return &rpc.WriteShardResponse{}, nil
	case errors.As(err, &p):
		return &rpc.WriteShardResponse{Error: p.Reason, Dropped: int32(p.Dropped), Partial: true}, nil
	}
	return &rpc.WriteShardResponse{Error: err.Error(), Retryable: true}, nil
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
	if len(p.Name()) == 0 {
		return nil, errors.New("malformed: no measurement")
	}
	return p, nil
}

// Execute runs a statement on this node's store alone.
func (s *Server) Execute(_ context.Context, r *rpc.ExecuteRequest) (*rpc.ExecuteResponse, error) {
	if err := execute(s.store, r); err != nil {
		return &rpc.ExecuteResponse{Error: err.Error()}, nil
	}
	return &rpc.ExecuteResponse{}, nil
}

func execute(store *tsdb.Store, r *rpc.ExecuteRequest) error {
	switch r.Kind {
	case rpc.ExecuteRequest_DELETE_SERIES:
		sources, cond, err := parseDelete(r.Statement)
		if err != nil {
			return err
		}
		return store.DeleteSeries(r.Database, sources, cond)
	case rpc.ExecuteRequest_DROP_MEASUREMENT:
		return store.DeleteMeasurement(r.Database, r.Name)
	case rpc.ExecuteRequest_DROP_DATABASE:
		return store.DeleteDatabase(r.Database)
	case rpc.ExecuteRequest_DROP_RETENTION_POLICY:
		return store.DeleteRetentionPolicy(r.Database, r.Name)
	case rpc.ExecuteRequest_DROP_SHARD:
		return store.DeleteShard(r.ShardId)
	}
	return fmt.Errorf("unknown statement %v", r.Kind)
}

// deleteText writes a delete as InfluxQL, from which parseDelete gets it back.
func deleteText(sources []influxql.Source, cond influxql.Expr) string {
	return (&influxql.DeleteSeriesStatement{Sources: sources, Condition: cond}).String()
}

func parseDelete(text string) ([]influxql.Source, influxql.Expr, error) {
	stmt, err := influxql.ParseStatement(text)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the delete: %w", err)
	}
	d, ok := stmt.(*influxql.DeleteSeriesStatement)
	if !ok {
		return nil, nil, fmt.Errorf("%q is no delete", text)
	}
	return d.Sources, d.Condition, nil
}
