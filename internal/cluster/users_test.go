package cluster

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxql"
	"pgregory.net/rapid"
)

// withUsers is a state with users and databases, and nothing granted.
func withUsers(t fataler) *State {
	s := withNodes(t, 1)
	for _, db := range []string{"db1", "db2"} {
		mustApply(t, s, CreateDatabase{Name: db})
	}
	for _, u := range []string{"ann", "bob", "eve"} {
		mustApply(t, s, CreateUser{Name: u, Hash: "h"})
	}
	return s
}

func TestUsersAndRolesAreCreatedWithAllThatTheyHave(t *testing.T) {
	t.Parallel()
	s := withUsers(t)
	g := Grants{"": Monitor, "db1": ReadData | DropData}
	mustApply(t, s, CreateUser{Name: "max", Hash: "h", Grants: g})
	mustApply(t, s, CreateRole{Name: "r", Users: []string{"bob", "ann", "bob"}, Grants: g})
	if d := cmp.Diff(g, s.UserGrants("max")); d != "" {
		t.Errorf("the user: %s", d)
	}
	role, _ := s.Role("r")
	if d := cmp.Diff(g, role.Grants()); d != "" {
		t.Errorf("the role: %s", d)
	}
	if d := cmp.Diff([]string{"ann", "bob"}, role.Users); d != "" {
		t.Errorf("users of the role: %s", d)
	}
	if u := s.User("bob"); !u.Grants.Has(DropData, "db1") || u.Grants.Has(DropData, "db2") ||
		u.Grants.Has(WriteData, "db1") {
		t.Errorf("a user of the role has %v", u.Grants)
	}
}

// A change with one part that cannot be done does nothing.
func TestChangeOfUsersAndRolesIsDoneWhollyOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := withUsers(t)
	mustApply(t, s, CreateRole{Name: "r", Users: []string{"ann"}})
	mustApply(t, s, CreateRole{Name: "other"})
	for _, tc := range []struct {
		op   Op
		want string
	}{
		{CreateUser{Name: "max", Hash: "h", Grants: Grants{"nix": ReadData}}, "database not found: nix"},
		{CreateUser{Name: "max", Hash: "h", Grants: Grants{"db1": Monitor}}, "cannot be given for one database"},
		{CreateRole{Name: "new", Users: []string{"ann", "nobody"}}, `user not found: "nobody"`},
		{CreateRole{Name: "new", Grants: Grants{"nix": ReadData}}, "database not found: nix"},
		{CreateRole{Name: "r"}, "already exists"},
		{CreateRole{}, "role name required"},
		{ChangeRole{Name: "nix", AddUsers: []string{"ann"}}, "role not found"},
		{ChangeRole{Name: "r", AddUsers: []string{"bob", "nobody"}}, `user not found: "nobody"`},
		{ChangeRole{Name: "r", AddUsers: []string{"bob"}, Add: Grants{"db1": CopyShard}}, "cannot be given"},
		{ChangeRole{Name: "r", RemoveUsers: []string{"ann"}, Add: Grants{"nix": ReadData}}, "database not found: nix"},
		{RenameRole{Name: "nix", NewName: "x"}, "role not found"},
		{RenameRole{Name: "r", NewName: "other"}, "already exists"},
		{RenameRole{Name: "r"}, "role name required"},
	} {
		before := s.Clone()
		c, err := NewCommand(tc.op)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(s.Index+1, c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.op, err, tc.want)
		}
		if d := cmp.Diff(before, s, equalStates); d != "" {
			t.Errorf("%+v changed the state: %s", tc.op, d)
		}
	}
}

