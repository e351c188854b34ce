//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"

	"concord/test/process"
)

// login is who asks. The empty one does not log in.
type login struct{ name, password string }

// root is the administrator of stories with users.
var root = login{"root", "the password of root"}

// send sends a request to an address, and returns the status and the answer.
func (l login) send(t *testing.T, method, addr, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if l.name != "" {
		req.SetBasicAuth(l.name, l.password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// query runs a statement on a data node.
func (l login) query(t *testing.T, n *process.Node, db, q string) (int, string) {
	t.Helper()
	return l.send(t, http.MethodPost, n.HTTP, "/query?"+url.Values{"db": {db}, "q": {q}, "epoch": {"ns"}}.Encode(), "")
}

// must sends a request that has to succeed, and returns the answer.
func (l login) must(t *testing.T, method, addr, path, body string) string {
	t.Helper()
	code, answer := l.send(t, method, addr, path, body)
	if code >= 300 || strings.Contains(answer, `"error"`) {
		t.Fatalf("%s %s %s: %d %s", method, path, body, code, answer)
	}
	return answer
}

// mustQuery runs a statement that has to succeed.
func (l login) mustQuery(t *testing.T, n *process.Node, db, q string) string {
	t.Helper()
	return l.must(t, http.MethodPost, n.HTTP, "/query?"+url.Values{"db": {db}, "q": {q}, "epoch": {"ns"}}.Encode(), "")
}

// restart stops nodes and starts them again, with the environment of now.
func restart(t *testing.T, c *process.Cluster, nodes ...*process.Node) {
	t.Helper()
	for _, n := range nodes {
		n.Stop(syscall.SIGTERM)
		n.Start()
		c.Await(n.Name+" is back", func() bool {
			resp, err := http.Get("http://" + n.HTTP + "/ping")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
		if slices.Contains(c.Data, n) {
			n.AwaitUp() // a data node answers a ping before it knows the metadata
		}
	}
}

// askForUsers makes the administrator, and has all nodes ask for users from now on.
func askForUsers(t *testing.T, c *process.Cluster) {
	t.Helper()
	login{}.mustQuery(t, c.Data[0], "",
		fmt.Sprintf("CREATE USER %s WITH PASSWORD '%s' WITH ALL PRIVILEGES", root.name, root.password))
	for key, value := range map[string]string{
		"INFLUXDB_HTTP_AUTH_ENABLED":                "true",
		"INFLUXDB_META_AUTH_ENABLED":                "true", // of meta nodes
		"INFLUXDB_META_META_AUTH_ENABLED":           "true", // of data nodes, which ask meta nodes
		"INFLUXDB_META_INTERNAL_SHARED_SECRET":      "between nodes",
		"INFLUXDB_META_META_INTERNAL_SHARED_SECRET": "between nodes",
	} {
		t.Setenv(key, value)
	}
	restart(t, c, c.Meta...)
	restart(t, c, c.Data...)
}

// action is a request for which a user needs a permission.
type action struct {
	name               string
	meta               bool // it goes to the meta node
	method, path, body string
	needs              []string // one of them is enough; none: all of them are needed
	refusal            string   // what the answer says to others, with USER for the user; … is any text
	fails              bool     // who may do it gets an error: there is nothing to do it with
}

// statement is an action in InfluxQL. The permission for reading and the one for writing have the names of InfluxQL.
func statement(q string, needs ...string) action {
	names := strings.NewReplacer("ReadData", "READ", "WriteData", "WRITE").Replace(strings.Join(needs, " or "))
	return action{
		name: q, method: http.MethodPost, path: "/query?" + url.Values{"db": {"db"}, "q": {q}}.Encode(), needs: needs,
		refusal: "error authorizing query: USER not authorized to execute statement '" +
			strings.SplitAfter(q, " ")[0] + "…requires " + names,
	}
}

// without is a statement that fails for who may do it, because there is nothing of that name.
func (a action) without() action { a.fails = true; return a }

func onMeta(method, path, body string, needs ...string) action {
	refusal := "this needs an administrator, or a user with the permission …" + strings.Join(needs, " or ")
	if len(needs) == 0 {
		refusal = "this needs an administrator"
	}
	return action{
		name: "meta " + method + " " + path, meta: true, method: method, path: path, body: body, needs: needs,
		refusal: refusal,
	}
}

// refused reports whether an answer is the text with which an action is refused.
func (a action) refused(user, answer string) bool {
	for _, part := range strings.Split(strings.ReplaceAll(a.refusal, "USER", user), "…") {
		_, rest, ok := strings.Cut(answer, part)
		if !ok {
			return false
		}
		answer = rest
	}
	return true
}

// actions are all that permissions are for. Those that remove something come after those that make it.
var actions = []action{
	statement("SELECT v FROM m", "ReadData"),
	statement("SHOW MEASUREMENTS", "ReadData"), statement("SHOW SERIES", "ReadData"),
	statement("SHOW FIELD KEYS", "ReadData"), statement("SHOW TAG KEYS", "ReadData"),
	statement(`SHOW TAG VALUES WITH KEY = "host"`, "ReadData"), statement("SHOW SERIES CARDINALITY", "ReadData"),
	statement("SHOW RETENTION POLICIES ON db", "ReadData", "CreateDatabase"),
	statement("CREATE DATABASE made", "CreateDatabase"),
	statement("CREATE RETENTION POLICY p ON db DURATION 1d REPLICATION 1", "CreateDatabase"),
	statement("ALTER RETENTION POLICY p ON db DURATION 2d", "CreateDatabase"),
	statement("DROP RETENTION POLICY p ON db", "DropDatabase"), statement("DROP DATABASE made", "DropDatabase"),
	statement("CREATE CONTINUOUS QUERY c ON db BEGIN SELECT mean(v) INTO n FROM m GROUP BY time(1h) END",
		"ManageContinuousQuery"),
	statement("SHOW CONTINUOUS QUERIES", "ManageContinuousQuery"),
	statement("DROP CONTINUOUS QUERY c ON db", "ManageContinuousQuery"),
	statement("CREATE SUBSCRIPTION s ON db.autogen DESTINATIONS ALL 'udp://127.0.0.1:9'", "ManageSubscription"),
	statement("SHOW SUBSCRIPTIONS", "ManageSubscription"),
	statement("DROP SUBSCRIPTION s ON db.autogen", "ManageSubscription"),
	statement("SHOW QUERIES", "ManageQuery"), statement("KILL QUERY 999999", "ManageQuery").without(),
	statement("CREATE USER made WITH PASSWORD 'p'", "CreateUserAndRole"),
	statement("SET PASSWORD FOR made = 'q'", "CreateUserAndRole"), statement("SHOW USERS", "CreateUserAndRole"),
	statement("GRANT READ ON db TO made", "CreateUserAndRole"), statement("SHOW GRANTS FOR made", "CreateUserAndRole"),
	statement("REVOKE READ ON db FROM made", "CreateUserAndRole"), statement("GRANT ALL TO made", "CreateUserAndRole"),
	statement("REVOKE ALL FROM made", "CreateUserAndRole"), statement("DROP USER made", "CreateUserAndRole"),
	statement("DELETE FROM m WHERE time < 5", "DropData"),
	statement("DROP SERIES FROM dropped WHERE host = 'a'", "DropData"),
	statement("DROP MEASUREMENT dropped", "DropData"),
	statement("SHOW SHARDS", "ManageShard"), statement("SHOW SHARD GROUPS", "ManageShard"),
	statement("DROP SHARD 999999", "ManageShard").without(),
	statement("SHOW STATS", "Monitor"), statement("SHOW DIAGNOSTICS", "Monitor"),
	{
		name: "/write", method: http.MethodPost, path: "/write?db=db", body: "m,host=a v=1 30",
		needs: []string{"WriteData"}, refusal: `\"USER\" user is not authorized to write to database \"db\"`,
	},
	{
		name: "/api/v2/write", method: http.MethodPost, path: "/api/v2/write?bucket=db", body: "m,host=a v=1 30",
		needs: []string{"WriteData"}, refusal: `\"USER\" user is not authorized to write to database \"db\"`,
	},
	{
		name: "/api/v2/delete", method: http.MethodPost, path: "/api/v2/delete?bucket=db/autogen",
		body:  `{"start":"1970-01-01T00:00:00Z","stop":"1970-01-01T00:00:01Z","predicate":"_measurement=\"none\""}`,
		needs: []string{"DropData"}, refusal: `delete - \"USER\" is not authorized to delete from \"db\"`,
	},
	{
		name: "/api/v1/prom/read", method: http.MethodPost, path: "/api/v1/prom/read?db=db", body: "\x00", fails: true,
		needs: []string{"ReadData"}, refusal: `user \"USER\" is not authorized to read from database \"db\"`,
	},
	onMeta("GET", "/show-cluster", "", "ViewAdmin", "ViewChronograf", "AddRemoveNode", "Monitor"),
	onMeta("GET", "/show-shards", "", "ManageShard", "CopyShard", "Rebalance"),
	onMeta("GET", "/copy-shard-status", "", "ManageShard", "CopyShard", "Rebalance"),
	onMeta("GET", "/user", "", "CreateUserAndRole"), onMeta("GET", "/role", "", "CreateUserAndRole"),
	onMeta("POST", "/role", `{"action":"create","role":{"name":"made"}}`, "CreateUserAndRole"),
	onMeta("POST", "/role", `{"action":"delete","role":{"name":"made"}}`, "CreateUserAndRole"),
	onMeta("POST", "/add-data?addr=127.0.0.1:1", "", "AddRemoveNode").without(),
	onMeta("POST", "/remove-data?addr=127.0.0.1:1", "", "AddRemoveNode").without(),
	onMeta("POST", "/truncate-shards?delay=1h", "", "ManageShard", "Rebalance"),
	onMeta("GET", "/influxdb/v2/acl/restrictions", ""), onMeta("GET", "/influxdb/v2/acl/grants", ""),
	onMeta("GET", "/backup/meta", ""), onMeta("GET", "/ldap/v1/config", ""),
}

// Each of the permissions gives exactly what it names, whether a user has it or one of its roles.
func TestEachPermission(t *testing.T) {
	c := process.Start(t, process.Options{Meta: 1, Data: 2})
	meta := c.Meta[0].HTTP
	login{}.mustQuery(t, c.Data[0], "", "CREATE DATABASE db")
	login{}.mustQuery(t, c.Data[0], "", "CREATE DATABASE other")
	askForUsers(t, c)
	root.must(t, "POST", c.Data[0].HTTP, "/write?db=db",
		"m,host=a v=1 1\nm,host=a v=2 20\ndropped,host=a v=1 1\ndropped,host=b v=1 1")
	root.must(t, "POST", c.Data[0].HTTP, "/write?db=other", "m v=1 1")
	users := holders(t, meta)
	for _, n := range c.Data { // one that was late has all that was changed before its last user
		c.Await(n.Name+" knows all users", func() bool {
			code, _ := users["KapacitorConfigAPI"].query(t, n, "", "SHOW DATABASES")
			return code == http.StatusOK
		})
	}
	for i, a := range actions {
		addr := c.Data[i%2].HTTP
		if a.meta {
			addr = meta
		}
		for permission, u := range users {
			code, answer := u.send(t, a.method, addr, a.path, a.body)
			switch {
			case !slices.Contains(a.needs, permission):
				if code != http.StatusForbidden || !a.refused(u.name, answer) {
					t.Errorf("%s by a user with %s: %d %s, want 403 and %q", a.name, permission, code, answer,
						a.refusal)
				}
			case code == http.StatusForbidden, !a.fails && (code >= 300 || strings.Contains(answer, `"error"`)):
				t.Errorf("%s by a user with %s: %d %s", a.name, permission, code, answer)
			}
		}
	}
	for permission, want := range map[string]string{"Monitor": "", "ReadData": "this needs an administrator"} {
		u := users[permission]
		_, err := c.TryCtl("-auth-type", "basic", "-user", u.name, "-pwd", u.password, "show")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("influxd-ctl show by a user with %s: %v, want %q", permission, err, want)
		}
	}
	t.Run("for one database", func(t *testing.T) { forOneDatabase(t, c) })
}

// holders makes a user for each permission: every second one has it through a role.
func holders(t *testing.T, meta string) map[string]login {
	t.Helper()
	out := make(map[string]login)
	for i, permission := range []string{
		"ViewAdmin", "ViewChronograf", "CreateDatabase", "CreateUserAndRole", "AddRemoveNode", "DropDatabase",
		"DropData", "ReadData", "WriteData", "Rebalance", "ManageShard", "ManageContinuousQuery", "ManageQuery",
		"ManageSubscription", "Monitor", "CopyShard", "KapacitorAPI", "KapacitorConfigAPI",
	} {
		u := login{"may-" + permission, "pw"}
		out[permission] = u
		user := map[string]any{"name": u.name, "password": u.password}
		permissions := map[string][]string{"": {permission}}
		if i%2 == 0 {
			user["permissions"] = permissions
		}
		change(t, meta, "user", "create", user)
		if i%2 == 1 {
			change(t, meta, "role", "create", map[string]any{
				"name": "role-" + permission, "users": []string{u.name}, "permissions": permissions,
			})
		}
	}
	return out
}

// change is a request for users and roles of a meta node.
func change(t *testing.T, meta, kind, action string, of map[string]any) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"action": action, kind: of})
	if err != nil {
		t.Fatal(err)
	}
	root.must(t, http.MethodPost, meta, "/"+kind, string(b))
}

// A permission for one database is worth nothing in another one.
func forOneDatabase(t *testing.T, c *process.Cluster) {
	for permission, q := range map[string]string{
		"ReadData": "SELECT v FROM m", "DropData": "DELETE FROM none", "ManageQuery": "SHOW QUERIES",
		"ManageContinuousQuery": "SHOW CONTINUOUS QUERIES", "ManageSubscription": "SHOW SUBSCRIPTIONS",
	} {
		u := login{"one-" + permission, "pw"}
		change(t, c.Meta[0].HTTP, "user", "create", map[string]any{
			"name": u.name, "password": u.password, "permissions": map[string][]string{"db": {permission}},
		})
		if code, answer := u.query(t, c.Data[0], "db", q); code != 200 || strings.Contains(answer, `"error"`) {
			t.Errorf("%s in its database: %d %s", q, code, answer)
		}
		if code, answer := u.query(t, c.Data[1], "other", q); code != 403 || !strings.Contains(answer, "on other") {
			t.Errorf("%s in another database: %d %s", q, code, answer)
		}
	}
	writer := login{"one-WriteData", "pw"}
	change(t, c.Meta[0].HTTP, "user", "create", map[string]any{
		"name": writer.name, "password": writer.password, "permissions": map[string][]string{"db": {"WriteData"}},
	})
	for db, want := range map[string]int{"db": 204, "other": 403} {
		if code, answer := writer.send(t, "POST", c.Data[1].HTTP, "/write?db="+db, "m v=1 40"); code != want {
			t.Errorf("a write to %s: %d %s", db, code, answer)
		}
	}
	for _, q := range []string{"SHOW USERS", "SHOW STATS", "CREATE DATABASE made", "DROP SHARD 1"} {
		if code, answer := writer.query(t, c.Data[0], "db", q); code != 403 {
			t.Errorf("%s by one who may write to a database: %d %s", q, code, answer)
		}
	}
}
