package server_test

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"concord/internal/cluster"
	"concord/internal/meta/httpclient"
	"concord/internal/meta/metatest"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/metanode"
	"concord/internal/trust"
)

// TestEveryRouteIsGuarded walks all routes without credentials, with wrong ones
// and with too few rights.
func TestEveryRouteIsGuarded(t *testing.T) {
	t.Parallel()
	const secret = trust.Secret("the shared secret")
	m := metatest.Start(t, func(d *metanode.Deps) {
		d.Config.Meta.AuthEnabled, d.Config.Meta.InternalSharedSecret = true, secret
		d.Config.SingleServer = true
	})
	for name, admin := range map[string]bool{"root": true, "user": false} {
		if err := server.ChangeUser(m.Server, "create", wire.User{Name: name, Password: "right"}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Execute(cluster.SetAdminPrivilege{User: name, Admin: admin}); err != nil {
			t.Fatal(err)
		}
	}
	bad, _ := trust.Secret("another").Token(time.Minute)
	old, _ := secret.Token(-time.Minute)
	none := "eyJhbGciOiJub25lIn0.eyJleHAiOjk5OTk5OTk5OTl9." // alg none
	basic := func(user, pwd string) string {
		r, _ := http.NewRequest("GET", "http://x", nil)
		r.SetBasicAuth(user, pwd)
		return r.Header.Get("Authorization")
	}
	const (
		anybody = "anybody"
		nodes   = "nodes"
		users   = "users"
		admins  = "admins"
	)
	for _, route := range []struct{ method, path, who string }{
		{"GET", "/ping", anybody},
		{"GET", "/status", users},
		{"GET", "/metrics", users},
		{"GET", "/cluster/state", users},
		{"GET", "/show-cluster", admins},
		{"GET", "/debug/pprof/cmdline", admins},
		{"GET", "/debug/pprof/", admins},
		{"GET", "/debug/vars", admins},
		{"GET", "/show-shards", admins},
		{"GET", "/identity", nodes},
		{"GET", "/state", nodes},
		{"GET", "/lease", nodes},
		{"POST", "/execute", nodes},
		{"POST", "/reset", nodes},
		{"POST", "/add-meta", admins},
		{"POST", "/remove-meta", admins},
		{"GET", "/remove-meta", admins},
		{"POST", "/add-data", admins},
		{"POST", "/remove-data", admins},
		{"GET", "/remove-data", admins},
		{"POST", "/update-data", admins},
		{"POST", "/adopt", admins}, {"POST", "/adopt-cluster", admins},
		{"POST", "/activate-data", admins},
		{"GET", "/rebalance", admins},
		{"POST", "/rebalance", admins},
		{"POST", "/undrain-data", admins},
		{"POST", "/truncate-shards", admins},
		{"POST", "/node-labels", admins},
		{"GET", "/user", admins},
		{"POST", "/user", admins},
		{"GET", "/role", admins},
		{"POST", "/role", admins},
		{"GET", "/shard-repair/status", users},
		{"POST", "/shard-repair/repair", admins},
	} {
		good, err := secret.Token(time.Minute) // for this route: under load all of them take longer than a minute
		if err != nil {
			t.Fatal(err)
		}
		for _, who := range []struct {
			name, header string
			code         int // when refused
			in           []string
		}{
			{"nobody", "", 401, []string{anybody}},
			{"a wrong token", "Bearer " + bad, 401, []string{anybody}},
			{"an expired token", "Bearer " + old, 401, []string{anybody}},
			{"an unsigned token", "Bearer " + none, 401, []string{anybody}},
			{"a wrong password", basic("root", "wrong"), 401, []string{anybody}},
			{"an unknown user", basic("nobody", "right"), 401, []string{anybody}},
			{"a user", basic("user", "right"), 403, []string{anybody, users}},
			{"an administrator", basic("root", "right"), 401, []string{anybody, users, admins}},
			{"a node", "Bearer " + good, 0, []string{anybody, users, admins, nodes}},
		} {
			if who.name == "a wrong password" && route.path != "/show-cluster" && route.path != "/add-data" {
				continue // a password takes long to check
			}
			req, err := http.NewRequest(route.method, "http://"+m.HTTPAddr()+route.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if who.header != "" {
				req.Header.Set("Authorization", who.header)
			}
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			refused := resp.StatusCode == 401 || resp.StatusCode == 403
			if refused == slices.Contains(who.in, route.who) {
				t.Errorf("%s %s by %s: %d %s", route.method, route.path, who.name, resp.StatusCode, b)
			}
			want := who.code
			if route.who == nodes {
				want = 401
			}
			if refused && resp.StatusCode != want {
				t.Errorf("%s %s by %s: %d, want %d", route.method, route.path, who.name, resp.StatusCode, want)
			}
			if refused && (strings.Contains(string(b), "$2a$") || len(b) > 300) {
				t.Errorf("%s %s tells %s more than that it is refused: %s", route.method, route.path, who.name, b)
			}
		}
	}
	if strings.Contains(m.Deps.Config.Meta.InternalSharedSecret.String(), "shared") {
		t.Error("a secret prints itself")
	}
}

func TestNodesWithoutTheSecretDoNotJoin(t *testing.T) {
	t.Parallel()
	start := func(secret trust.Secret) *metatest.Meta {
		return metatest.Start(t, metatest.Quick, func(d *metanode.Deps) { d.Config.Meta.InternalSharedSecret = secret })
	}
	a, b, stranger := start("s"), start("s"), start("t")
	ctx := metatest.Context(t)
	_, err := a.AddMeta(ctx, a.HTTPAddr())
	metatest.OK(t, err)
	both := []*metatest.Meta{a, b}
	add := func(m *metatest.Meta, ok func() bool) bool { // on a busy machine the leader may change meanwhile
		return metatest.Until(t, func() bool {
			_, err = metatest.LeaderOf(t, both).AddMeta(metatest.Context(t), m.HTTPAddr())
			return ok()
		})
	}
	if !add(b, func() bool { return err == nil }) {
		t.Fatal(err)
	}
	metatest.Await(t, both, func(s *cluster.State) bool { return len(s.MetaNodes) == 2 })
	if !add(stranger, func() bool { return err != nil && strings.Contains(err.Error(), "internal-shared-secret") }) {
		t.Errorf("a meta node with another secret: %v", err)
	}
	c := httpclient.New(nil, "t")
	defer c.Close()
	if _, err := c.Ask(ctx, "GET", a.HTTPAddr(), "/state", url.Values{}); err == nil {
		t.Error("a data node with another secret reads the metadata")
	}
	d := metatest.NewData(t)
	if _, err := a.AddData(ctx, d.Addr); err == nil {
		t.Error("a data node without the secret joined") // its client cannot read the state
	}
}
