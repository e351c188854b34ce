//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"concord/internal/devcluster"
	"concord/internal/meta/wire"
	"concord/test/process"
)

// secret is what all nodes share.
const secret = "sHaR3dS3cRe7"

// dropIn is a cluster that an operator of InfluxDB Enterprise sets up with the files and the commands that they know.
// It has a method for each step.
type dropIn struct {
	*process.Cluster
	begin time.Time // of the points' times
	tool  tool      // of InfluxDB OSS
	slapd *slapd    // nil where there is none
	rows  string    // what the database ops holds
}

// TestDropIn is the script of an operator who comes from InfluxDB Enterprise: forty steps on three machines, each with
// a meta node and a data node, and with a fourth data node later on. Each step works on what those before it left.
func TestDropIn(t *testing.T) {
	t.Parallel()
	d := &dropIn{begin: time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -3), tool: engineTool(t)}
	if hasSlapd() {
		d.slapd = newSlapd(t)
	}
	d.Cluster = process.Start(t, process.Options{
		Configure: officialFiles(t.TempDir()), CtlFlags: []string{"-auth-type", "jwt", "-secret", secret},
	})
	for range 3 {
		d.AddMeta()
		d.AddNode()
	}
	steps := slices.Concat(joinSteps, userSteps, dataSteps, ldapSteps, backupSteps, changeSteps)
	if len(steps) != 40 {
		t.Errorf("the story has %d steps", len(steps))
	}
	for i, step := range steps {
		if !t.Run(fmt.Sprintf("%02d %s", i+1, step.name), func(t *testing.T) { step.run(d, t) }) {
			t.Fatal("the steps after this one need it")
		}
	}
}

// dropInStep is one step of the script.
type dropInStep struct {
	name string
	run  func(*dropIn, *testing.T)
}

// officialFiles adds to the files of all nodes what official files have, with settings that have no function here.
func officialFiles(logs string) func(node string, settings map[string]any) {
	return func(node string, settings map[string]any) {
		section := func(name string) map[string]any {
			if settings[name] == nil {
				settings[name] = map[string]any{}
			}
			return settings[name].(map[string]any)
		}
		section("enterprise")["license-key"], section("enterprise")["license-path"] = "", "/etc/influxdb/license.json"
		meta := section("meta")
		meta["logging-enabled"] = true
		settings["reporting-disabled"] = true
		section("tls")["min-version"] = "tls1.2"
		if strings.HasPrefix(node, "meta") {
			settings["bind-address"] = ""
			meta["auth-enabled"], meta["internal-shared-secret"], meta["ldap-allowed"] = true, secret, true
			meta["lease-duration"], meta["cluster-tracing"], meta["pprof-enabled"] = "1m0s", true, true
			meta["consensus-timeout"], meta["gossip-frequency"] = "30s", "5s"
			return
		}
		settings["gossip-frequency"] = "3s"
		meta["meta-auth-enabled"], meta["meta-internal-shared-secret"] = true, secret
		section("data")["engine"], section("data")["cache-max-memory-size"] = "tsm1", 1073741824
		section("data")["query-log-path"] = filepath.Join(logs, node+".queries")
		section("coordinator")["pool-max-idle-streams"], section("coordinator")["write-timeout"] = 100, "10s"
		section("coordinator")["oss-backup"] = "local" // with authentication, it is off unless it is set
		section("http")["auth-enabled"], section("http")["build-type"] = true, "ENT"
		section("http")["flux-enabled"], section("flux-controller")["query-concurrency"] = false, 0
		section("anti-entropy")["max-fetch"], section("anti-entropy")["enabled"] = 10, true
		settings["graphite"] = []map[string]any{{
			"enabled": true, "bind-address": "127.0.0.1:0", "consistency-level": "all", "batch-timeout": "1s",
		}}
		settings["udp"] = []map[string]any{{
			"enabled": true, "bind-address": "127.0.0.1:0", "database": "udp", "batch-timeout": "100ms",
		}}
	}
}

