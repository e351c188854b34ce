package datanode

import (
	"time"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/deletes"
	"concord/internal/distquery"
	"concord/internal/meta/client"
	"concord/internal/page"
)

// httpStore is the store as the engine's HTTP API sees it: Prometheus reads the
// whole cluster, and what /api/v2 deletes is deleted on every node.
type httpStore struct {
	*distquery.SeriesReader
	delete *deletes.Service
}

// newHTTPStore returns the store with the limits of [cluster].
func (n *Node) newHTTPStore() httpStore {
	c := n.cfg.Cluster
	r := distquery.NewSeriesReader(n.queries.deps, distquery.ReadLimits{
		MaxPoints: c.MaxSelectPointN, MaxSeries: c.MaxSelectSeriesN, Timeout: time.Duration(c.QueryTimeout),
	})
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
type httpMeta struct {
	*client.Client
	logins *page.Logins
}

// Authenticate also takes the token of a login of the page as a password: so the page asks /query.
func (m httpMeta) Authenticate(username, password string) (emeta.User, error) {
	if u := m.logins.Token(username, password); u != nil {
		return u, nil
	}
	return m.Client.Authenticate(username, password)
}

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
