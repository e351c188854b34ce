package datanode

import (
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/deletes"
	"concord/internal/distquery"
	"concord/internal/meta/client"
	"concord/internal/rpc"
)

// httpStore is the store as the engine's HTTP API sees it: Prometheus reads the
// whole cluster, and what /api/v2 deletes is deleted on every node.
type httpStore struct {
	*distquery.SeriesReader
	delete *deletes.Service
}

// newHTTPStore returns the store with the limits of [cluster].
func (n *Node) newHTTPStore(pool *rpc.Pool) httpStore {
	r := distquery.NewSeriesReader(n.Meta, n.Store, pool)
	r.MaxPoints, r.MaxSeries = n.cfg.Cluster.MaxSelectPointN, n.cfg.Cluster.MaxSelectSeriesN
	r.Whole, r.Budget = n.whole(), n.queries.budget
	r.Timeout = time.Duration(n.cfg.Cluster.QueryTimeout)
	return httpStore{SeriesReader: r, delete: n.deletes}
}

func (s httpStore) Delete(db string, sources []influxql.Source, cond influxql.Expr) error {
	return s.delete.DeleteSeries(db, sources, cond)
}

func (s httpStore) DeleteRetentionPolicy(db, name string) error {
	return s.delete.DeleteRetentionPolicy(db, name)
}

// httpMeta is the metadata as the engine's HTTP API sees it. A bucket of
// /api/v2 has no replication factor, and the engine asks for one copy: here a
// new policy gets the default, and one that is changed keeps what it has.
type httpMeta struct{ *client.Client }

func (m httpMeta) CreateDatabaseWithRetentionPolicy(name string, spec *emeta.RetentionPolicySpec) (*emeta.DatabaseInfo, error) {
	return m.Client.CreateDatabaseWithRetentionPolicy(name, withoutReplicaN(spec))
}

func (m httpMeta) CreateRetentionPolicy(db string, spec *emeta.RetentionPolicySpec, makeDefault bool) (*emeta.RetentionPolicyInfo, error) {
	return m.Client.CreateRetentionPolicy(db, withoutReplicaN(spec), makeDefault)
}

func (m httpMeta) UpdateRetentionPolicy(db, name string, update *emeta.RetentionPolicyUpdate, makeDefault bool) error {
	kept := *update
	kept.ReplicaN = nil
	return m.Client.UpdateRetentionPolicy(db, name, &kept, makeDefault)
}

func withoutReplicaN(spec *emeta.RetentionPolicySpec) *emeta.RetentionPolicySpec {
	bare := *spec
	bare.ReplicaN = nil
	return &bare
}
