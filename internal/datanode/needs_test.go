package datanode

import (
	"slices"
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

// A permission for the database of the request, or for the one that a statement names first, opens no other one.
func TestStatementNeedsAPermissionForEachDatabaseThatItNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"SELECT v FROM m": {"db"}, "SELECT v FROM y..m": {"y"}, "SELECT v INTO z..n FROM y..m": {"y", "z"},
		"EXPLAIN SELECT v FROM (SELECT v FROM y..m)": {"y"},
		"SHOW MEASUREMENTS":                          {"db"}, "SHOW MEASUREMENTS ON x": {"x"}, "SHOW MEASUREMENTS ON *.*": nil,
		"SHOW MEASUREMENT CARDINALITY ON x FROM y..m": {"x", "y"},
		"SHOW SERIES ON x FROM y..m, z..n":            {"x", "y", "z"}, "SHOW SERIES ON x FROM x..m": {"x"},
		"SHOW SERIES CARDINALITY FROM y..m":                        {"db", "y"},
		"SHOW FIELD KEYS ON x FROM y..m":                           {"x", "y"},
		"SHOW FIELD KEY EXACT CARDINALITY ON x FROM y..m":          {"x", "y"},
		"SHOW TAG KEYS ON x FROM y..m":                             {"x", "y"},
		"SHOW TAG KEY EXACT CARDINALITY ON x FROM y..m":            {"x", "y"},
		"SHOW TAG VALUES ON x FROM y..m WITH KEY = k":              {"x", "y"},
		"SHOW TAG VALUES EXACT CARDINALITY FROM m WITH KEY = k":    {"db"},
		"SHOW RETENTION POLICIES ON x":                             {"x"},
		"CREATE RETENTION POLICY p ON x DURATION 1d REPLICATION 1": {"x"},
		"DROP RETENTION POLICY p ON x":                             {"x"}, "DROP DATABASE x": {""},
		"DROP SERIES FROM m": {"db"}, "DELETE FROM m": {"db"}, "DROP MEASUREMENT m": {"db"},
		"CREATE CONTINUOUS QUERY c ON x BEGIN SELECT mean(v) INTO z..n FROM y..m GROUP BY time(1m) END": {"x", "y", "z"},
		"DROP CONTINUOUS QUERY c ON x": {"x"}, "SHOW CONTINUOUS QUERIES": {"db"},
		"CREATE SUBSCRIPTION s ON x.p DESTINATIONS ALL 'udp://h:1'": {"x"}, "SHOW SUBSCRIPTIONS": {"db"},
		"KILL QUERY 1": {"q"}, "KILL QUERY 2": {""}, `KILL QUERY 1 ON "h:1"`: {""},
	} {
		stmt, err := influxql.ParseStatement(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var got []string
		for _, n := range statementNeeds(stmt, "db", func(id uint64) (string, bool) { return "q", id == 1 }) {
			got = append(got, n.database)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s needs permissions for %q, want %q", text, got, want)
		}
	}
}
