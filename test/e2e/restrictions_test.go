//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"concord/test/process"
)

const aclPath = "/influxdb/v2/acl/"

// site is a cluster with restrictions, and the passive node through which all is asked.
type site struct {
	*process.Cluster
	node *process.Node
	meta string
}

// acl makes a restriction or a grant, and returns its ID.
func (s *site) acl(t *testing.T, kind, rule string) string {
	t.Helper()
	var made struct{ ID string }
	answer := root.must(t, http.MethodPost, s.meta, aclPath+kind, rule)
	if err := json.Unmarshal([]byte(answer), &made); err != nil || made.ID == "" {
		t.Fatalf("POST %s: %s %v", kind, answer, err)
	}
	return made.ID
}

// sees compares what a statement shows a user, as the rows of all series: "name,tags|values|values".
func (s *site) sees(t *testing.T, u login, q, want string) {
	t.Helper()
	code, answer := u.query(t, s.node, "plant", q)
	if got := rowsText(t, answer); code != http.StatusOK || got != want {
		t.Errorf("%s sees with %s: %d\n%s\nwant\n%s", u.name, q, code, got, want)
	}
}

func rowsText(t *testing.T, answer string) string {
	t.Helper()
	var out struct {
		Results []struct {
			Error  string
			Series []struct {
				Name   string
				Tags   map[string]string
				Values [][]any
			}
		}
		Error string
	}
	if err := json.Unmarshal([]byte(answer), &out); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	lines := []string{}
	for _, r := range out.Results {
		for _, series := range r.Series {
			line := series.Name
			for _, k := range []string{"host", "site"} {
				if v, ok := series.Tags[k]; ok {
					line += "," + k + "=" + v
				}
			}
			for _, row := range series.Values {
				line += "|" + strings.Trim(fmt.Sprint(row), "[]")
			}
			lines = append(lines, line)
		}
		if r.Error != "" {
			lines = append(lines, "error: "+r.Error)
		}
	}
	if out.Error != "" {
		lines = append(lines, "error: "+out.Error)
	}
	return strings.Join(lines, "\n")
}

// writes sends points of a user, and compares the status.
func (s *site) writes(t *testing.T, u login, want int, lines ...string) {
	t.Helper()
	code, answer := u.send(t, http.MethodPost, s.node.HTTP, "/write?db=plant&consistency=all",
		strings.Join(lines, "\n"))
	if code != want || code == http.StatusForbidden && !strings.Contains(answer, "not authorized") {
		t.Errorf("%s writes %q: %d %s, want %d", u.name, lines, code, answer, want)
	}
}

// The people of the story. All but stranger may read, write and delete in the database.
var (
	engineer = login{"engineer", "pw"} // a grant of its own: one site of one measurement
	analyst  = login{"analyst", "pw"}  // a grant of its role: reads measurements with a prefix
	visitor  = login{"visitor", "pw"}  // no grant
	stranger = login{"stranger", "pw"} // not even the permission for the database
)

// Restrictions and grants hold for all that users ask of a data node that owns nothing: each owner checks what is read,
// and the node what is written. A change of them holds for the next request.
func TestRestrictionsThroughANodeThatOwnsNothing(t *testing.T) {
	c := process.Start(t, process.Options{Meta: 1, Data: 2})
	s := &site{Cluster: c, node: c.AddNode(), meta: c.Meta[0].HTTP}
	c.Ctl("add-data", "-p", s.node.TCP)
	login{}.mustQuery(t, s.node, "", "CREATE DATABASE plant WITH REPLICATION 1 SHARD DURATION 1d")
	askForUsers(t, c)
	for _, u := range []login{engineer, analyst, visitor, stranger} {
		user := map[string]any{"name": u.name, "password": u.password}
		if u != stranger {
			user["permissions"] = map[string][]string{"plant": {"ReadData", "WriteData", "DropData"}}
		}
		change(t, s.meta, "user", "create", user)
	}
	change(t, s.meta, "role", "create", map[string]any{"name": "analysts", "users": []string{analyst.name}})
	const day = 24 * 3600 * 1_000_000_000
	for i := range 3 { // three shards, of both owners
		s.writes(t, root, http.StatusNoContent,
			fmt.Sprintf("cpu,host=a,site=oslo v=%d %d", i+1, i*day),
			fmt.Sprintf("cpu,host=b,site=rome v=%d %d", 10*(i+1), i*day),
			fmt.Sprintf("memory,host=a,site=oslo used=%d %d", i+1, i*day),
			fmt.Sprintf("memory_total,host=b,site=rome used=9 %d", i*day),
		)
	}
	if out := root.must(t, "GET", s.meta, "/show-shards", ""); !strings.Contains(out, c.Data[0].TCP) ||
		!strings.Contains(out, c.Data[1].TCP) || strings.Contains(out, s.node.TCP) {
		t.Fatalf("the owners are not the first two nodes alone: %s", out)
	}

	s.sees(t, visitor, "SELECT sum(v) FROM cpu", "cpu|0 66") // there are no restrictions yet
	restriction := s.acl(t, "restrictions",
		`{"database":{"match":"exact","value":"plant"},"permissions":["read","write"]}`)
	s.acl(t, "grants", `{"database":{"match":"exact","value":"plant"},"measurement":{"match":"exact","value":"cpu"},
		"tags":[{"match":"exact","key":"site","value":"oslo"}],"permissions":["read","write"],
		"users":[{"name":"engineer"}]}`)
	s.acl(t, "grants", `{"database":{"match":"prefix","value":"pl"},"measurement":{"match":"prefix","value":"mem"},
		"permissions":["read"],"roles":[{"name":"analysts"}]}`)

	t.Run("each sees what its grants name", s.reads)
	t.Run("each writes what its grants name", s.changes)
	t.Run("each deletes what it may write", s.deletes)
	t.Run("changes of grants, roles and restrictions hold at once", func(t *testing.T) { s.granted(t, restriction) })
}

