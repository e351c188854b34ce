package meta

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/influxdata/influxql"

	"concord/internal/cluster"
	"concord/internal/meta/metaconfig"
	"concord/internal/trust"
)

// TestEveryRouteIsGuarded walks all routes without credentials, with wrong ones
// and with too few rights.
func TestEveryRouteIsGuarded(t *testing.T) {
	t.Parallel()
	const secret = trust.Secret("the shared secret")
	m := &testMeta{cfg: metaconfig.New()}
	m.cfg.Meta.Dir = t.TempDir()
	m.cfg.Meta.BindAddress, m.cfg.Meta.HTTPBindAddress = "127.0.0.1:0", "127.0.0.1:0"
	m.cfg.Meta.AuthEnabled, m.cfg.Meta.InternalSharedSecret = true, secret
	m.cfg.SingleServer = true
	m.ShardRepair = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	m.start(t)
	t.Cleanup(func() { m.Close() })
	for name, admin := range map[string]bool{"root": true, "user": false} {
		if err := m.changeUser("create", userBody{Name: name, Password: "right"}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Execute(cluster.SetAdminPrivilege{User: name, Admin: admin}); err != nil {
			t.Fatal(err)
		}
	}
	good, err := secret.Token(time.Minute)
	if err != nil {
		t.Fatal(err)
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
		{"GET", "/show-cluster", admins},
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
		{"POST", "/truncate-shards", admins},
		{"POST", "/node-labels", admins},
		{"GET", "/user", admins},
		{"POST", "/user", admins},
		{"GET", "/role", admins},
		{"POST", "/role", admins},
		{"GET", "/shard-repair/status", users},
		{"POST", "/shard-repair/repair", admins},
	} {
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
	if strings.Contains(m.cfg.Meta.InternalSharedSecret.String(), "shared") {
		t.Error("a secret prints itself")
	}
}

func TestNodesWithoutTheSecretDoNotJoin(t *testing.T) {
	t.Parallel()
	start := func(secret trust.Secret) *testMeta {
		m := &testMeta{cfg: metaconfig.New(), tune: quickRaft}
		m.cfg.Meta.Dir = t.TempDir()
		m.cfg.Meta.BindAddress, m.cfg.Meta.HTTPBindAddress = "127.0.0.1:0", "127.0.0.1:0"
		m.cfg.Meta.InternalSharedSecret = secret
		m.start(t)
		t.Cleanup(func() { m.Close() })
		return m
	}
	a, b, stranger := start("s"), start("s"), start("t")
	ctx := testContext(t)
	for _, m := range []*testMeta{a, b} {
		if _, err := a.AddMeta(ctx, m.HTTPAddr()); err != nil {
			t.Fatal(err)
		}
	}
	awaitSame(t, []*testMeta{a, b}, func(s *cluster.State) bool { return len(s.MetaNodes) == 2 })
	if _, err := a.AddMeta(ctx, stranger.HTTPAddr()); err == nil || !strings.Contains(err.Error(), "internal-shared-secret") {
		t.Errorf("a meta node with another secret: %v", err)
	}
	c := NewClient(t.TempDir(), nil)
	c.Secure(nil, "t")
	if _, err := c.http.ask(ctx, "GET", a.HTTPAddr(), "/state", url.Values{}); err == nil {
		t.Error("a data node with another secret reads the metadata")
	}
	d := newData(t)
	if _, err := a.AddData(ctx, d.addr); err == nil {
		t.Error("a data node without the secret joined") // its client cannot read the state
	}
}

func TestUsersOverHTTP(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	u := userBody{Name: "paul", Password: "pw"}
	for _, step := range []struct {
		action string
		perms  map[string][]string
		want   string
	}{
		{"create", nil, ""},
		{"create", nil, "exists"},
		{"add-permissions", map[string][]string{"db": {"ReadData"}}, "database not found"},
		{"add-permissions", map[string][]string{"db": {"Fly"}}, "unknown"},
		{"add-permissions", map[string][]string{"": {"ViewAdmin"}}, "administrator"},
		{"add-permissions", map[string][]string{"": {"CreateUserAndRole"}}, ""},
		{"change-password", nil, ""},
		{"fly", nil, "unknown"},
	} {
		u.Permissions = step.perms
		err := m.changeUser(step.action, u)
		if (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s %v: %v, want %q", step.action, step.perms, err, step.want)
		}
	}
	if code, body := call(t, "GET", "http://"+m.HTTPAddr()+"/user"); code != 200 || !strings.Contains(body, `"paul"`) || strings.Contains(body, "$2a$") {
		t.Errorf("GET /user: %d %s", code, body)
	}
	if err := m.changeUser("delete", u); err != nil {
		t.Error(err)
	}
}

func TestRolesGiveTheirUsersPrivileges(t *testing.T) {
	t.Parallel()
	m := newMeta(t, true)
	d := newData(t)
	if _, err := m.AddData(testContext(t), d.addr); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateDatabase("db"); err != nil {
		t.Fatal(err)
	}
	if err := m.changeUser("create", userBody{Name: "paul", Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	may := func() string {
		u := d.UserInfo("paul")
		if u == nil {
			return "no such user"
		}
		return fmt.Sprint(u.AuthorizeDatabase(influxql.ReadPrivilege, "db"), u.AuthorizeDatabase(influxql.WritePrivilege, "db"), u.AuthorizeUnrestricted())
	}
	for _, step := range []struct {
		action string
		role   roleBody
		err    string
		may    string
	}{
		{"create", roleBody{Name: "east"}, "", "false false false"},
		{"create", roleBody{Name: "east"}, "already exists", "false false false"},
		{"create", roleBody{}, "name required", "false false false"},
		{"add-users", roleBody{Name: "west", Users: []string{"paul"}}, "role not found", "false false false"},
		{"add-users", roleBody{Name: "east", Users: []string{"nobody"}}, "user not found", "false false false"},
		{"add-users", roleBody{Name: "east", Users: []string{"paul", "paul"}}, "", "false false false"},
		{"add-permissions", roleBody{Name: "east", Permissions: map[string][]string{"nix": {"ReadData"}}}, "database does not exist", "false false false"},
		{"add-permissions", roleBody{Name: "east", Permissions: map[string][]string{"db": {"ReadData"}}}, "", "true false false"},
		{"add-permissions", roleBody{Name: "east", Permissions: map[string][]string{"db": {"WriteData"}}}, "", "true true false"},
		{"remove-permissions", roleBody{Name: "east", Permissions: map[string][]string{"db": {"ReadData"}}}, "", "false true false"},
		{"add-permissions", roleBody{Name: "east", Permissions: map[string][]string{"": {"CreateUserAndRole"}}}, "", "true true true"},
		{"change-name", roleBody{Name: "east", NewName: "south"}, "", "true true true"},
		{"fly", roleBody{Name: "south"}, "unknown", "true true true"},
		{"remove-users", roleBody{Name: "south", Users: []string{"paul"}}, "", "false false false"},
		{"add-users", roleBody{Name: "south", Users: []string{"paul"}}, "", "true true true"},
		{"delete", roleBody{Name: "south"}, "", "false false false"},
	} {
		err := m.changeRole(step.action, step.role)
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("%s %+v: %v, want %q", step.action, step.role, err, step.err)
		}
		if err := until(testContext(t), func() bool { return may() == step.may }); err != nil {
			t.Errorf("after %s %+v: %s, want %s", step.action, step.role, may(), step.may)
		}
	}
	if err := errors.Join(m.changeRole("create", roleBody{Name: "r"}), m.changeRole("add-users", roleBody{Name: "r", Users: []string{"paul"}}), m.changeUser("delete", userBody{Name: "paul"})); err != nil {
		t.Fatal(err)
	}
	if code, body := call(t, "GET", "http://"+m.HTTPAddr()+"/role"); code != 200 || body != `{"roles":[{"name":"r"}]}`+"\n" {
		t.Errorf("GET /role: %d %s", code, body)
	}
	m.Close()
	m.start(t)
	if _, ok := m.State().Role("r"); !ok {
		t.Error("the role is lost by a restart")
	}
}