// as is a client that logs in as a user, whose password follows from the name.
func (d *dropIn) as(user string, n *process.Node) devcluster.Client {
	return devcluster.Client{Base: "http://" + user + ":" + user + "-pw@" + n.HTTP}
}

// asks is what a user gets for a statement: the rows, or the error.
func (d *dropIn) asks(user string, n *process.Node, q string) string {
	return answerOf(d.as(user, n), q)
}

func answerOf(c devcluster.Client, q string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rows, err := c.Query(ctx, "ops", q)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(rows)
}

// comesTo waits until a user gets an answer. A change is confirmed when all nodes have it that answer within two
// seconds: on a busy machine, one may be later.
func (d *dropIn) comesTo(t *testing.T, want, user string, n *process.Node, q string) {
	t.Helper()
	got := ""
	process.Poll(20*time.Second, func() bool { got = d.asks(user, n, q); return got == want })
	is(t, got, want)
}

// writes is the error that a user gets for lines, empty for none.
func (d *dropIn) writes(user string, n *process.Node, level, lines string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := d.as(user, n).Write(ctx, "ops", level, []byte(lines)); err != nil {
		return err.Error()
	}
	return ""
}

// point is a line of a measurement, i hours after the begin.
func (d *dropIn) point(measurement string, i int) string {
	return fmt.Sprintf("%s,host=h%d v=%di %d\n", measurement, i%3, i,
		d.begin.Add(time.Duration(i)*time.Hour).UnixNano())
}

// meta asks the API of a meta node as the administrator, who is sent on to the leader.
func (d *dropIn) meta(t *testing.T, method, path, body string) string {
	t.Helper()
	var answer []byte
	var status int
	process.Poll(time.Minute, func() bool { // on a busy machine there may be no leader for a moment
		req, err := http.NewRequest(method, "http://"+d.Meta[0].HTTP+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("admin", "admin-pw")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if answer, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		status = resp.StatusCode
		return status != http.StatusServiceUnavailable
	})
	if status != http.StatusOK {
		t.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	return string(answer)
}

// says compares what came of a step with a text that it has to have.
func says(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%q is missing in:\n%s", w, got)
		}
	}
}