func (s *site) reads(t *testing.T) {
	for u, of := range map[login]struct{ measurements, series, hosts, cardinality, sum, everything string }{
		root: {
			"measurements|cpu|memory|memory_total",
			"|cpu,host=a,site=oslo|cpu,host=b,site=rome|memory,host=a,site=oslo|memory_total,host=b,site=rome",
			"cpu|host a|host b\nmemory|host a\nmemory_total|host b", "cpu|2\nmemory|1\nmemory_total|1",
			"cpu,site=oslo|0 6\ncpu,site=rome|0 60",
			"cpu|0 <nil> 6\nmemory|0 3 <nil>\nmemory_total|0 3 <nil>",
		},
		engineer: {
			"measurements|cpu", "|cpu,host=a,site=oslo", "cpu|host a", "cpu|1", "cpu,site=oslo|0 6", "cpu|0 3",
		},
		analyst: {
			"measurements|memory|memory_total", "|memory,host=a,site=oslo|memory_total,host=b,site=rome",
			"memory|host a\nmemory_total|host b", "memory|1\nmemory_total|1", "", "memory|0 3\nmemory_total|0 3",
		},
		visitor: {},
	} {
		s.sees(t, u, "SHOW MEASUREMENTS", of.measurements)
		s.sees(t, u, "SHOW SERIES", of.series)
		s.sees(t, u, `SHOW TAG VALUES WITH KEY = "host"`, of.hosts)
		s.sees(t, u, "SHOW SERIES EXACT CARDINALITY", of.cardinality)
		s.sees(t, u, "SELECT sum(v) FROM cpu GROUP BY site", of.sum)
		s.sees(t, u, "SELECT count(/v|used/) FROM /.*/", of.everything)
	}
	code, answer := stranger.query(t, s.node, "plant", "SELECT * FROM cpu")
	if code != http.StatusForbidden || !strings.Contains(answer, "requires READ on plant") {
		t.Errorf("one without the permission: %d %s", code, answer)
	}
}

func (s *site) changes(t *testing.T) {
	s.writes(t, engineer, http.StatusNoContent, "cpu,host=c,site=oslo v=100 5")
	s.writes(t, engineer, http.StatusForbidden, "cpu,host=d,site=oslo v=100 5", "cpu,host=d,site=rome v=100 5")
	s.writes(t, engineer, http.StatusForbidden, "memory,host=a,site=oslo used=100 5")
	s.writes(t, analyst, http.StatusForbidden, "memory,host=a,site=oslo used=100 5") // it may read
	s.writes(t, visitor, http.StatusForbidden, "cpu,host=a,site=oslo v=100 5")
	s.writes(t, stranger, http.StatusForbidden, "cpu,host=a,site=oslo v=100 5")
	s.sees(t, root, "SELECT v FROM cpu WHERE v = 100", "cpu|5 100") // nothing of what was refused
	s.sees(t, root, "SELECT used FROM memory WHERE used = 100", "")
	s.sees(t, engineer, "SELECT v INTO memory FROM cpu WHERE v = 100",
		`error: not authorized to write to series "memory" in database "plant": no point was written`)
}

func (s *site) deletes(t *testing.T) {
	for _, u := range []login{analyst, visitor} { // which may write nothing
		s.sees(t, u, "DELETE FROM /.*/", "")
	}
	s.sees(t, engineer, "DELETE FROM cpu WHERE time < 1000000000000", "") // of all sites, as the engineer says
	s.sees(t, root, "SELECT count(v) FROM cpu GROUP BY site", "cpu,site=oslo|0 2\ncpu,site=rome|0 3")
	s.sees(t, engineer, "DROP SERIES FROM memory", "")
	s.sees(t, root, "SELECT count(used) FROM /memory/", "memory|0 3\nmemory_total|0 3")
	s.sees(t, engineer, "DROP MEASUREMENT cpu",
		`error: not authorized to drop measurement "cpu" of database "plant": that needs all of its series`)
	s.sees(t, root, "SELECT count(v) FROM cpu GROUP BY site", "cpu,site=oslo|0 2\ncpu,site=rome|0 3")
}

func (s *site) granted(t *testing.T, restriction string) {
	const oslo = "SELECT count(v) FROM cpu WHERE site = 'oslo'"
	grant := s.acl(t, "grants", `{"database":{"match":"exact","value":"plant"},
		"tags":[{"match":"prefix","key":"site","value":"os"}],"permissions":["read"],"users":[{"name":"visitor"}]}`)
	s.sees(t, visitor, oslo, "cpu|0 2")
	root.must(t, http.MethodDelete, s.meta, aclPath+"grants/"+grant, "")
	s.sees(t, visitor, oslo, "")

	const memory = "SELECT count(used) FROM memory_total"
	change(t, s.meta, "role", "add-users", map[string]any{"name": "analysts", "users": []string{visitor.name}})
	s.sees(t, visitor, memory, "memory_total|0 3")
	change(t, s.meta, "role", "remove-users", map[string]any{"name": "analysts", "users": []string{visitor.name}})
	s.sees(t, visitor, memory, "")
	change(t, s.meta, "role", "change-name", map[string]any{"name": "analysts", "newName": "readers of memory"})
	s.sees(t, analyst, memory, "memory_total|0 3")
	change(t, s.meta, "role", "delete", map[string]any{"name": "readers of memory"})
	s.sees(t, analyst, memory, "")

	root.must(t, http.MethodDelete, s.meta, aclPath+"restrictions/"+restriction, "")
	s.sees(t, visitor, memory, "memory_total|0 3")
}
