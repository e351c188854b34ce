package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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
	op, err := u.userOp(action, user)
	if err == nil {
		_, err = u.execute(op)
	}
	return err
}

// userOp is what a POST /user asks for.
func (u *userRoutes) userOp(action string, user wire.User) (cluster.Op, error) {
	if user.Name == "" {
		return nil, emeta.ErrUsernameRequired
	}
	g, err := grantsOf(user.Permissions)
	if err != nil {
		return nil, err
	}
	switch action {
	case "create":
		hash, err := u.hashOf(user)
		return cluster.CreateUser{Name: user.Name, Hash: hash, Grants: g}, err
	case "change-password":
		hash, err := u.hashOf(user)
		return cluster.UpdateUser{Name: user.Name, Hash: hash}, err
	case "delete":
		return cluster.DropUser{Name: user.Name}, nil
	case "add-permissions":
		return cluster.ChangeGrants{User: user.Name, Add: g}, nil
	case "remove-permissions":
		return cluster.ChangeGrants{User: user.Name, Remove: g}, nil
	}
	return nil, fmt.Errorf("action %q is unknown: "+
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

func (u *userRoutes) changeRole(action string, role wire.Role) error {
	op, err := roleOp(action, role)
	if err == nil {
		_, err = u.execute(op)
	}
	return err
}

// roleOp is what a POST /role asks for.
func roleOp(action string, role wire.Role) (cluster.Op, error) {
	g, err := grantsOf(role.Permissions)
	if err != nil {
		return nil, err
	}
	switch action {
	case "create":
		return cluster.CreateRole{Name: role.Name, Users: role.Users, Grants: g}, nil
	case "delete":
		return cluster.DropRole{Name: role.Name}, nil
	case "change-name":
		return cluster.RenameRole{Name: role.Name, NewName: role.NewName}, nil
	case "add-users":
		return cluster.ChangeRole{Name: role.Name, AddUsers: role.Users}, nil
	case "remove-users":
		return cluster.ChangeRole{Name: role.Name, RemoveUsers: role.Users}, nil
	case "add-permissions":
		return cluster.ChangeRole{Name: role.Name, Add: g}, nil
	case "remove-permissions":
		return cluster.ChangeRole{Name: role.Name, Remove: g}, nil
	}
	return nil, fmt.Errorf("action %q is unknown: create, delete, change-name, add-users, remove-users, "+
		"add-permissions or remove-permissions", action)
}