// is compares what came of a step.
func is(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// shard is one of the database ops.
func (d *dropIn) shard(t *testing.T) wire.Shard {
	t.Helper()
	return shardsOf(t, d.Cluster, "ops")[0]
}

// owner tells whether a data node owns a shard.
func owner(sh wire.Shard, n *process.Node) bool {
	return slices.ContainsFunc(sh.Owners, func(o wire.Owner) bool { return o.TCPAddr == n.TCP })
}

// Steps 1 to 7: the cluster.
var joinSteps = []dropInStep{
	{"the official files load, and the log says what has no function", func(d *dropIn, t *testing.T) {
		for _, n := range []*process.Node{d.Meta[0], d.Data[0]} {
			says(t, n.Log(), "license", "gossip-frequency", "logging-enabled")
		}
		says(t, d.Data[0].Log(), "pool-max-idle-streams", "flux-controller")
	}},
	{"join makes a cluster of the first machine", func(d *dropIn, t *testing.T) {
		out, err := d.CtlAt(d.Meta[0], "join", "-data", d.Data[0].TCP)
		if err != nil {
			t.Fatal(err)
		}
		is(t, out, fmt.Sprintf("Joining meta node at %[1]s\nSearching for meta node on %[1]s...\nSearching for data node on "+
			"%[2]s...\n\nSuccessfully created cluster\n\n  * Added meta node 1 at %[1]s\n  * Added data node 2 at %[2]s\n\n  "+
			"To join additional nodes to this cluster, run the following command:\n\n  influxd-ctl join %[1]s\n",
			d.Meta[0].HTTP, d.Data[0].TCP))
	}},
	{"join adds the other machines", func(d *dropIn, t *testing.T) {
		for i := range 2 {
			out, err := d.CtlAt(d.Meta[i+1], "join", "-data", d.Data[i+1].TCP, d.Meta[0].HTTP)
			if err != nil {
				t.Fatal(err)
			}
			says(t, out, "Successfully joined cluster\n", "Added meta node ", "Added data node ")
		}
	}},
	{"show prints the documented tables", func(d *dropIn, t *testing.T) {
		out := d.Ctl("show")
		says(t, out, "Data Nodes\n==========\nID  TCP Address", "Meta Nodes\n==========\nID  Raft Address",
			"Raft Status\n==========\nLeader", `Peers   ["`)
		for _, n := range append(d.Data, d.Meta...) {
			says(t, out, n.TCP, n.HTTP)
		}
	}},
	{"labels of nodes are set, shown and deleted", func(d *dropIn, t *testing.T) {
		d.Ctl("node-labels", "set", "-nodeid", "2", "-labels", `{"az":"west","rack":"1"}`)
		d.Await("the labels are shown", func() bool { return strings.Contains(d.Ctl("show"), `{"az":"west","rack":"1"}`) })
		is(t, d.Ctl("node-labels", "delete", "-nodeid", "2", "-labels", `["rack"]`),
			"Labels of node 2: {\"az\":\"west\"}\n")
	}},
	{"without credentials, or with wrong ones, influxd-ctl says so", func(d *dropIn, t *testing.T) {
		for flags, want := range map[string]string{
			"-auth-type none":                           "exit status 1: Error: unable to parse authentication credentials.",
			"-auth-type jwt -secret wrong":              "exit status 1: Error: authorization failed.",
			"-auth-type basic -user nobody -pwd nobody": "exit status 1: Error: authorization failed.",
		} {
			if _, err := d.TryCtl(append(strings.Fields(flags), "show")...); err == nil ||
				!strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", flags, err)
			}
		}
	}},
	{"a token of influxd-ctl opens the API of the meta nodes", func(d *dropIn, t *testing.T) {
		req, err := http.NewRequest(http.MethodGet, "http://"+d.Meta[1].HTTP+"/show-cluster", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(d.Ctl("token", "-exp", "5m")))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var members wire.Members
		if err := json.NewDecoder(resp.Body).Decode(&members); err != nil || len(members.Data) != 3 ||
			len(members.Meta) != 3 {
			t.Errorf("%s: %v %+v", resp.Status, err, members)
		}
	}},
}

