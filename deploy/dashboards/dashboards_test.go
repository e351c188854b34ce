package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Where the files are that users load.
const (
	grafana = "../grafana"
	alerts  = "../prometheus"
)

// dashboard is what is read of a dashboard here. Grafana ignores what it does not know, so the test has to look.
type dashboard struct {
	UID, Title    string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type string
			Query      any
			Datasource reference
		}
	}
	Panels []struct {
		ID          int
		Type, Title string
		Description string
		Interval    string
		GridPos     struct{ X, Y, W, H int }
		Datasource  reference
		Targets     []target
	}
}

type reference struct{ Type, UID string }

type target struct {
	RefID        string
	Datasource   reference
	Expr         string // PromQL
	LegendFormat string
	Query        string // InfluxQL
	RawQuery     bool
	Alias        string
}

// mustRead reads a dashboard that is in the tree.
func mustRead(t *testing.T, name string) dashboard {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(grafana, name))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d
}

func TestTheFilesAreThoseOfThePanels(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(grafana)
	if err != nil {
		t.Fatal(err)
	}
	want := dashboards()
	for _, f := range files {
		if want[f.Name()] == nil && strings.HasSuffix(f.Name(), ".json") {
			t.Errorf("nothing makes %s", f.Name())
		}
	}
	for name, content := range want {
		b, err := os.ReadFile(filepath.Join(grafana, name))
		if err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s is not what the panels say (%v): go run ./deploy/dashboards deploy/grafana", name, err)
		}
	}
}

func TestGrafanaCanLoadTheDashboards(t *testing.T) {
	t.Parallel()
	uids := make(map[string]bool)
	for name := range dashboards() {
		t.Run(name, func(t *testing.T) {
			d := mustRead(t, name)
			if d.SchemaVersion < 39 || d.Title == "" || d.UID == "" || len(d.UID) > 40 || uids[d.UID] {
				t.Errorf("schemaVersion %d, title %q, uid %q", d.SchemaVersion, d.Title, d.UID)
			}
			uids[d.UID] = true
			declared := []string{"__interval", "__rate_interval", "timeFilter"}
			kind := ""
			for _, v := range d.Templating.List {
				declared = append(declared, v.Name)
				if v.Type == "datasource" {
					kind, _ = v.Query.(string)
				}
			}
			if kind == "" {
				t.Fatal("no variable has the data source")
			}
			own := reference{kind, "${datasource}"}
			ids := make(map[int]bool)
			var taken [][4]int
			for _, p := range d.Panels {
				if p.ID <= 0 || ids[p.ID] {
					t.Errorf("panel %q has the ID %d, which is taken", p.Title, p.ID)
				}
				ids[p.ID] = true
				at := [4]int{p.GridPos.X, p.GridPos.Y, p.GridPos.X + p.GridPos.W, p.GridPos.Y + p.GridPos.H}
				if at[0] < 0 || at[2] > gridWidth || p.GridPos.W <= 0 || p.GridPos.H <= 0 {
					t.Errorf("panel %q is not on the grid: %+v", p.Title, p.GridPos)
				}
				for _, other := range taken {
					if at[0] < other[2] && other[0] < at[2] && at[1] < other[3] && other[1] < at[3] {
						t.Errorf("panel %q covers another one: %v and %v", p.Title, at, other)
					}
				}
				taken = append(taken, at)
				if p.Type == "row" {
					continue
				}
				if p.Title == "" || p.Description == "" || p.Datasource != own || len(p.Targets) == 0 {
					t.Errorf("panel %q: %+v", p.Title, p)
				}
				refs := make(map[string]bool)
				for _, q := range p.Targets {
					if q.RefID == "" || refs[q.RefID] || q.Datasource != own || (q.Expr == "") == (q.Query == "") {
						t.Errorf("panel %q: target %+v", p.Title, q)
					}
					refs[q.RefID] = true
					for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(q.Expr+q.Query, -1) {
						if !slices.Contains(declared, m[1]) {
							t.Errorf("panel %q: no variable %s", p.Title, m[1])
						}
					}
				}
			}
		})
	}
}

// TestPromQLCanBeParsed has promtool read the queries of the dashboard as rules.
func TestPromQLCanBeParsed(t *testing.T) {
	t.Parallel()
	promtool := mustFind(t)
	rules := "groups:\n- name: dashboard\n  rules:\n"
	for i, q := range targets(mustRead(t, "prometheus.json")) {
		expr := strings.NewReplacer("$node", ".*", "$__rate_interval", "1m").Replace(q.Expr)
		rules += fmt.Sprintf("  - record: panel:%d\n    expr: '%s'\n", i, expr)
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAlertsFireWhenTheyAreToAndOnlyThen(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"test", "rules", "alerts_test.yaml"}, {"check", "config", "prometheus.yaml"}} {
		cmd := exec.Command(mustFind(t), args...)
		cmd.Dir = alerts
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

func TestEachAlertIsTestedAndDescribed(t *testing.T) {
	t.Parallel()
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests, doc := read(filepath.Join(alerts, "alerts_test.yaml")), read("../../docs/monitoring.md")
	names := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(read(filepath.Join(alerts, "alerts.yaml")), -1)
	if len(names) == 0 {
		t.Fatal("no alerts")
	}
	for _, m := range names {
		if !strings.Contains(tests, m[1]) {
			t.Errorf("no test has %s", m[1])
		}
		if !strings.Contains(doc, "`"+m[1]+"`") {
			t.Errorf("docs/monitoring.md does not say what to do about %s", m[1])
		}
	}
}

// mustFind finds promtool.
func mustFind(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("promtool is not installed: it is in the package prometheus of Debian")
	} else if err != nil {
		t.Fatal(err)
	}
	return path
}

func targets(d dashboard) (out []target) {
	for _, p := range d.Panels {
		out = append(out, p.Targets...)
	}
	return out
}
