package server_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v4"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/metanode"
	"concord/internal/trust"
)

const (
	betweenNodes = trust.Secret("what nodes share")
	userTokens   = trust.Secret("what signs tokens of users")
)

// withUserTokens starts a meta node on which users log in with tokens, and adds users with permissions for the cluster.
func withUserTokens(t *testing.T, users map[string]cluster.Permissions) *metatest.Meta {
	t.Helper()
	m := metatest.Start(t, func(d *metanode.Deps) {
		d.Config.SingleServer = true
		d.Config.Meta.AuthEnabled, d.Config.Meta.InternalSharedSecret = true, betweenNodes
		d.Config.Meta.SharedSecret = userTokens
	})
	for name, p := range users {
		_, err := m.Execute(cluster.CreateUser{Name: name, Hash: "none", Grants: cluster.Grants{"": p}})
		metatest.OK(t, err)
	}
	return m
}

// bearer sends a request with a token, and returns the status and the answer.
func bearer(t *testing.T, m *metatest.Meta, token, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(metatest.Context(t), method, m.URL(path), strings.NewReader(body))
	metatest.OK(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	metatest.OK(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	metatest.OK(t, err)
	return resp.StatusCode, string(b)
}

// A user with one permission may use the routes that are for it, and is refused by all others.
func TestEachPermissionOpensItsRoutesOfAMetaNode(t *testing.T) {
	t.Parallel()
	const (
		everyUser = cluster.AllPermissions
		admins    = cluster.Permissions(0)
		onShards  = cluster.ManageShard | cluster.CopyShard | cluster.Rebalance
	)
	all := make(map[string]cluster.Permissions)
	for p := cluster.Permissions(1); p <= cluster.AllPermissions; p <<= 1 {
		all[p.String()] = p
	}
	m := withUserTokens(t, all)
	for route, who := range map[string]cluster.Permissions{ // one of them is enough
		"GET /status": everyUser, "GET /metrics": everyUser, "GET /shard-repair/status": everyUser,
		"GET /show-cluster": cluster.ViewAdmin | cluster.ViewChronograf | cluster.AddRemoveNode | cluster.Monitor,
		"GET /show-shards":  onShards, "GET /shard-copies?id=1": onShards, "GET /copy-shard-status": onShards,
		"POST /copy-shard":                      onShards,
		"POST /kill-copy-shard":                 onShards,
		"POST /remove-shard":                    cluster.ManageShard | cluster.Rebalance,
		"POST /truncate-shards":                 cluster.ManageShard | cluster.Rebalance,
		"POST /shard-repair/cancel-repair?id=1": cluster.ManageShard,
		"GET /user":                             cluster.CreateUserAndRole, "POST /user": cluster.CreateUserAndRole,
		"GET /role": cluster.CreateUserAndRole, "POST /role": cluster.CreateUserAndRole,
		"POST /add-meta?addr=none": cluster.AddRemoveNode, "POST /add-data": cluster.AddRemoveNode,
		"GET /remove-meta": cluster.AddRemoveNode, "POST /remove-meta": cluster.AddRemoveNode,
		"GET /remove-data": cluster.AddRemoveNode, "POST /remove-data": cluster.AddRemoveNode,
		"POST /update-data": cluster.AddRemoveNode, "POST /activate-data": cluster.AddRemoveNode,
		"POST /node-labels": cluster.AddRemoveNode,
		"POST /adopt":       admins, "GET /debug/vars": admins, "GET /debug/pprof/cmdline": admins,
		"GET /influxdb/v2/acl/restrictions": admins, "POST /influxdb/v2/acl/restrictions": admins,
		"DELETE /influxdb/v2/acl/restrictions/1": admins,
		"GET /influxdb/v2/acl/grants":            admins, "POST /influxdb/v2/acl/grants": admins,
		"DELETE /influxdb/v2/acl/grants/1": admins,
		"GET /ldap/v1/config":              admins, "POST /ldap/v1/config": admins,
		"GET /backup/plan": admins, "GET /backup/meta": admins, "GET /backup/shard": admins,
		"POST /restore/begin": admins, "POST /restore/shard": admins,
	} {
		method, path, _ := strings.Cut(route, " ")
		for name, p := range all {
			token, err := userTokens.UserToken(name, time.Minute)
			metatest.OK(t, err)
			code, body := bearer(t, m, token, method, path, "")
			if allowed := code != http.StatusForbidden; code == http.StatusUnauthorized || allowed != (who&p != 0) {
				t.Errorf("%s by a user with %s: %d %s", route, name, code, body)
			}
			if code == http.StatusForbidden && !strings.Contains(body, "this needs an administrator") {
				t.Errorf("%s is refused with %s", route, body)
			}
		}
	}
}

// What a user has for one database opens nothing of the cluster.
func TestPermissionForOneDatabaseOpensNoRouteOfAMetaNode(t *testing.T) {
	t.Parallel()
	m := withUserTokens(t, nil)
	_, err := m.Execute(cluster.CreateDatabase{Name: "db"})
	metatest.OK(t, err)
	_, err = m.Execute(cluster.CreateUser{
		Name: "u", Hash: "none", Grants: cluster.Grants{"db": cluster.DatabasePermissions},
	})
	metatest.OK(t, err)
	token, err := userTokens.UserToken("u", time.Minute)
	metatest.OK(t, err)
	for _, path := range []string{"/show-cluster", "/show-shards", "/user", "/role", "/debug/vars", "/backup/meta"} {
		if code, body := bearer(t, m, token, "GET", path, ""); code != http.StatusForbidden {
			t.Errorf("GET %s: %d %s", path, code, body)
		}
	}
}

// A token that [meta] shared-secret has signed is its user, and no more.
func TestTokenOfAUser(t *testing.T) {
	t.Parallel()
	m := withUserTokens(t, map[string]cluster.Permissions{
		"root": cluster.AllPermissions, "watcher": cluster.Monitor, "leaver": cluster.AllPermissions,
	})
	signed := func(secret trust.Secret, method jwt.SigningMethod, claims jwt.MapClaims) string {
		t.Helper()
		s, err := jwt.NewWithClaims(method, claims).SignedString([]byte(secret))
		metatest.OK(t, err)
		return s
	}
	soon, past := time.Now().Add(time.Minute).Unix(), time.Now().Add(-time.Minute).Unix()
	root := jwt.MapClaims{"username": "root", "exp": soon}
	with := func(claims jwt.MapClaims) string { return signed(userTokens, jwt.SigningMethodHS256, claims) }
	of := func(user string) string { return with(jwt.MapClaims{"username": user, "exp": soon}) }
	encode := base64.RawURLEncoding.EncodeToString
	unsigned := encode([]byte(`{"alg":"none"}`)) + "." +
		encode(fmt.Appendf(nil, `{"username":"root","exp":%d}`, soon)) + "."
	_, err := m.Execute(cluster.DropUser{Name: "leaver"})
	metatest.OK(t, err)
	for _, tc := range []struct {
		name, token, path string
		want              int
	}{
		{"an administrator", of("root"), "/user", 200},
		{"an administrator, as Chronograf signs", signed(userTokens, jwt.SigningMethodHS512, root), "/user", 200},
		{"an administrator on a route of nodes", of("root"), "/state", 401},
		{"a user", of("watcher"), "/show-cluster", 200},
		{"a user", of("watcher"), "/user", 403},
		{"nobody of that name", of("nobody"), "/status", 401},
		{"one who was dropped", of("leaver"), "/status", 401},
		{"without a user", with(jwt.MapClaims{"exp": soon}), "/status", 401},
		{"ended", with(jwt.MapClaims{"username": "root", "exp": past}), "/status", 401},
		{"without an end", with(jwt.MapClaims{"username": "root"}), "/status", 401},
		{"signed with another secret", signed("another", jwt.SigningMethodHS256, root), "/status", 401},
		{"signed with no secret", signed("", jwt.SigningMethodHS256, root), "/status", 401},
		{"not signed", unsigned, "/status", 401},
		{"no token at all", "root", "/status", 401},
		// The secret of nodes allows everything, whoever its token names.
		{"of the nodes", signed(betweenNodes, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon}), "/state", 200},
	} {
		if code, body := bearer(t, m, tc.token, "GET", tc.path, ""); code != tc.want {
			t.Errorf("GET %s with a token %s: %d %s, want %d", tc.path, tc.name, code, body, tc.want)
		}
	}
	made := `{"action":"create","user":{"name":"new","password":"pw"}}`
	if code, body := bearer(t, m, of("root"), "POST", "/user", made); code != 200 ||
		m.State().User("new") == nil {
		t.Errorf("POST /user: %d %s", code, body)
	}

	none := metatest.Start(t, func(d *metanode.Deps) {
		d.Config.SingleServer = true
		d.Config.Meta.AuthEnabled, d.Config.Meta.InternalSharedSecret = true, betweenNodes
	})
	_, err = none.Execute(cluster.CreateUser{Name: "root", Hash: "none", Admin: true})
	metatest.OK(t, err)
	for _, secret := range []trust.Secret{userTokens, ""} {
		token := signed(secret, jwt.SigningMethodHS256, root)
		if code, body := bearer(t, none, token, "GET", "/status", ""); code != 401 {
			t.Errorf("without shared-secret: %d %s", code, body)
		}
	}
}

// Each change names what it adds, so none takes back what another one has added meanwhile.
func TestChangesOfARoleAtOnceAllStay(t *testing.T) {
	t.Parallel()
	const n = 12
	m := metatest.New(t, true)
	metatest.OK(t, server.ChangeRole(m.Server, "create", wire.Role{Name: "ops"}))
	for i := range n {
		_, err := m.Execute(cluster.CreateDatabase{Name: fmt.Sprint("db", i)})
		metatest.OK(t, err)
		_, err = m.Execute(cluster.CreateUser{Name: fmt.Sprint("user", i), Hash: "none"})
		metatest.OK(t, err)
	}
	var all sync.WaitGroup
	post := func(path, body string) {
		all.Go(func() {
			if code, answer := metatest.Post(t, m.URL(path), body); code != http.StatusOK {
				t.Errorf("%s %s: %d %s", path, body, code, answer)
			}
		})
	}
	for i := range n {
		post("/role", fmt.Sprintf(`{"action":"add-users","role":{"name":"ops","users":["user%d"]}}`, i))
		post("/role", fmt.Sprintf(
			`{"action":"add-permissions","role":{"name":"ops","permissions":{"db%d":["ReadData"],"":[%q]}}}`,
			i, cluster.AllPermissions.Names()[i]))
		post("/user", fmt.Sprintf(
			`{"action":"add-permissions","user":{"name":"user0","permissions":{"db%d":["DropData"]}}}`, i))
	}
	all.Wait()
	role, _ := m.State().Role("ops")
	user := m.State().UserGrants("user0")
	for i := range n {
		db := fmt.Sprint("db", i)
		if !slices.Contains(role.Users, fmt.Sprint("user", i)) || role.Grants()[db] != cluster.ReadData ||
			role.Grants()[""]&(1<<i) == 0 || user[db] != cluster.DropData {
			t.Errorf("change %d is lost: users %v, permissions %v, of the user %v", i, role.Users, role.Grants(), user)
		}
	}
}
