package datanode

import (
	"testing"

	"github.com/influxdata/influxql"

	"concord/internal/cluster"
)

// A user with one permission, for all databases, may run exactly the statements that the documentation has for it.
func TestEachPermissionAllowsWhatIsDocumented(t *testing.T) {
	t.Parallel()
	const free = cluster.Permissions(0)
	for text, want := range map[string]cluster.Permissions{ // any of them is enough
		"SHOW DATABASES":  free,
		"SELECT v FROM m": cluster.ReadData, "EXPLAIN SELECT v FROM m": cluster.ReadData,
		"SHOW SERIES": cluster.ReadData, "SHOW MEASUREMENTS": cluster.ReadData, "SHOW FIELD KEYS": cluster.ReadData,
		"SHOW TAG KEYS": cluster.ReadData, `SHOW TAG VALUES WITH KEY = "k"`: cluster.ReadData,
		"SHOW SERIES CARDINALITY": cluster.ReadData, "SHOW MEASUREMENT CARDINALITY": cluster.ReadData,
		"SHOW RETENTION POLICIES": cluster.ReadData | cluster.CreateDatabases,
		"CREATE DATABASE x":       cluster.CreateDatabases,
		"CREATE RETENTION POLICY p ON db DURATION 1d REPLICATION 1": cluster.CreateDatabases,
		"ALTER RETENTION POLICY p ON db DURATION 1d":                cluster.CreateDatabases,
		"DROP DATABASE x": cluster.DropDatabases, "DROP RETENTION POLICY p ON db": cluster.DropDatabases,
		"DELETE FROM m": cluster.DropData, "DROP SERIES FROM m": cluster.DropData,
		"DROP MEASUREMENT m": cluster.DropData,
		"CREATE CONTINUOUS QUERY c ON db BEGIN SELECT mean(v) INTO n FROM m GROUP BY time(1m) END": cluster.ManageContinuousQuery,
		"DROP CONTINUOUS QUERY c ON db":                              cluster.ManageContinuousQuery,
		"SHOW CONTINUOUS QUERIES":                                    cluster.ManageContinuousQuery,
		"CREATE SUBSCRIPTION s ON db.p DESTINATIONS ALL 'udp://h:1'": cluster.ManageSubscription,
		"DROP SUBSCRIPTION s ON db.p":                                cluster.ManageSubscription,
		"SHOW SUBSCRIPTIONS":                                         cluster.ManageSubscription,
		"SHOW QUERIES":                                               cluster.ManageQuery, "KILL QUERY 1": cluster.ManageQuery,
		"CREATE USER u WITH PASSWORD 'p'": cluster.CreateUserAndRole, "DROP USER u": cluster.CreateUserAndRole,
		"SET PASSWORD FOR u = 'p'": cluster.CreateUserAndRole, "SHOW USERS": cluster.CreateUserAndRole,
		"SHOW GRANTS FOR u": cluster.CreateUserAndRole, "GRANT READ ON db TO u": cluster.CreateUserAndRole,
		"GRANT ALL TO u": cluster.CreateUserAndRole, "REVOKE READ ON db FROM u": cluster.CreateUserAndRole,
		"REVOKE ALL FROM u": cluster.CreateUserAndRole,
		"DROP SHARD 1":      cluster.ManageShard, "SHOW SHARDS": cluster.ManageShard,
		"SHOW SHARD GROUPS": cluster.ManageShard,
		"SHOW STATS":        cluster.Monitor, "SHOW DIAGNOSTICS": cluster.Monitor,
	} {
		stmt, err := influxql.ParseStatement(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		for p := cluster.Permissions(1); p <= cluster.AllPermissions; p <<= 1 {
			u, may := &cluster.User{Grants: cluster.Grants{"": p}}, true
			for _, n := range statementNeeds(stmt, "db", func(uint64) (string, bool) { return "", false }) {
				may = may && n.metBy(u)
			}
			if may != (want == free || want&p != 0) {
				t.Errorf("%s with %s: %t", text, p, may)
			}
		}
	}
}