// Steps 8 to 17: users, roles, permissions and restrictions.
var userSteps = []dropInStep{
	{"the first user is an administrator, and strangers are refused", func(d *dropIn, t *testing.T) {
		says(t, answerOf(d.Data[0].Client(), "SHOW DATABASES"), "create admin user first")
		is(t, answerOf(d.Data[0].Client(), "CREATE USER admin WITH PASSWORD 'admin-pw' WITH ALL PRIVILEGES"), "[]")
		for _, n := range d.Data {
			is(t, d.asks("admin", n, "SHOW DATABASES"), "[]")
			says(t, answerOf(n.Client(), "SHOW DATABASES"), " 401 ")
			says(t, d.asks("nobody", n, "SHOW DATABASES"), " 401 ")
		}
	}},
	{"a database is made on all nodes", func(d *dropIn, t *testing.T) {
		is(t, d.asks("admin", d.Data[0],
			`CREATE DATABASE ops WITH DURATION INF REPLICATION 2 SHARD DURATION 1d NAME "one"`), "[]")
		for _, n := range d.Data {
			is(t, d.asks("admin", n, "SHOW DATABASES"), "[[ops]]")
		}
	}},
	{"writes at each level, through each node, are read at all others", func(d *dropIn, t *testing.T) {
		i := 0
		for _, n := range d.Data {
			for _, level := range []string{"any", "one", "quorum", "all"} {
				is(t, d.writes("admin", n, level, d.point("cpu", i)+d.point("hidden", i)), "")
				i++
			}
		}
		d.rows = d.asks("admin", d.Data[0], "SELECT count(v), sum(v) FROM cpu, hidden")
		is(t, d.rows, "[[0 12 66] [0 12 66]]")
		for _, n := range d.Data {
			is(t, d.asks("admin", n, "SELECT count(v), sum(v) FROM cpu, hidden"), d.rows)
		}
	}},
	{"users are made over /user, as Chronograf makes them", func(d *dropIn, t *testing.T) {
		for _, name := range []string{"rita", "will", "hans"} {
			d.meta(t, http.MethodPost, "/user",
				fmt.Sprintf(`{"action":"create","user":{"name":%q,"password":"%s-pw"}}`, name, name))
		}
		d.Await("all users are shown", func() bool { return strings.Count(d.meta(t, "GET", "/user", ""), `"name"`) == 4 })
		for _, n := range d.Data {
			is(t, d.asks("rita", n, "SHOW DATABASES"), "[]")
		}
	}},
	{"a permission gives what it names", func(d *dropIn, t *testing.T) {
		d.meta(t, http.MethodPost, "/user",
			`{"action":"add-permissions","user":{"name":"rita","permissions":{"ops":["ReadData"]}}}`)
		for _, n := range d.Data {
			d.comesTo(t, d.rows, "rita", n, "SELECT count(v), sum(v) FROM cpu, hidden")
			says(t, d.writes("rita", n, "one", d.point("cpu", 0)), " 403 ")
			says(t, d.asks("rita", n, "SHOW USERS"), "rita", "authoriz")
		}
	}},
	{"a role carries permissions", func(d *dropIn, t *testing.T) {
		d.meta(t, http.MethodPost, "/role", `{"action":"create","role":{"name":"writers"}}`)
		d.meta(t, http.MethodPost, "/role",
			`{"action":"add-permissions","role":{"name":"writers","permissions":{"ops":["WriteData"]}}}`)
		d.meta(t, http.MethodPost, "/role", `{"action":"add-users","role":{"name":"writers","users":["will"]}}`)
		for _, n := range d.Data {
			is(t, d.writes("will", n, "all", d.point("cpu", 0)), "")
			says(t, d.asks("will", n, "SELECT * FROM cpu"), "not authorized")
		}
	}},
	{"CreateUserAndRole makes no administrator", func(d *dropIn, t *testing.T) {
		d.meta(t, http.MethodPost, "/user",
			`{"action":"add-permissions","user":{"name":"hans","permissions":{"":["CreateUserAndRole"]}}}`)
		is(t, d.asks("hans", d.Data[1], "CREATE USER temp WITH PASSWORD 'temp-pw'"), "[]")
		is(t, d.asks("hans", d.Data[2], "DROP USER temp"), "[]")
		says(t, d.asks("hans", d.Data[1], "DROP DATABASE ops"), "authoriz")
		is(t, d.asks("admin", d.Data[1], "SHOW DATABASES"), "[[ops]]")
	}},
	{"a restriction hides series", func(d *dropIn, t *testing.T) {
		d.meta(t, http.MethodPost, "/influxdb/v2/acl/restrictions", `{"database":{"match":"exact","value":"ops"},
			"measurement":{"match":"exact","value":"hidden"},"permissions":["read","write"]}`)
		for _, n := range d.Data {
			d.comesTo(t, "[[cpu]]", "rita", n, "SHOW MEASUREMENTS")
			is(t, d.asks("rita", n, "SELECT count(v) FROM hidden"), "[]")
			says(t, d.writes("will", n, "one", d.point("hidden", 0)), " 403 ")
			is(t, d.asks("admin", n, "SHOW MEASUREMENTS"), "[[cpu] [hidden]]")
		}
	}},
	{"a grant gives them back to one user", func(d *dropIn, t *testing.T) {
		d.meta(t, http.MethodPost, "/influxdb/v2/acl/grants", `{"database":{"match":"exact","value":"ops"},
			"measurement":{"match":"exact","value":"hidden"},"permissions":["read"],"users":[{"name":"rita"}]}`)
		for _, n := range d.Data {
			d.comesTo(t, "[[cpu] [hidden]]", "rita", n, "SHOW MEASUREMENTS")
			says(t, d.writes("will", n, "one", d.point("hidden", 0)), " 403 ")
		}
	}},
	{"restrictions and grants are removed", func(d *dropIn, t *testing.T) {
		for _, kind := range []string{"grants", "restrictions"} {
			path := "/influxdb/v2/acl/" + kind
			ids := regexp.MustCompile(`"id":\s*"?([^",}]+)`).FindStringSubmatch(d.meta(t, http.MethodGet, path, ""))
			if ids == nil {
				t.Fatalf("there are no %s", kind)
			}
			d.meta(t, http.MethodDelete, path+"/"+ids[1], "")
		}
		is(t, d.writes("will", d.Data[2], "all", d.point("hidden", 0)), "")
	}},
}

