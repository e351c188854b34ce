package datanode

import (
	"cmp"
	"strings"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"

	"concord/internal/cluster"
)

// need is one thing that a user must be allowed.
type need struct {
	any      []cluster.Permissions // one of them is enough
	database string                // "" for the cluster
}

func (n need) metBy(u emeta.User) bool {
	for _, p := range n.any {
		if cluster.May(u, p, n.database) {
			return true
		}
	}
	return false
}

// String is the end of a sentence that begins with "requires". Reading and writing are called as in InfluxDB OSS.
func (n need) String() string {
	var names []string
	for _, p := range n.any {
		switch p {
		case cluster.ReadData:
			names = append(names, influxql.ReadPrivilege.String())
		case cluster.WriteData:
			names = append(names, influxql.WritePrivilege.String())
		case cluster.ClusterPermissions:
			names = append(names, "admin privilege")
		default:
			names = append(names, p.String())
		}
	}
	s := strings.Join(names, " or ")
	if n.database != "" {
		s += " on " + n.database
	}
	return s
}

// statementNeeds is all that a user needs for a statement, as the documentation of InfluxDB Enterprise has it. database
// is that of the request, for statements that name none. queryDatabase is the database of a query on this node.
//
// A statement that names a second database needs a permission for that, too: one for the first must not open others.
func statementNeeds(
	stmt influxql.Statement, database string, queryDatabase func(id uint64) (string, bool),
) []need {
	on := func(any ...cluster.Permissions) []need { return []need{{any, cmp.Or(databaseOf(stmt), database)}} }
	// onEach is like on, and adds each other database that a measurement of the statement is in.
	onEach := func(p cluster.Permissions) []need {
		needs := on(p)
		for _, m := range measurementsOf(stmt) {
			if m.Database != "" && m.Database != needs[0].database {
				needs = append(needs, need{[]cluster.Permissions{p}, m.Database})
			}
		}
		return needs
	}
	inCluster := func(p cluster.Permissions) []need { return []need{{[]cluster.Permissions{p}, ""}} }
	switch s := stmt.(type) {
	case *influxql.SelectStatement:
		return selectNeeds(s, database)
	case *influxql.ExplainStatement:
		return selectNeeds(s.Statement, database)

	case *influxql.ShowDatabasesStatement:
		return nil // the answer has those that the user may see
	case *influxql.ShowMeasurementsStatement:
		if s.WildcardDatabase {
			return nil // as above
		}
		return onEach(cluster.ReadData)
	case *influxql.ShowFieldKeysStatement, *influxql.ShowFieldKeyCardinalityStatement,
		*influxql.ShowMeasurementCardinalityStatement,
		*influxql.ShowSeriesStatement, *influxql.ShowSeriesCardinalityStatement,
		*influxql.ShowTagKeysStatement, *influxql.ShowTagKeyCardinalityStatement,
		*influxql.ShowTagValuesStatement, *influxql.ShowTagValuesCardinalityStatement:
		return onEach(cluster.ReadData)

	case *influxql.CreateDatabaseStatement:
		return inCluster(cluster.CreateDatabases)
	case *influxql.CreateRetentionPolicyStatement, *influxql.AlterRetentionPolicyStatement:
		return on(cluster.CreateDatabases)
	case *influxql.ShowRetentionPoliciesStatement: // one table of the documentation has one, the other has both
		return on(cluster.ReadData, cluster.CreateDatabases)
	case *influxql.DropDatabaseStatement:
		return inCluster(cluster.DropDatabases)
	case *influxql.DropRetentionPolicyStatement:
		return on(cluster.DropDatabases)

	case *influxql.DeleteStatement, *influxql.DeleteSeriesStatement, *influxql.DropSeriesStatement,
		*influxql.DropMeasurementStatement:
		return onEach(cluster.DropData)

	case *influxql.CreateContinuousQueryStatement:
		needs := on(cluster.ManageContinuousQuery)
		for _, n := range selectNeeds(s.Source, needs[0].database) {
			if n.database != needs[0].database {
				needs = append(needs, n)
			}
		}
		return needs
	case *influxql.DropContinuousQueryStatement, *influxql.ShowContinuousQueriesStatement:
		return on(cluster.ManageContinuousQuery)

	case *influxql.CreateSubscriptionStatement, *influxql.DropSubscriptionStatement,
		*influxql.ShowSubscriptionsStatement:
		return on(cluster.ManageSubscription)

	case *influxql.ShowQueriesStatement:
		return on(cluster.ManageQuery)
	case *influxql.KillQueryStatement:
		if db, ok := queryDatabase(s.QueryID); ok && s.Host == "" && db != "" {
			return []need{{[]cluster.Permissions{cluster.ManageQuery}, db}}
		}
		return inCluster(cluster.ManageQuery) // this node does not know whose query it is

	case *influxql.CreateUserStatement, *influxql.DropUserStatement, *influxql.SetPasswordUserStatement,
		*influxql.GrantStatement, *influxql.GrantAdminStatement, *influxql.RevokeStatement,
		*influxql.RevokeAdminStatement, *influxql.ShowGrantsForUserStatement, *influxql.ShowUsersStatement:
		return inCluster(cluster.CreateUserAndRole)
	case *influxql.DropShardStatement, *influxql.ShowShardsStatement, *influxql.ShowShardGroupsStatement:
		return inCluster(cluster.ManageShard)
	case *influxql.ShowStatsStatement, *influxql.ShowDiagnosticsStatement:
		return inCluster(cluster.Monitor)
	}
	return inCluster(cluster.ClusterPermissions) // nobody has said what it needs
}

// databaseOf is the database that a statement names with ON, "" for none. That of a DELETE is in its measurement.
func databaseOf(stmt influxql.Statement) string {
	if named, ok := stmt.(influxql.HasDefaultDatabase); ok {
		if _, isDelete := stmt.(*influxql.DeleteStatement); !isDelete {
			return named.DefaultDatabase()
		}
	}
	return ""
}

// measurementsOf are those that a statement other than a query names.
func measurementsOf(stmt influxql.Statement) (out []*influxql.Measurement) {
	add := func(n influxql.Node) {
		if m, ok := n.(*influxql.Measurement); ok {
			out = append(out, m)
		}
	}
	switch s := stmt.(type) { // of these Walk does not know the sources
	case *influxql.DeleteStatement:
		influxql.WalkFunc(s.Source, add)
	case *influxql.ShowMeasurementsStatement:
		influxql.WalkFunc(s.Source, add)
	default:
		influxql.WalkFunc(s, add)
	}
	return out
}

// selectNeeds are those of the sources, also of subqueries, and of where the answer is stored.
func selectNeeds(s *influxql.SelectStatement, database string) (needs []need) {
	add := func(p cluster.Permissions, named string) {
		if named == "" {
			named = database
		}
		needs = append(needs, need{[]cluster.Permissions{p}, named})
	}
	for _, m := range s.Sources.Measurements() {
		add(cluster.ReadData, m.Database)
	}
	if s.Target != nil {
		add(cluster.WriteData, s.Target.Measurement.Database)
	}
	return needs
}