// Random changes of a role, and the same in maps.
func TestRoleIsWhatItsChangesAddUpTo(t *testing.T) {
	t.Parallel()
	names, databases := []string{"ann", "bob", "eve"}, []string{"", "db1", "db2"}
	rapid.Check(t, func(t *rapid.T) {
		s := withUsers(t)
		mustApply(t, s, CreateRole{Name: "role"})
		name, users, grants := "role", map[string]bool{}, map[string]Permissions{}
		some := rapid.SliceOfN(rapid.SampledFrom(names), 0, 3)
		permissions := func(what string) Grants {
			g := Grants{}
			for _, db := range rapid.SliceOfN(rapid.SampledFrom(databases), 0, 2).Draw(t, what+" for") {
				p := Permissions(rapid.Uint32Range(1, uint32(AllPermissions)).Draw(t, what))
				if db != "" {
					p &= DatabasePermissions
				}
				g[db] = p
			}
			return g
		}
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			if rapid.IntRange(0, 4).Draw(t, "rename") == 0 {
				to := rapid.SampledFrom([]string{"role", "renamed"}).Draw(t, "to")
				mustApply(t, s, RenameRole{Name: name, NewName: to})
				name = to
			}
			o := ChangeRole{
				Name: name, AddUsers: some.Draw(t, "add"), RemoveUsers: some.Draw(t, "remove"),
				Add: permissions("add"), Remove: permissions("remove"),
			}
			mustApply(t, s, o)
			for _, u := range o.AddUsers {
				users[u] = true
			}
			for _, u := range o.RemoveUsers {
				delete(users, u)
			}
			for _, db := range databases {
				grants[db] = (grants[db] | o.Add[db]) &^ o.Remove[db]
			}
		}
		role, ok := s.Role(name)
		if !ok || len(s.Roles) != 1 {
			t.Fatalf("roles: %+v", s.Roles)
		}
		if want := slices.Sorted(maps.Keys(users)); !slices.Equal(role.Users, want) {
			t.Fatalf("users %v, want %v", role.Users, want)
		}
		for _, db := range databases {
			if got := role.Grants()[db]; got != grants[db] {
				t.Fatalf("permissions for %q: %v, want %v", db, got, grants[db])
			}
		}
	})
}

// What a role or a user has for one database is worth nothing elsewhere, and goes with the database.
func TestGrantForOneDatabase(t *testing.T) {
	t.Parallel()
	for p := Permissions(1); p <= AllPermissions; p <<= 1 {
		if p&DatabasePermissions == 0 {
			continue
		}
		s := withUsers(t)
		mustApply(t, s, ChangeGrants{User: "ann", Add: Grants{"db1": p}})
		mustApply(t, s, CreateRole{Name: "r", Users: []string{"bob"}, Grants: Grants{"db1": p}})
		for _, name := range []string{"ann", "bob"} {
			u := s.User(name)
			for q := Permissions(1); q <= AllPermissions; q <<= 1 {
				if got := u.Grants.Has(q, "db1"); got != (p == q) {
					t.Errorf("%s with %s may %s in its database: %t", name, p, q, got)
				}
				if u.Grants.Has(q, "db2") || u.Grants.Has(q, "") {
					t.Errorf("%s with %s may %s elsewhere", name, p, q)
				}
			}
			if u.AuthorizeUnrestricted() || s.AdminExists() {
				t.Errorf("%s makes an administrator", p)
			}
		}
		mustApply(t, s, DropDatabase{Name: "db1"})
		mustApply(t, s, CreateDatabase{Name: "db1"})
		for _, name := range []string{"ann", "bob"} {
			if s.User(name).Grants.Has(p, "db1") {
				t.Errorf("%s has %s for a new database of the name", name, p)
			}
		}
	}
}

// The files in testdata were made by a build that had no permissions but those of the engine.
func TestUsersOfAnEarlierVersionAreRead(t *testing.T) {
	t.Parallel()
	replayed := NewState()
	log, err := os.ReadFile("testdata/users-before-permissions.log")
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(bytes.NewReader(log)); dec.More(); {
		var c Command
		if err := dec.Decode(&c); err != nil {
			t.Fatal(err)
		}
		if _, err := replayed.Apply(replayed.Index+1, c); err != nil {
			t.Fatalf("%s %s: %v", c.Type, c.Args, err)
		}
	}
	b, err := os.ReadFile("testdata/users-before-permissions.state")
	if err != nil {
		t.Fatal(err)
	}
	read := NewState()
	if err := read.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(read, replayed, equalStates); d != "" {
		t.Errorf("the log and the snapshot differ: %s", d)
	}
	for name, want := range map[string]Grants{
		"root": {"": AllPermissions},
		"paul": {"telegraf": ReadData | WriteData, "ops": ReadData},
		"ann":  {"": AllPermissions, "ops": ReadData},
	} {
		if d := cmp.Diff(want, read.User(name).Grants); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	// Roles that were read can be changed.
	mustApply(t, read, ChangeRole{Name: "readers", RemoveUsers: []string{"ann"}, Add: Grants{"ops": WriteData}})
	mustApply(t, read, ChangeRole{Name: "admins", Remove: Grants{"": CopyShard}})
	role, _ := read.Role("readers")
	if !slices.Equal(role.Users, []string{"paul"}) || role.Privileges["ops"] != influxql.AllPrivileges {
		t.Errorf("the role is %+v", role)
	}
	if u := read.User("ann"); u.AuthorizeUnrestricted() || !u.Grants.Has(ManageShard, "") {
		t.Errorf("one who may do all but one thing has %v", u.Grants)
	}
	b, err = read.MarshalBinary()
	if err != nil || b[len(magic)] != ruled {
		t.Errorf("a state with permissions of a role is of version %d, %v", b[len(magic)], err)
	}
}
