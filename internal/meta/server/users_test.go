package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/influxdata/influxql"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/cluster"
	"concord/internal/meta/metatest"
	"concord/internal/meta/server"
	"concord/internal/meta/wire"
	"concord/internal/metanode"
)

func TestUsersOverHTTP(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	u := wire.User{Name: "paul", Password: "pw"}
	for _, step := range []struct {
		action string
		perms  map[string][]string
		want   string
	}{
		{"create", nil, ""},
		{"create", nil, "exists"},
		{"add-permissions", map[string][]string{"db": {"ReadData"}}, "database not found"},
		{"add-permissions", map[string][]string{"db": {"Fly"}}, "unknown"},
		{"add-permissions", map[string][]string{"": {"ViewAdmin"}}, ""},
		{"remove-permissions", map[string][]string{"": {"ViewAdmin", "Monitor"}, "nix": {"ReadData"}}, ""},
		{"add-permissions", map[string][]string{"db": {"Monitor"}}, "cannot be given for one database"},
		{"add-permissions", map[string][]string{"": {"CreateUserAndRole"}}, ""},
		{"change-password", nil, ""},
		{"fly", nil, "unknown"},
	} {
		u.Permissions = step.perms
		err := server.ChangeUser(m.Server, step.action, u)
		if (err == nil) != (step.want == "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s %v: %v, want %q", step.action, step.perms, err, step.want)
		}
	}
	if code, body := metatest.Call(t, "GET", "http://"+m.HTTPAddr()+"/user"); code != 200 ||
		!strings.Contains(body, `"paul"`) || strings.Contains(body, "$2a$") {
		t.Errorf("GET /user: %d %s", code, body)
	}
	if err := server.ChangeUser(m.Server, "delete", u); err != nil {
		t.Error(err)
	}
}

// Each request that changes users or roles makes a line of the log, without passwords.
func TestChangesOfUsersAndRolesAreLogged(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	m := metatest.Start(t, func(d *metanode.Deps) { d.Config.SingleServer, d.Log = true, zap.New(core) })
	reads := map[string][]string{"": {"ReadData"}}
	paul, role := wire.User{Name: "paul", Password: "hunter2"}, wire.Role{Name: "east"}
	for _, step := range []struct {
		change func(string) error
		action string
		want   string
	}{
		{user(m, paul), "create", "create user"},
		{user(m, paul), "change-password", "update user"},
		{user(m, wire.User{Name: "paul", Permissions: reads}), "add-permissions", "change grants"},
		{user(m, wire.User{Name: "paul", Permissions: reads}), "remove-permissions", "change grants"},
		{roleOf(m, role), "create", "create role"},
		{roleOf(m, wire.Role{Name: "east", Permissions: reads}), "add-permissions", "change role"},
		{roleOf(m, wire.Role{Name: "east", Users: []string{"paul"}}), "add-users", "change role"},
		{roleOf(m, wire.Role{Name: "east", NewName: "west"}), "change-name", "rename role"},
		{roleOf(m, wire.Role{Name: "west"}), "delete", "drop role"},
		{user(m, paul), "delete", "drop user"},
	} {
		logs.TakeAll()
		metatest.OK(t, step.change(step.action))
		lines := logs.FilterMessage("Users or roles were changed").All()
		if len(lines) != 1 || lines[0].ContextMap()["change"] != step.want || lines[0].ContextMap()["name"] == "" {
			t.Errorf("%s logs %v, want %q", step.action, lines, step.want)
		}
		if text := fmt.Sprint(logs.All()); strings.Contains(text, "hunter2") || strings.Contains(text, "$2a$") {
			t.Errorf("%s logs a password: %s", step.action, text)
		}
	}
}

func user(m *metatest.Meta, u wire.User) func(string) error {
	return func(action string) error { return server.ChangeUser(m.Server, action, u) }
}

func roleOf(m *metatest.Meta, r wire.Role) func(string) error {
	return func(action string) error { return server.ChangeRole(m.Server, action, r) }
}