// Steps 18 to 22: listeners and queries.
var dataSteps = []dropInStep{
	{"a listener of graphite writes through the cluster", func(d *dropIn, t *testing.T) {
		sendTo(t, "tcp", listenersOf(d.Data[0])["graphite"][0], "load.a 1.5 1700000000\nload.a 2.5 1700000001\n")
		d.Await("another node has what graphite sent", func() bool {
			return d.asks("admin", d.Data[1], `SELECT sum(value) FROM graphite.."load.a"`) == "[[0 4]]"
		})
	}},
	{"a listener of UDP writes through the cluster", func(d *dropIn, t *testing.T) {
		sendTo(t, "udp", listenersOf(d.Data[1])["udp"][0], "m v=1 1700000000000000000\nm v=2 1700000001000000000")
		d.Await("another node has what came over UDP", func() bool {
			return d.asks("admin", d.Data[2], `SELECT sum(v) FROM udp..m`) == "[[0 3]]"
		})
	}},
	{"the statistics have types, and the header says what Chronograf looks for", func(d *dropIn, t *testing.T) {
		text := get(t, "http://"+d.Data[1].HTTP+"/metrics")
		says(t, text, "# TYPE influxdb_udp_pointsRx counter", "# TYPE influxdb_httpd_reqActive gauge")
		if untyped := regexp.MustCompile(`(?m)^# TYPE influxdb_.* untyped$`).FindAllString(text, -1); len(untyped) > 0 {
			t.Errorf("untyped: %v", untyped)
		}
		resp, err := http.Get("http://" + d.Data[1].HTTP + "/ping")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		is(t, resp.Header.Get("X-Influxdb-Build"), "ENT")
	}},
	{"SHOW QUERIES shows the queries of other nodes, and KILL QUERY ends them", func(d *dropIn, t *testing.T) {
		const long = "SELECT count(x) FROM (SELECT max(v) AS x FROM cpu WHERE time >= 0 AND time < now() GROUP BY " +
			"time(1s) fill(0))"
		ended := make(chan string, 1)
		go func() { ended <- d.asks("rita", d.Data[1], long) }()
		kill := ""
		d.Await("the query is shown at another node", func() bool {
			row := regexp.MustCompile(`\[(\d+) \d+ (\S+) SELECT count\(x\).* rita\]`).FindStringSubmatch(
				d.asks("admin", d.Data[0], "SHOW QUERIES"))
			if row != nil {
				kill = fmt.Sprintf("KILL QUERY %s ON %q", row[1], row[2])
			}
			return row != nil
		})
		says(t, kill, d.Data[1].TCP)
		got := ""
		process.Poll(time.Minute, func() bool { // a busy node may answer too late
			got = d.asks("admin", d.Data[2], kill)
			return !strings.Contains(got, "does not answer")
		})
		if !strings.Contains(got, "has ended, or never was") { // the statement may have arrived the first time
			is(t, got, "[]")
		}
		select {
		case text := <-ended:
			says(t, text, "query interrupted")
		case <-time.After(20 * time.Second):
			t.Error("the query runs on")
		}
	}},
	{"SHOW SHARDS, /show-shards and /shard-status agree", func(d *dropIn, t *testing.T) {
		sh := d.shard(t)
		says(t, d.asks("admin", d.Data[0], "SHOW SHARDS"), fmt.Sprintf("[%d ops one ", sh.ID))
		says(t, d.meta(t, http.MethodGet, "/show-shards?verbose=true", ""),
			fmt.Sprintf(`{"id":%d,"database":"ops"`, sh.ID),
			`"state":"hot"`, `"err":""`)
		for _, n := range d.Data {
			text := get(t, d.as("admin", n).Base+"/shard-status")
			if owner(sh, n) != strings.Contains(text, fmt.Sprintf(`{"id":%d,`, sh.ID)) {
				t.Errorf("%s tells of shard %d: %s", n.Name, sh.ID, text)
			}
		}
	}},
}

