package datanode

import (
	"context"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxdb/services/httpd"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxdb/services/storage"
	"github.com/influxdata/influxdb/storage/reads"
	"github.com/influxdata/influxdb/storage/reads/datatypes"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/deletes"
	"concord/internal/distquery"
	"concord/internal/replication"
	"concord/internal/restrict"
)

// Fine-grained authorization of what clients ask over HTTP. While there are no restrictions, all of it is one look at
// an empty list.

// rulesFor are the restrictions of a user, nil for none.
func rulesFor(state *cluster.State, user emeta.User) *restrict.User {
	return state.Restricted(user)
}

// fineAuthorizer gives the statements of a query the restrictions of its user.
type fineAuthorizer struct {
	httpd.QueryAuthorizer
	state func() *cluster.State
}

func (a fineAuthorizer) AuthorizeQuery(
	user emeta.User, q *influxql.Query, database string,
) (query.FineAuthorizer, error) {
	all, err := a.QueryAuthorizer.AuthorizeQuery(user, q, database)
	if err != nil {
		return nil, err
	}
	if rules := rulesFor(a.state(), user); rules != nil {
		return rules, nil
	}
	return all, nil
}

// restrictedWriter refuses a batch with a point that its user may not write.
type restrictedWriter struct {
	*replication.Writer
	state func() *cluster.State
}

func (w restrictedWriter) WritePoints(
	database, policy string, level models.ConsistencyLevel, user emeta.User, points []models.Point,
) error {
	if rules := rulesFor(w.state(), user); rules != nil {
		if err := rules.MayWrite(database, points); err != nil {
			return err
		}
	}
	return w.Writer.WritePoints(database, policy, level, user, points)
}

// deleteAllowed deletes what the user may write.
func deleteAllowed(
	schema *distquery.Schema, service *deletes.Service, user *restrict.User, db string, sources []influxql.Source,
	cond influxql.Expr,
) error {
	allowed := user.Writes(db)
	if allowed == nil {
		return service.DeleteSeries(db, sources, cond)
	}
	// the engine has no context here
	parts, err := schema.AllowedDeletes(context.Background(), allowed, db, sources, cond)
	if err != nil {
		return err
	}
	for _, d := range parts {
		if err := service.DeleteSeries(db, d.Sources, d.Cond); err != nil {
			return err
		}
	}
	return nil
}

// oneRequest returns a function that makes a handler for one request whose user the engine does not tell the store; nil
// while nobody has restrictions. The handler notes who logs in.
func (n *Node) oneRequest(meta httpMeta) func(*httpd.Handler) *httpd.Handler {
	return func(all *httpd.Handler) *httpd.Handler {
		if !all.Config.AuthEnabled || len(n.Meta.State().Restrictions) == 0 {
			return nil
		}
		h := httpd.NewHandler(*all.Config)
		who := &caller{httpMeta: meta}
		h.MetaClient, h.Store = who, callerStore{n.queries.store, n.queries.schema, who, n.Meta.State}
		h.QueryAuthorizer, h.WriteAuthorizer = all.QueryAuthorizer, all.WriteAuthorizer
		h.QueryExecutor, h.Monitor, h.PointsWriter = all.QueryExecutor, all.Monitor, all.PointsWriter
		h.Version, h.BuildType, h.Logger, h.CLFLogger = all.Version, all.BuildType, all.Logger, all.CLFLogger
		return h
	}
}

// caller is the metadata for one request. It knows who logged in.
type caller struct {
	httpMeta
	user emeta.User
}

func (c *caller) Authenticate(username, password string) (emeta.User, error) {
	u, err := c.httpMeta.Authenticate(username, password)
	if err == nil {
		c.user = u
	}
	return u, err
}

func (c *caller) User(username string) (emeta.User, error) {
	u, err := c.httpMeta.User(username)
	if err == nil {
		c.user = u
	}
	return u, err
}

// callerStore is the store for one request.
type callerStore struct {
	httpStore
	schema *distquery.Schema
	who    *caller
	state  func() *cluster.State
}

func (s callerStore) ReadFilter(ctx context.Context, req *datatypes.ReadFilterRequest) (reads.ResultSet, error) {
	where, err := storage.GetReadSource(req.ReadSource)
	if err != nil {
		return nil, err
	}
	allowed := rulesFor(s.state(), s.who.user).Reads(where.Database)
	return s.httpStore.ReadFilter(restrict.With(ctx, allowed), req)
}

func (s callerStore) Delete(db string, sources []influxql.Source, cond influxql.Expr) error {
	return deleteAllowed(s.schema, s.delete, rulesFor(s.state(), s.who.user), db, sources, cond)
}