func TestRolesGiveTheirUsersPrivileges(t *testing.T) {
	t.Parallel()
	m := metatest.New(t, true)
	d := metatest.NewData(t)
	if _, err := m.AddData(metatest.Context(t), d.Addr); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateDatabase("db"); err != nil {
		t.Fatal(err)
	}
	if err := server.ChangeUser(m.Server, "create", wire.User{Name: "paul", Password: "pw"}); err != nil {
		t.Fatal(err)
	}
	may := func() string {
		u := d.UserInfo("paul")
		if u == nil {
			return "no such user"
		}
		return fmt.Sprint(u.AuthorizeDatabase(influxql.ReadPrivilege, "db"),
			u.AuthorizeDatabase(influxql.WritePrivilege, "db"), u.AuthorizeUnrestricted())
	}
	for _, step := range []struct {
		action string
		role   wire.Role
		err    string
		may    string
	}{
		{"create", wire.Role{Name: "east"}, "", "false false false"},
		{"create", wire.Role{Name: "east"}, "already exists", "false false false"},
		{"create", wire.Role{}, "name required", "false false false"},
		{"add-users", wire.Role{Name: "west", Users: []string{"paul"}}, "role not found", "false false false"},
		{"add-users", wire.Role{Name: "east", Users: []string{"nobody"}}, "user not found", "false false false"},
		{"add-users", wire.Role{Name: "east", Users: []string{"paul", "paul"}}, "", "false false false"},
		{
			"add-permissions", wire.Role{Name: "east", Permissions: map[string][]string{"nix": {"ReadData"}}},
			"database not found: nix", "false false false",
		},
		{
			"add-permissions", wire.Role{Name: "east", Permissions: map[string][]string{"db": {"ReadData"}}}, "",
			"true false false",
		},
		{
			"add-permissions", wire.Role{Name: "east", Permissions: map[string][]string{"db": {"WriteData"}}}, "",
			"true true false",
		},
		{
			"remove-permissions", wire.Role{Name: "east", Permissions: map[string][]string{"db": {"ReadData"}}}, "",
			"false true false",
		},
		{
			"add-permissions", wire.Role{Name: "east", Permissions: map[string][]string{"": {"CreateUserAndRole"}}}, "",
			"false true false",
		},
		{
			"add-permissions", wire.Role{Name: "east",
				Permissions: map[string][]string{"": cluster.AllPermissions.Names()}},
			"", "true true true",
		},
		{"change-name", wire.Role{Name: "east", NewName: "south"}, "", "true true true"},
		{"fly", wire.Role{Name: "south"}, "unknown", "true true true"},
		{"remove-users", wire.Role{Name: "south", Users: []string{"paul"}}, "", "false false false"},
		{"add-users", wire.Role{Name: "south", Users: []string{"paul"}}, "", "true true true"},
		{"delete", wire.Role{Name: "south"}, "", "false false false"},
	} {
		err := server.ChangeRole(m.Server, step.action, step.role)
		if (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("%s %+v: %v, want %q", step.action, step.role, err, step.err)
		}
		if !metatest.Until(t, func() bool { return may() == step.may }) {
			t.Errorf("after %s %+v: %s, want %s", step.action, step.role, may(), step.may)
		}
	}
	if err := errors.Join(server.ChangeRole(m.Server, "create", wire.Role{Name: "r"}),
		server.ChangeRole(m.Server, "add-users", wire.Role{Name: "r", Users: []string{"paul"}}),
		server.ChangeUser(m.Server, "delete", wire.User{Name: "paul"})); err != nil {
		t.Fatal(err)
	}
	if code, body := metatest.Call(t, "GET", "http://"+m.HTTPAddr()+"/role"); code != 200 ||
		body != `{"roles":[{"name":"r"}]}`+"\n" {
		t.Errorf("GET /role: %d %s", code, body)
	}
	m.Stop()
	m.Start(t)
	if _, ok := m.State().Role("r"); !ok {
		t.Error("the role is lost by a restart")
	}
}