// login checks what a user of the LDAP server gets at all data nodes.
func (d *dropIn) login(t *testing.T, user, password, q, want string) {
	t.Helper()
	for _, n := range d.Data {
		says(t, answerOf(devcluster.Client{Base: "http://" + user + ":" + password + "@" + n.HTTP}, q), want)
	}
}

// withSlapd is a step that needs an LDAP server.
func withSlapd(run func(*dropIn, *testing.T)) func(*dropIn, *testing.T) {
	return func(d *dropIn, t *testing.T) {
		if d.slapd == nil {
			t.Skip(noSlapd)
		}
		run(d, t)
	}
}

// Steps 23 to 26: LDAP.
var ldapSteps = []dropInStep{
	{"an LDAP configuration is tried and set", withSlapd(func(d *dropIn, t *testing.T) {
		d.meta(t, http.MethodPost, "/role", `{"action":"create","role":{"name":"readers"}}`)
		d.meta(t, http.MethodPost, "/role",
			`{"action":"add-permissions","role":{"name":"readers","permissions":{"ops":["ReadData"]}}}`)
		file := d.slapd.config(t, true)
		says(t, d.Ctl("ldap", "verify", "-ldap-config", file, "paul", "s3cr3t"), "administrator: true")
		d.Ctl("ldap", "set-config", file)
		says(t, d.Ctl("ldap", "get-config"), "cn=root,dc=x")
	})},
	{"groups of the directory map to administrators and to roles", withSlapd(func(d *dropIn, t *testing.T) {
		d.login(t, "paul", "s3cr3t", "SHOW DATABASES", "[ops]")
		d.login(t, "eve", "evil", "SELECT count(v) FROM cpu", "[[0 12]]")
		d.login(t, "eve", "evil", "SHOW USERS", "authoriz")
		d.login(t, "eve", "wrong", "SHOW DATABASES", " 401 ")
	})},
	{"while the LDAP server is away, who is cached stays", withSlapd(func(d *dropIn, t *testing.T) {
		d.slapd.stop()
		d.login(t, "paul", "s3cr3t", "SHOW DATABASES", "[ops]")
		d.login(t, "max", "maximal", "SHOW DATABASES", " 401 ")
		d.Ctl("ldap", "purge-cache")
		d.login(t, "paul", "s3cr3t", "SHOW DATABASES", " 401 ")
	})},
	{"without LDAP, the users of the cluster log in again", withSlapd(func(d *dropIn, t *testing.T) {
		d.Ctl("ldap", "set-config", d.slapd.config(t, false))
		for _, n := range d.Data {
			says(t, d.asks("admin", n, "SHOW DATABASES"), "[ops]")
		}
	})},
}

