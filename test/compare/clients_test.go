//go:build compare

package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// client asks statements of nodes in turn and returns the answers as text.
type client struct {
	name string
	ask  func(addrs []string, db string, statements []string) ([]string, error)
}

const install = "run test/compare/install.sh"

// script runs one of the scripts in clients.
func script(argv ...string) func([]string, string, []string) ([]string, error) {
	return func(addrs []string, db string, statements []string) ([]string, error) {
		task, err := json.Marshal(map[string]any{"addrs": addrs, "db": db, "statements": statements})
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir, cmd.Stdin = "clients", bytes.NewReader(task)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("%v: %w\n%s", argv, err, errs.String())
		}
		answers := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		if len(answers) != len(statements) {
			return nil, fmt.Errorf("%v gave %d answers to %d statements", argv, len(answers), len(statements))
		}
		return answers, nil
	}
}

// shell runs the influx shell once for each statement.
func shell(addrs []string, db string, statements []string) ([]string, error) {
	var answers []string
	for i, statement := range statements {
		host, port, err := net.SplitHostPort(addrs[i%len(addrs)])
		if err != nil {
			return nil, err
		}
		out, err := exec.Command("influx", "-host", host, "-port", port, "-database", db,
			"-format", []string{"json", "column", "csv"}[i%3], "-precision", []string{"ns", "rfc3339", "s"}[i%3],
			"-execute",
			statement).CombinedOutput()
		answers = append(answers, fmt.Sprintf("%v\n%s", err, out))
	}
	return answers, nil
}

// clients are those that are installed; the others are skipped with the reason.
func clients(t *testing.T) []client {
	t.Helper()
	var out []client
	for _, c := range []struct {
		client
		probe []string
	}{
		{client{"influx shell", shell}, []string{"influx", "-version"}},
		{
			client{"python3-influxdb", script("/usr/bin/python3", "ask.py")},
			[]string{"/usr/bin/python3", "-c", "import influxdb"},
		},
		{client{"npm influx", script("node", "ask.js")}, []string{"node", "-e", "require('influx')"}},
	} {
		cmd := exec.Command(c.probe[0], c.probe[1:]...)
		cmd.Dir = "clients"
		if err := cmd.Run(); err != nil {
			t.Run(c.name, func(t *testing.T) { t.Skipf("%s is not installed (%v): %s", c.name, err, install) })
			continue
		}
		out = append(out, c.client)
	}
	return out
}

// throughClients asks all Reads through real clients.
func (s *sides) throughClients(t *testing.T, db string) {
	var addrs []string
	for _, n := range s.nodes {
		addrs = append(addrs, n.HTTPAddr())
	}
	var statements []string
	for _, r := range Reads {
		if strings.Trim(r, "; ") != "" { // the shell takes an empty statement for none, and reads the terminal
			statements = append(statements, r)
		}
	}
	for _, c := range clients(t) {
		t.Run(c.name, func(t *testing.T) {
			want, err := c.ask([]string{s.plain.HTTPAddr()}, db, statements)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.ask(addrs, db, statements)
			if err != nil {
				t.Fatal(err)
			}
			answered := 0
			for i, statement := range statements {
				if !Same(want[i], got[i]) {
					t.Errorf("%s, node %d: %s\n the cluster answers %s\n the single node   %s",
						db, i%len(addrs)+1, statement, near(got[i], want[i]), near(want[i], got[i]))
				}
				if len(want[i]) > 100 {
					answered++
				}
			}
			if answered < len(statements)/3 {
				t.Errorf("only %d of %d statements have an answer worth the name", answered, len(statements))
			}
			t.Logf("%s, %s: %d statements", db, c.name, len(statements))
		})
	}
}

func TestAllFormsAndClients(t *testing.T) {
	for _, index := range []string{"inmem", "tsi1"} {
		t.Run(index, func(t *testing.T) {
			s := mustStart(t, index, false, "one", "two", "three")
			for _, db := range []string{"one", "two", "three"} {
				t.Run(db, func(t *testing.T) {
					for _, f := range Forms {
						for _, statement := range Reads {
							s.both(t, db, statement, f)
						}
					}
					s.throughClients(t, db)
				})
			}
			s.flush(t)
			for _, db := range []string{"one", "two", "three"} {
				t.Run(db+" in files, with changes", func(t *testing.T) {
					for _, statement := range Reads {
						s.both(t, db, statement, Forms[0])
					}
					s.changes(t, db)
				})
			}
		})
	}
}

