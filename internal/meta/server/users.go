package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sort"

	emeta "github.com/influxdata/influxdb/services/meta"

	"concord/internal/cluster"
	"concord/internal/meta/passwordhash"
	"concord/internal/meta/wire"
)

// userRoutes are the routes of users and roles.
type userRoutes struct {
	state   func() *cluster.State
	execute func(cluster.Op) (any, error)
	hash    passwordhash.Kind // of new passwords
}

func (u *userRoutes) routes(r router) {
	need := needs(cluster.CreateUserAndRole)
	r.local("GET /user", need, u.serveUsers)
	r.leader("POST /user", need, u.serveChangeUser)
	r.local("GET /role", need, u.serveRoles)
	r.leader("POST /role", need, u.serveChangeRole)
}

func (u *userRoutes) serveUsers(w http.ResponseWriter, r *http.Request) {
	name, st := r.FormValue("name"), u.state()
	var users []wire.User
	for _, user := range st.Data.Users {
		if name == "" || user.Name == name {
			users = append(users, wire.User{Name: user.Name, Permissions: permissionNames(st.UserGrants(user.Name))})
		}
	}
	if name != "" && len(users) == 0 {
		replyCode(w, http.StatusNotFound, wire.Error{Error: emeta.ErrUserNotFound.Error()})
		return
	}
	sort.Slice(users, func(i, j int) bool { return users[i].Name < users[j].Name })
	Reply(w, wire.Users{Users: users}, nil)
}

func permissionNames(g cluster.Grants) map[string][]string {
	out := make(map[string][]string, len(g))
	for db, p := range g {
		out[db] = p.Names()
	}
	return out
}

// grantsOf are the named permissions.
func grantsOf(names map[string][]string) (cluster.Grants, error) {
	out := make(cluster.Grants, len(names))
	for db, names := range names {
		p, err := cluster.ParsePermissions(names)
		if err != nil {
			return nil, err
		}
		if p != 0 {
			out[db] = p
		}
	}
	return out, nil
}

func (u *userRoutes) serveChangeUser(w http.ResponseWriter, r *http.Request) {
	var body wire.ChangeUser
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		Reply(w, nil, fmt.Errorf("body: must be JSON with action and user: %w", err))
		return
	}
	Reply(w, struct{}{}, u.changeUser(body.Action, body.User))
}

func (u *userRoutes) changeUser(action string, user wire.User) error {
	if user.Name == "" {
		return emeta.ErrUsernameRequired
	}
	do := func(op cluster.Op) error { _, err := u.execute(op); return err }
	switch action {
	case "create":
		hash, err := u.hashOf(user)
		if err != nil {
			return err
		}
		return do(cluster.CreateUser{Name: user.Name, Hash: hash})
	case "change-password":
		hash, err := u.hashOf(user)
		if err != nil {
			return err
		}
		return do(cluster.UpdateUser{Name: user.Name, Hash: hash})
	case "delete":
		return do(cluster.DropUser{Name: user.Name})
	case "add-permissions", "remove-permissions":
		g, err := grantsOf(user.Permissions)
		if err != nil {
			return err
		}
		if action == "add-permissions" {
			return do(cluster.ChangeGrants{User: user.Name, Add: g})
		}
		return do(cluster.ChangeGrants{User: user.Name, Remove: g})
	}
	return fmt.Errorf("action %q is unknown: "+
		"create, delete, change-password, add-permissions or remove-permissions", action)
}

// hashOf is the hash that a request has, or that of its password.
func (u *userRoutes) hashOf(user wire.User) (string, error) {
	switch {
	case user.Hash != "" && user.Password != "":
		return "", errors.New("user: give a password or a hash, not both")
	case user.Hash != "":
		return user.Hash, passwordhash.Check(user.Hash)
	case user.Password == "":
		return "", errors.New("user: needs a password")
	}
	return u.hash.Of(user.Password)
}

func (u *userRoutes) serveRoles(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	var roles []wire.Role
	for _, role := range u.state().Roles {
		if name == "" || role.Name == name {
			names := permissionNames(role.Grants())
			roles = append(roles, wire.Role{Name: role.Name, Users: role.Users, Permissions: names})
		}
	}
	if name != "" && len(roles) == 0 {
		replyCode(w, http.StatusNotFound, wire.Error{Error: cluster.ErrRoleNotFound.Error()})
		return
	}
	Reply(w, wire.Roles{Roles: roles}, nil)
}

func (u *userRoutes) serveChangeRole(w http.ResponseWriter, r *http.Request) {
	var body wire.ChangeRole
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		Reply(w, nil, fmt.Errorf("body: must be JSON with action and role: %w", err))
		return
	}
	Reply(w, struct{}{}, u.changeRole(body.Action, body.Role))
}

func (u *userRoutes) changeRole(action string, b wire.Role) error {
	do := func(op cluster.Op) error { _, err := u.execute(op); return err }
	switch action {
	case "create":
		return do(cluster.CreateRole{Name: b.Name})
	case "delete":
		return do(cluster.DropRole{Name: b.Name})
	}
	role, ok := u.state().Role(b.Name)
	if !ok {
		return cluster.ErrRoleNotFound
	}
	role.Users = slices.Clone(role.Users)
	switch action {
	case "change-name":
		role.Name = b.NewName
	case "add-users":
		role.Users = append(role.Users, b.Users...)
	case "remove-users":
		role.Users = slices.DeleteFunc(role.Users, func(u string) bool { return slices.Contains(b.Users, u) })
	case "add-permissions", "remove-permissions":
		g, err := grantsOf(b.Permissions)
		if err != nil {
			return err
		}
		if action == "add-permissions" {
			role = role.Grant(g)
		} else {
			role = role.Revoke(g)
		}
	default:
		return fmt.Errorf("action %q is unknown: create, delete, change-name, add-users, remove-users, "+
			"add-permissions or remove-permissions", action)
	}
	return do(cluster.SetRole{Name: b.Name, Role: role})
}