// Steps 27 to 31: backups.
var backupSteps = []dropInStep{
	{"influxd backup -portable of InfluxDB OSS backs the cluster up", func(d *dropIn, t *testing.T) {
		says(t, d.tool.mustRun(t, "backup", "-portable", "-host", d.Data[2].TCP, "-db", "ops", d.backup("oss")),
			"backup complete")
	}},
	{"influxd restore -portable brings it back with another name", func(d *dropIn, t *testing.T) {
		d.tool.mustRun(t, "restore", "-portable", "-host", d.Data[0].TCP, "-db", "ops", "-newdb", "copy",
			d.backup("oss"))
		for _, n := range d.Data {
			d.Await(n.Name+" has the copy", func() bool {
				return d.asks("admin", n, "SELECT count(v), sum(v) FROM copy.one.cpu, copy.one.hidden") == d.rows
			})
		}
	}},
	{"influxd-ctl estimates and makes a backup", func(d *dropIn, t *testing.T) {
		says(t, d.Ctl("backup", "-estimate", "-db", "ops"), "Estimated ")
		says(t, d.Ctl("backup", "-strategy", "full", "-db", "ops", d.backup("full")), "Backing up meta data... Done.",
			"Backed up to ")
	}},
	{"an incremental backup has what changed alone", func(d *dropIn, t *testing.T) {
		d.Ctl("backup", "-db", "ops", d.backup("inc"))
		before, _ := filepath.Glob(filepath.Join(d.backup("inc"), "*.tar.gz"))
		is(t, d.writes("admin", d.Data[0], "all", d.point("cpu", 0)), "") // the same point again
		d.Ctl("backup", "-db", "ops", d.backup("inc"))
		after, _ := filepath.Glob(filepath.Join(d.backup("inc"), "*.tar.gz"))
		if len(before) == 0 || len(after) != len(before)+1 {
			t.Errorf("%d files of shards became %d", len(before), len(after))
		}
	}},
	{"a dropped database is restored", func(d *dropIn, t *testing.T) {
		is(t, d.asks("admin", d.Data[1], "DROP DATABASE ops"), "[]")
		says(t, d.asks("admin", d.Data[2], "SELECT count(v) FROM cpu"), "database not found")
		says(t, d.Ctl("restore", "-db", "ops", d.backup("inc")), "Using backup directory: ", "\nUsing meta backup: ",
			"Restoring meta data... Done.", "Restored from ")
		for _, n := range d.Data {
			got := ""
			process.Poll(time.Minute, func() bool { // a node may hear of the restored shards a moment later
				got = d.asks("admin", n, "SELECT count(v), sum(v) FROM cpu, hidden")
				return got == d.rows
			})
			is(t, got, d.rows)
		}
	}},
}

// backup is the folder of a backup.
func (d *dropIn) backup(name string) string { return filepath.Join(d.Dir, "backups", name) }

