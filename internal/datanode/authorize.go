package datanode

import (
	"fmt"

	"github.com/influxdata/influxdb/query"
	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/meta/client"
)

// authorizer decides what users may do over the HTTP API, by the permissions that they have themselves and by their
// roles. statementNeeds has those of each statement.
type authorizer struct {
	meta *client.Client
	// queryDatabase is the database of a query that runs on this node.
	queryDatabase func(id uint64) (database string, ok bool)
}

// AuthorizeQuery returns an *emeta.ErrAuthorize when the user may not run one of the statements. database is that of
// the request.
func (a authorizer) AuthorizeQuery(u emeta.User, q *influxql.Query, database string) (query.FineAuthorizer, error) {
	if a.meta.UserCount() == 0 && !a.meta.State().LDAPOn() {
		if len(q.Statements) > 0 {
			if first, ok := q.Statements[0].(*influxql.CreateUserStatement); ok && first.Admin {
				return query.OpenAuthorizer, nil
			}
		}
		return nil, refused(q, "", database, "create admin user first or disable authentication")
	}
	if u == nil {
		return nil, refused(q, "", database, "no user provided")
	}
	for _, stmt := range q.Statements {
		for _, n := range statementNeeds(stmt, database, a.queryDatabase) {
			if !n.metBy(u) {
				return nil, refused(q, u.ID(), database, fmt.Sprintf("statement '%s', requires %s", stmt, n))
			}
		}
	}
	return query.OpenAuthorizer, nil
}

func refused(q *influxql.Query, user, database, why string) error {
	return &emeta.ErrAuthorize{Query: q, User: user, Database: database, Message: why}
}

// AuthorizeDatabase is for reads of Prometheus, and for buckets.
func (a authorizer) AuthorizeDatabase(u emeta.User, p influxql.Privilege, database string) error {
	permission := cluster.ReadData
	if p == influxql.WritePrivilege {
		permission = cluster.WriteData
	}
	return require(u, permission, database)
}

// AuthorizeCreateDatabase is for new buckets, and changes of them.
func (a authorizer) AuthorizeCreateDatabase(u emeta.User) error {
	return require(u, cluster.CreateDatabases, "")
}

// AuthorizeCreateRetentionPolicy is for new buckets in databases that exist.
func (a authorizer) AuthorizeCreateRetentionPolicy(u emeta.User, db string) error {
	return require(u, cluster.CreateDatabases, db)
}

// AuthorizeDeleteRetentionPolicy is for the removal of buckets.
func (a authorizer) AuthorizeDeleteRetentionPolicy(u emeta.User, db string) error {
	return require(u, cluster.DropDatabases, db)
}

// require returns an *emeta.ErrAuthorize unless the user has the permission.
func require(u emeta.User, p cluster.Permissions, database string) error {
	if u == nil {
		return refused(nil, "", database, "no user provided")
	}
	if n := (need{any: []cluster.Permissions{p}, database: database}); !n.metBy(u) {
		return refused(nil, "", database, fmt.Sprintf("user %q, requires %s", u.ID(), n))
	}
	return nil
}

// writeAuthorizer lets users write, or delete, who have the permission for the database.
type writeAuthorizer struct {
	meta *client.Client
	need cluster.Permissions
}

// AuthorizeWrite returns an *emeta.ErrAuthorize unless the user has the permission.
func (a writeAuthorizer) AuthorizeWrite(username, database string) error {
	if u := a.meta.UserInfo(username); u != nil && u.Grants.Has(a.need, database) {
		return nil
	}
	what := "write to"
	if a.need == cluster.DropData {
		what = "delete from"
	}
	return refused(nil, "", database, fmt.Sprintf("%s not authorized to %s %s", username, what, database))
}
