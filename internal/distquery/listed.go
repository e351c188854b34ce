package distquery

import (
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
)

// mayList decides of which databases a statement lists what there is. The engine asks it for reading and for writing,
// whatever the statement lists.
type mayList struct {
	user *cluster.User
	any  cluster.Permissions // one of them is enough
}

func (m mayList) AuthorizeDatabase(_ influxql.Privilege, database string) bool {
	return (m.user.Grants[""]|m.user.Grants[database])&m.any != 0
}

// limitList makes a statement list only what its user may see, until the function that it returns is called.
func (e *Executor) limitList(ctx *query.ExecutionContext, stmt influxql.Statement) (restore func()) {
	any := listPermissions(stmt)
	if any == 0 || ctx.UserID == "" {
		return func() {}
	}
	st := e.Mapper.meta.State()
	user := st.User(ctx.UserID)
	if st.LDAPOn() { // a user of the cluster of that name is somebody else
		user, _ = ctx.CoarseAuthorizer.(*cluster.User)
	}
	if user == nil { // not one of the metadata: what came with the request decides
		return func() {}
	}
	before := ctx.CoarseAuthorizer
	ctx.CoarseAuthorizer = mayList{user, any}
	return func() { ctx.CoarseAuthorizer = before }
}

// listPermissions are those that let a user see what a statement lists of a database.
func listPermissions(stmt influxql.Statement) cluster.Permissions {
	switch stmt.(type) {
	case *influxql.ShowDatabasesStatement:
		return cluster.AllPermissions
	case *influxql.ShowContinuousQueriesStatement:
		return cluster.ManageContinuousQuery
	case *influxql.ShowSubscriptionsStatement:
		return cluster.ManageSubscription
	case *influxql.ShowQueriesStatement:
		return cluster.ManageQuery
	case *influxql.ShowMeasurementsStatement:
		return cluster.ReadData
	}
	return 0
}

// listedRows takes the rows of databases that the user may not see out of the answer of SHOW SUBSCRIPTIONS: the engine
// lists all.
func listedRows(ctx *query.ExecutionContext, stmt influxql.Statement, r *query.Result) {
	if _, ok := stmt.(*influxql.ShowSubscriptionsStatement); !ok || ctx.CoarseAuthorizer == nil {
		return
	}
	kept := r.Series[:0]
	for _, row := range r.Series {
		if ctx.CoarseAuthorizer.AuthorizeDatabase(influxql.ReadPrivilege, row.Name) {
			kept = append(kept, row)
		}
	}
	r.Series = kept
}
