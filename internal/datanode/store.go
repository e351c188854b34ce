package datanode

import (
	"context"
	"fmt"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/tsdb"
	"github.com/influxdata/influxql"

	"concord/internal/deletes"
	"concord/internal/distquery"
	"concord/internal/restrict"
)

// clusterStore is the engine's store as statements see it: deletes run on
// every node, schema questions are asked of the whole cluster, and the rest
// is the local store.
type clusterStore struct {
	*tsdb.Store
	*distquery.Schema
	delete *deletes.Service
	user   *restrict.User // of the statement; nil for one without restrictions
}

func (s clusterStore) DeleteDatabase(name string) error { return s.delete.DeleteDatabase(name) }

func (s clusterStore) DeleteMeasurement(db, name string) error {
	if only, any := s.user.Writes(db).Condition(name); only != nil || !any {
		return fmt.Errorf("not authorized to drop measurement %q of database %q: that needs all of its series", name,
			db)
	}
	return s.delete.DeleteMeasurement(db, name)
}

func (s clusterStore) DeleteRetentionPolicy(db, name string) error {
	return s.delete.DeleteRetentionPolicy(db, name)
}

func (s clusterStore) DeleteSeries(db string, sources []influxql.Source, cond influxql.Expr) error {
	return deleteAllowed(s.Schema, s.delete, s.user, db, sources, cond)
}

func (s clusterStore) DeleteShard(id uint64) error { return s.delete.DeleteShard(id) }

func (s clusterStore) MeasurementNames(
	ctx context.Context, auth query.FineAuthorizer, db, rp string, cond influxql.Expr,
) ([][]byte, error) {
	return s.Schema.MeasurementNames(ctx, auth, db, rp, cond)
}

func (s clusterStore) TagKeys(
	ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr,
) ([]tsdb.TagKeys, error) {
	return s.Schema.TagKeys(ctx, auth, ids, cond)
}

func (s clusterStore) TagValues(
	ctx context.Context, auth query.FineAuthorizer, ids []uint64, cond influxql.Expr,
) ([]tsdb.TagValues, error) {
	return s.Schema.TagValues(ctx, auth, ids, cond)
}

func (s clusterStore) SeriesCardinality(ctx context.Context, db string) (int64, error) {
	return s.Schema.SeriesCardinality(ctx, db)
}

func (s clusterStore) MeasurementsCardinality(ctx context.Context, db string) (int64, error) {
	return s.Schema.MeasurementsCardinality(ctx, db)
}
