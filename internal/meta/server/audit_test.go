package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/metanode"
)

func TestAudit(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{true, false} {
		core, logs := observer.New(zap.InfoLevel)
		m := metatest.Start(t, func(d *metanode.Deps) {
			d.Config.SingleServer = true
			d.Config.Meta.ClusterTracing = on
			d.Config.Meta.AuthEnabled = true
			d.Config.Meta.InternalSharedSecret = "between nodes"
			d.Log = zap.New(core)
		})
		for _, c := range []struct {
			method, path, user string
			code               int
			logged             []string // nil when it is not
		}{
			{"GET", "/show-cluster", "nobody", 401, []string{"who:user nobody, not verified", "path:/show-cluster",
				"status:401", "from:127.0.0.1:"}},
			{"GET", "/show-cluster?password=abc&x=1", "", 401,
				[]string{"who:anyone", "parameters:password=%5Bredacted%5D&x=1"}},
			{"GET", "/ping", "", 204, []string{"method:GET", "status:204"}},
			{"GET", "/identity", "", 401, nil}, // what nodes read
			{"POST", "/execute", "", 401, []string{"who:a node", "status:401"}},
		} {
			logs.TakeAll()
			req, err := http.NewRequest(c.method, m.URL(c.path), strings.NewReader(""))
			if err != nil {
				t.Fatal(err)
			}
			if c.user != "" {
				req.SetBasicAuth(c.user, "hunter2")
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != c.code {
				t.Errorf("%s: %s", c.path, resp.Status)
			}
			var got []string
			if on && c.logged != nil {
				metatest.Until(t, func() bool { return logs.FilterMessage("Request").Len() > 0 })
			}
			for _, l := range logs.FilterMessage("Request").All() {
				got = append(got, mapText(l.ContextMap()))
			}
			if want := on && c.logged != nil; (len(got) == 1) != want || len(got) > 1 {
				t.Errorf("cluster-tracing %t, %s: logged %q", on, c.path, got)
				continue
			}
			for _, want := range c.logged {
				if on && (!strings.Contains(got[0], want) || strings.Contains(got[0], "hunter2") ||
					strings.Contains(got[0], "abc")) {
					t.Errorf("logged %q, want %q", got[0], want)
				}
			}
		}
	}
}

// A change of a node has the type of its command.
func TestAuditOfChanges(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	m := metatest.Start(t, func(d *metanode.Deps) {
		d.Config.SingleServer = true
		d.Config.Meta.ClusterTracing = true
		d.Log = zap.New(core)
	})
	c, err := cluster.NewCommand(cluster.CreateDatabase{Name: "db"})
	if err != nil {
		t.Fatal(err)
	}
	if code, text := metatest.Post(t, m.URL("/execute"), commandText(t, c)); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	metatest.Until(t, func() bool { return logs.FilterMessage("Request").Len() > 0 })
	got := mapText(logs.FilterMessage("Request").All()[0].ContextMap())
	if !strings.Contains(got, "change:create-database") || !strings.Contains(got, "status:200") {
		t.Errorf("logged %q", got)
	}
}

func mapText(m map[string]any) string { return fmt.Sprint(m) }

func commandText(t *testing.T, c cluster.Command) string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
