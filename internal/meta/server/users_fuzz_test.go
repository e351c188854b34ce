package server

import (
	"encoding/json"
	"testing"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// FuzzUsersAndRoles takes any text for the body of POST /user and of POST /role. What is refused changes nothing, and
// what is done can be read back from a snapshot.
func FuzzUsersAndRoles(f *testing.F) {
	for _, body := range []string{
		`{"action":"create","user":{"name":"u","hash":"x","permissions":{"db":["ReadData"]}}}`,
		`{"action":"create","role":{"name":"r","users":["ann"],"permissions":{"":["Monitor","NoPermissions"]}}}`,
		`{"action":"add-users","role":{"name":"role","users":["ann","ann","nobody"]}}`,
		`{"action":"remove-permissions","role":{"name":"role","permissions":{"db":null,"nix":["ReadData"]}}}`,
		`{"action":"change-name","role":{"name":"role","newName":"role"}}`,
		`{"action":"delete","user":{"name":"ann"}}`,
		`{"action":"add-permissions","user":{"name":"ann","permissions":{"db":["CopyShard"]}}}`, `{}`, `[`,
	} {
		f.Add([]byte(body))
	}
	start := cluster.NewState()
	apply := func(s *cluster.State, op cluster.Op) error {
		c, err := cluster.NewCommand(op)
		if err == nil {
			_, err = s.Apply(s.Index+1, c)
		}
		return err
	}
	for _, op := range []cluster.Op{
		cluster.CreateDatabase{Name: "db"}, cluster.CreateUser{Name: "ann", Hash: "h"},
		cluster.CreateRole{Name: "role", Users: []string{"ann"}, Grants: cluster.Grants{"db": cluster.ReadData}},
	} {
		if err := apply(start, op); err != nil {
			f.Fatal(err)
		}
	}
	encoded := func(t *testing.T, s *cluster.State) string {
		b, err := s.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		s := start.Clone()
		before := encoded(t, s)
		routes := &userRoutes{state: func() *cluster.State { return s }, execute: func(op cluster.Op) (any, error) {
			return nil, apply(s, op)
		}}
		var user wire.ChangeUser
		var role wire.ChangeRole
		check := func(err error) {
			after := encoded(t, s)
			if err != nil && after != before {
				t.Errorf("%q is refused with %v, and changes the state", body, err)
			}
			if err := cluster.NewState().UnmarshalBinary([]byte(after)); err != nil {
				t.Error(err)
			}
			before = after
		}
		if json.Unmarshal(body, &user) == nil && user.User.Password == "" { // to hash one takes long
			check(routes.changeUser(user.Action, user.User))
		}
		if json.Unmarshal(body, &role) == nil {
			check(routes.changeRole(role.Action, role.Role))
		}
	})
}