// flush writes all that the cluster's nodes cache to files: another layout of the same data.
func (s *sides) flush(t *testing.T) {
	t.Helper()
	for _, n := range s.nodes {
		for _, id := range n.Store.ShardIDs() {
			engine, err := n.Store.Shard(id).Engine()
			if err != nil {
				t.Fatal(err)
			}
			if w, ok := engine.(interface{ WriteSnapshot() error }); !ok {
				t.Fatalf("an engine that writes no snapshots: %T", engine)
			} else if err := w.WriteSnapshot(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestGrants asks as users that may do some of it, or nothing.
func TestGrants(t *testing.T) {
	s := mustStart(t, "tsi1", true, "one", "two")
	for _, statement := range []string{
		`CREATE USER reader WITH PASSWORD 'r'`, `CREATE USER writer WITH PASSWORD 'w'`,
		`CREATE USER nobody WITH PASSWORD 'n'`, `GRANT READ ON one TO reader`, `GRANT WRITE ON one TO writer`,
		`GRANT ALL ON two TO writer`, `SHOW USERS`, `SHOW GRANTS FOR reader`,
	} {
		s.both(t, "", statement, s.admin)
		s.settle(t)
	}
	for _, tt := range []struct {
		f    Form
		want string
	}{{s.admin, "count_usage"}, {Forms[0], "401 "}} {
		if got, err := Ask(s.ctx, s.node(), "one", `SELECT count(*) FROM cpu`, tt.f); err != nil ||
			!strings.Contains(got, tt.want) {
			t.Fatalf("%s: %s, %v", tt.f.Name, got, err)
		}
	}
	for _, f := range []Form{
		s.admin, Form{Name: "reader"}.As("reader", "r"), Form{Name: "writer"}.As("writer", "w"),
		Form{Name: "nobody"}.As("nobody", "n"), Form{Name: "wrong password"}.As("reader", "x"),
		Form{Name: "unknown user"}.As("who", "x"), {Name: "no user"},
	} {
		for _, db := range []string{"one", "two", "none"} {
			for _, statement := range []string{
				`SELECT count(*) FROM cpu`, `SELECT * FROM cpu LIMIT 2`, `SELECT usage FROM two.autogen.cpu LIMIT 1`,
				`SELECT max(u) FROM (SELECT usage AS u FROM two..cpu)`, `SHOW MEASUREMENTS`, `SHOW TAG KEYS`,
				`SHOW TAG VALUES WITH KEY = host`, `SHOW FIELD KEYS`, `SHOW SERIES`, `SHOW SERIES CARDINALITY`,
				`SHOW MEASUREMENT CARDINALITY`, `SHOW TAG VALUES ON two WITH KEY = region`, `SHOW DATABASES`,
				`SELECT usage INTO copy FROM cpu WHERE host = 'h01'`,
			} {
				s.both(t, db, statement, f)
				s.settle(t)
			}
			for _, statement := range slices.Sorted(maps.Keys(enterpriseNeeds)) {
				if f.Name == "reader" || f.Name == "writer" || f.Name == "nobody" {
					s.needs(t, db, statement, f)
				} else {
					s.both(t, db, statement, f)
				}
				s.settle(t)
			}
		}
	}
	// A plain node refuses it to all who may not read the database of the request. The cluster shows what they may
	// read.
	got, err := Ask(s.ctx, s.node(), "one", `SHOW MEASUREMENTS ON *.*`, Form{Name: "reader"}.As("reader", "r"))
	if err != nil || !strings.Contains(got, `"one"`) || strings.Contains(got, `"two"`) {
		t.Errorf("measurements of all databases for one who may read one: %s, %v", got, err)
	}
}

// enterpriseNeeds is what a user needs for statements for which a plain node asks for something else than InfluxDB
// Enterprise, or for nothing. Those that end with "on" are for one database.
var enterpriseNeeds = map[string]string{
	`SHOW SERIES EXACT CARDINALITY`:               "READ on",
	`SHOW TAG VALUES CARDINALITY WITH KEY = host`: "READ on",
	`SHOW RETENTION POLICIES`:                     "READ or CreateDatabase on",
	`SHOW CONTINUOUS QUERIES`:                     "ManageContinuousQuery on",
	`DELETE FROM once`:                            "DropData on",
	`DROP MEASUREMENT once`:                       "DropData on",
	`SHOW USERS`:                                  "CreateUserAndRole",
	`SHOW GRANTS FOR reader`:                      "CreateUserAndRole",
	`SET PASSWORD FOR nobody = 'n'`:               "CreateUserAndRole",
	`CREATE DATABASE x`:                           "CreateDatabase",
	`DROP DATABASE x`:                             "DropDatabase",
}

// needs checks that the cluster refuses a statement with what it needs, unless the user has that.
func (s *sides) needs(t *testing.T, db, statement string, f Form) {
	t.Helper()
	got, err := Ask(s.ctx, s.node(), db, statement, f)
	if err != nil {
		t.Errorf("%s, %s: %v", f.Name, statement, err)
		return
	}
	need, ofDatabase := strings.CutSuffix(enterpriseNeeds[statement], " on")
	want := "requires " + need
	if ofDatabase {
		want += " on " + db
	}
	may := strings.HasPrefix(need, "READ") && (f.Name == "reader" && db == "one" || f.Name == "writer" && db == "two")
	if strings.Contains(got, want) == may {
		t.Errorf("%s asks %q of %s: %s, which says %q: %t", f.Name, statement, db, got, want, !may)
	}
}

// TestAnswersWithANodeDown asks the two nodes that are left about data of which each has a replica, or another has.
func TestAnswersWithANodeDown(t *testing.T) {
	s := mustStart(t, "tsi1", false, "two", "three")
	if err := s.cluster.StopData(2); err != nil {
		t.Fatal(err)
	}
	s.nodes = s.nodes[:2]
	for _, db := range []string{"two", "three"} {
		for i, statement := range Reads {
			s.both(t, db, statement, Forms[i%len(Forms)])
		}
	}
}