// Steps 32 to 40: changes of the cluster.
var changeSteps = []dropInStep{
	{"a passive node joins, and coordinates", func(d *dropIn, t *testing.T) {
		n := d.AddNode()
		out, err := d.CtlAt(d.Meta[0], "-bind", "127.0.0.1:1", "join", "-p", "-data", n.TCP, d.Meta[0].HTTP)
		if err != nil {
			t.Fatal(err)
		}
		says(t, out, "  * No meta node added.  Run with -v to see more information\n", "which is passive")
		n.AwaitUp()
		is(t, d.writes("admin", n, "all", d.point("cpu", 1)), "")
		is(t, d.asks("admin", n, "SELECT count(v), sum(v) FROM cpu, hidden"), d.rows)
		if out := d.Ctl("show-shards"); strings.Contains(out, n.TCP) {
			t.Errorf("it owns a shard:\n%s", out)
		}
	}},
	{"it becomes an active node", func(d *dropIn, t *testing.T) {
		says(t, d.Ctl("activate-data", d.Data[3].TCP), "is active")
		active := regexp.MustCompile(regexp.QuoteMeta(d.Data[3].TCP) + ` .* false\n`)
		d.Await("it is not passive any more", func() bool { return active.MatchString(d.Ctl("show")) })
	}},
	{"copy-shard makes it an owner", func(d *dropIn, t *testing.T) {
		sh, to := d.shard(t), d.Data[3].TCP
		from, id := sh.Owners[0].TCPAddr, strconv.FormatUint(sh.ID, 10)
		is(t, d.Ctl("copy-shard", from, to, id), fmt.Sprintf("Copied shard %s from %s to %s\n", id, from, to))
		says(t, d.Ctl("copy-shard-status"), "Source  Dest  Database  Policy  ShardID  TotalSize  CurrentSize  StartedAt")
		if !process.Poll(time.Minute, func() bool {
			sh = d.shard(t)
			return len(sh.Owners) == 3 && owner(sh, d.Data[3])
		}) {
			t.Errorf("the owners are %v", sh.Owners)
		}
	}},
	{"remove-shard takes the copy of another owner", func(d *dropIn, t *testing.T) {
		sh := d.shard(t)
		from, id := sh.Owners[0].TCPAddr, strconv.FormatUint(sh.ID, 10)
		d.Await("all owners are known to have the shard", func() bool {
			_, err := d.TryCtl("remove-shard", from, id)
			return err == nil
		})
		is(t, d.asks("admin", d.Data[0], "SELECT count(v), sum(v) FROM cpu, hidden"), d.rows)
	}},
	{"truncate-shards ends what is written to", func(d *dropIn, t *testing.T) {
		is(t, d.writes("admin", d.Data[0], "all", fmt.Sprintf("hot v=1i %d", time.Now().UnixNano())), "")
		is(t, d.Ctl("truncate-shards", "-delay", "1s"), "Truncated shards.\n")
		d.Await("the end of the shard has a star", func() bool {
			return regexp.MustCompile(`ops .*Z\*`).MatchString(d.Ctl("show-shards"))
		})
	}},
	{"a data node gets another address", func(d *dropIn, t *testing.T) {
		n := d.Data[2]
		old := n.TCP
		n.Stop(syscall.SIGTERM)
		d.Move(n)
		n.Start()
		d.Await("update-data knows the node at its new address", func() bool {
			out, err := d.TryCtl("update-data", old, n.TCP)
			return err == nil &&
				regexp.MustCompile(`^Updated data node \d+ to `+regexp.QuoteMeta(n.TCP)+"\n$").MatchString(out)
		})
		d.Await("it answers with all that it had", func() bool {
			return d.asks("admin", n, "SELECT count(v), sum(v) FROM cpu, hidden") == d.rows
		})
		if out := d.Ctl("show-shards"); strings.Contains(out, old) {
			t.Errorf("the old address owns shards:\n%s", out)
		}
	}},
	{"anti-entropy finds all copies equal, and none that is not in the metadata", func(d *dropIn, t *testing.T) {
		d.Ctl("entropy", "check")
		other := regexp.MustCompile(`(?m)^influxdb_agreement_(unknown|diff|missing|conflict|corrupt)\{.*\} [1-9]`)
		d.Await("all copies were compared and are equal", func() bool {
			return !slices.ContainsFunc(d.Data, func(n *process.Node) bool {
				return other.MatchString(get(t, "http://"+n.HTTP+"/metrics"))
			})
		})
		says(t, d.Ctl("entropy", "show"), "Status\n\nQueued Shards: []\n")
		if out := d.Ctl("show-shards", "-m"); strings.Contains(out, "not in the metadata") {
			t.Error(out)
		}
		sh := strconv.FormatUint(d.shard(t).ID, 10)
		is(t, d.Ctl("entropy", "repair", sh), "Repair Shard "+sh+" queued\n")
	}},
	{"a data node whose shards others have is removed", func(d *dropIn, t *testing.T) {
		n := d.Data[3]
		d.Await("nothing would be lost", func() bool { _, err := d.TryCtl("remove-data", n.TCP); return err == nil })
		d.Await("it is not shown any more", func() bool { return !strings.Contains(d.Ctl("show"), n.TCP) })
		for _, n := range d.Data[:3] {
			is(t, d.asks("admin", n, "SELECT count(v), sum(v) FROM cpu, hidden"), d.rows)
		}
	}},
	{"a meta node is removed, and the others go on", func(d *dropIn, t *testing.T) {
		gone := d.Meta[2]
		gone.Stop(syscall.SIGKILL)
		says(t, d.Ctl("remove-meta", "-force", "-tcpAddr", gone.TCP, gone.HTTP), "Removed meta node ")
		d.Await("it is not shown any more", func() bool { return !strings.Contains(d.Ctl("show"), gone.HTTP) })
		is(t, d.asks("admin", d.Data[0], "CREATE DATABASE last"), "[]")
		is(t, d.asks("admin", d.Data[1], "SELECT count(v), sum(v) FROM cpu, hidden"), d.rows)
	}},
}
