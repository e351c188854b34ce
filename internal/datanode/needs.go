package datanode

import (
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
	on := func(named string, any ...cluster.Permissions) []need {
		if named == "" {
			named = database
		}
		return []need{{any, named}}
	}
	inCluster := func(p cluster.Permissions) []need { return []need{{[]cluster.Permissions{p}, ""}} }
	// with adds the databases of the sources to a need.
	with := func(needs []need, sources influxql.Sources, p cluster.Permissions) []need {
		for _, m := range sources.Measurements() {
			if m.Database != "" && m.Database != needs[0].database {
				needs = append(needs, on(m.Database, p)...)
			}
		}
		return needs
	}
	switch s := stmt.(type) {
	case *influxql.SelectStatement:
		return selectNeeds(s, database)
	case *influxql.ExplainStatement:
		return selectNeeds(s.Statement, database)

	case *influxql.ShowDatabasesStatement:
		return nil // the answer has those that the user may see

	case *influxql.ShowFieldKeysStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowFieldKeyCardinalityStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowMeasurementsStatement:
		needs := on(s.Database, cluster.ReadData)
		if s.WildcardDatabase { // the answer has those that the user may see
			needs = nil
		}
		if s.Source != nil && needs != nil {
			needs = with(needs, influxql.Sources{s.Source}, cluster.ReadData)
		}
		return needs
	case *influxql.ShowMeasurementCardinalityStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowSeriesStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowSeriesCardinalityStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowTagKeysStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowTagKeyCardinalityStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowTagValuesStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)
	case *influxql.ShowTagValuesCardinalityStatement:
		return with(on(s.Database, cluster.ReadData), s.Sources, cluster.ReadData)

	case *influxql.CreateDatabaseStatement:
		return inCluster(cluster.CreateDatabases)
	case *influxql.CreateRetentionPolicyStatement:
		return on(s.Database, cluster.CreateDatabases)
	case *influxql.AlterRetentionPolicyStatement:
		return on(s.Database, cluster.CreateDatabases)
	case *influxql.ShowRetentionPoliciesStatement: // one table of the documentation has one, the other has both
		return on(s.Database, cluster.ReadData, cluster.CreateDatabases)

	case *influxql.DropDatabaseStatement:
		return inCluster(cluster.DropDatabases)
	case *influxql.DropRetentionPolicyStatement:
		return on(s.Database, cluster.DropDatabases)

	case *influxql.DeleteStatement:
		return with(on("", cluster.DropData), influxql.Sources{s.Source}, cluster.DropData)
	case *influxql.DeleteSeriesStatement:
		return with(on("", cluster.DropData), s.Sources, cluster.DropData)
	case *influxql.DropSeriesStatement:
		return with(on("", cluster.DropData), s.Sources, cluster.DropData)
	case *influxql.DropMeasurementStatement:
		return on("", cluster.DropData)

	case *influxql.CreateContinuousQueryStatement:
		needs := on(s.Database, cluster.ManageContinuousQuery)
		for _, n := range selectNeeds(s.Source, needs[0].database) {
			if n.database != needs[0].database {
				needs = append(needs, n)
			}
		}
		return needs
	case *influxql.DropContinuousQueryStatement:
		return on(s.Database, cluster.ManageContinuousQuery)
	case *influxql.ShowContinuousQueriesStatement:
		return on("", cluster.ManageContinuousQuery)

	case *influxql.CreateSubscriptionStatement:
		return on(s.Database, cluster.ManageSubscription)
	case *influxql.DropSubscriptionStatement:
		return on(s.Database, cluster.ManageSubscription)
	case *influxql.ShowSubscriptionsStatement:
		return on("", cluster.ManageSubscription)

	case *influxql.ShowQueriesStatement:
		return on("", cluster.ManageQuery)
	case *influxql.KillQueryStatement:
		if db, ok := queryDatabase(s.QueryID); ok && s.Host == "" && db != "" {
			return on(db, cluster.ManageQuery)
		}
		return inCluster(cluster.ManageQuery) // whose query it is is not known here

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
