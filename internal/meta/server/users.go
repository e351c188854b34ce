package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"

	emeta "github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
	"golang.org/x/crypto/bcrypt"

	"concord/internal/cluster"
	"concord/internal/meta/wire"
)

// Permissions as InfluxDB Enterprise names them. The metadata knows
// administrators, and reading and writing of one database.
const (
	readData  = "ReadData"
	writeData = "WriteData"
)

// adminPermissions are what an administrator has under the database "".
var adminPermissions = []string{
	"ViewAdmin", "ViewChronograf", "CreateDatabase", "CreateUserAndRole", "AddRemoveNode", "DropDatabase", "DropData",
	readData, writeData, "Rebalance", "ManageShard", "ManageContinuousQuery", "ManageQuery", "ManageSubscription",
	"Monitor", "CopyShard", "KapacitorAPI", "KapacitorConfigAPI",
}

// adminPermission makes an administrator.
const adminPermission = "CreateUserAndRole"

// userRoutes are the routes of users and roles.
type userRoutes struct {
	state   func() *cluster.State
	execute func(cluster.Op) (any, error)
}

func (u *userRoutes) routes(r router) {
	r.local("GET /user", admin, u.serveUsers)
	r.leader("POST /user", admin, u.serveChangeUser)
	r.local("GET /role", admin, u.serveRoles)
	r.leader("POST /role", admin, u.serveChangeRole)
}

func (u *userRoutes) serveUsers(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	users := []wire.User{}
	for _, user := range u.state().Data.Users {
		if name == "" || user.Name == name {
			users = append(users, wire.User{Name: user.Name, Permissions: permissions(user.Admin, user.Privileges)})
		}
	}
	if name != "" && len(users) == 0 {
		replyCode(w, http.StatusNotFound, wire.Error{Error: emeta.ErrUserNotFound.Error()})
		return
	}
	sort.Slice(users, func(i, j int) bool { return users[i].Name < users[j].Name })
	Reply(w, map[string][]wire.User{"users": users}, nil)
}

// permissions are the names of what a user or a role may do, by database.
func permissions(admin bool, privileges map[string]influxql.Privilege) map[string][]string {
	out := map[string][]string{}
	if admin {
		out[""] = adminPermissions
	}
	for db, p := range privileges {
		switch p {
		case influxql.ReadPrivilege:
			out[db] = []string{readData}
		case influxql.WritePrivilege:
			out[db] = []string{writeData}
		case influxql.AllPrivileges:
			out[db] = []string{readData, writeData}
		}
	}
	return out
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
	case "create", "change-password":
		if user.Password == "" {
			return errors.New("user: needs a password")
		}
		hash, err := bcrypt.GenerateFromPassword([]byte(user.Password), bcrypt.DefaultCost)
		if err != nil {
			return err
		}
		if action == "create" {
			return do(cluster.CreateUser{Name: user.Name, Hash: string(hash)})
		}
		return do(cluster.UpdateUser{Name: user.Name, Hash: string(hash)})
	case "delete":
		return do(cluster.DropUser{Name: user.Name})
	case "add-permissions", "remove-permissions":
		return u.changePermissions(user, action == "add-permissions", do)
	}
	return fmt.Errorf("action %q is unknown: "+
		"create, delete, change-password, add-permissions or remove-permissions", action)
}

func (u *userRoutes) changePermissions(user wire.User, add bool, do func(cluster.Op) error) error {
	info, _ := u.state().Data.User(user.Name).(*emeta.UserInfo)
	if info == nil {
		return emeta.ErrUserNotFound
	}
	admin, privileges := info.Admin, maps.Clone(info.Privileges)
	if privileges == nil {
		privileges = map[string]influxql.Privilege{}
	}
	if err := changePrivileges(&admin, privileges, user.Permissions, add); err != nil {
		return err
	}
	if admin != info.Admin {
		if err := do(cluster.SetAdminPrivilege{User: user.Name, Admin: admin}); err != nil {
			return err
		}
	}
	for db := range user.Permissions {
		if db == "" {
			continue
		}
		if err := do(cluster.SetPrivilege{User: user.Name, Database: db, Privilege: privileges[db]}); err != nil {
			return err
		}
	}
	return nil
}

// changePrivileges adds named permissions to privileges, or takes them away.
func changePrivileges(
	admin *bool, privileges map[string]influxql.Privilege, names map[string][]string, add bool,
) error {
	for db, names := range names {
		if db == "" {
			if !slices.Contains(names, adminPermission) {
				return fmt.Errorf("permissions without a database are those of an administrator: they need %s",
					adminPermission)
			}
			*admin = add
			continue
		}
		p := privileges[db]
		have := map[string]bool{
			readData:  p == influxql.ReadPrivilege || p == influxql.AllPrivileges,
			writeData: p == influxql.WritePrivilege || p == influxql.AllPrivileges,
		}
		for _, n := range names {
			if _, known := have[n]; !known {
				return fmt.Errorf("permission %q of a database is unknown: %s or %s", n, readData, writeData)
			}
			have[n] = add
		}
		switch {
		case have[readData] && have[writeData]:
			privileges[db] = influxql.AllPrivileges
		case have[readData]:
			privileges[db] = influxql.ReadPrivilege
		case have[writeData]:
			privileges[db] = influxql.WritePrivilege
		default:
			privileges[db] = influxql.NoPrivileges
		}
	}
	return nil
}

func (u *userRoutes) serveRoles(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	roles := []wire.Role{}
	for _, role := range u.state().Roles {
		if name == "" || role.Name == name {
			names := permissions(role.Admin, role.Privileges)
			roles = append(roles, wire.Role{Name: role.Name, Users: role.Users, Permissions: names})
		}
	}
	if name != "" && len(roles) == 0 {
		replyCode(w, http.StatusNotFound, wire.Error{Error: cluster.ErrRoleNotFound.Error()})
		return
	}
	Reply(w, map[string][]wire.Role{"roles": roles}, nil)
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
	role.Users, role.Privileges = slices.Clone(role.Users), maps.Clone(role.Privileges)
	if role.Privileges == nil {
		role.Privileges = map[string]influxql.Privilege{}
	}
	switch action {
	case "change-name":
		role.Name = b.NewName
	case "add-users":
		role.Users = append(role.Users, b.Users...)
	case "remove-users":
		role.Users = slices.DeleteFunc(role.Users, func(u string) bool { return slices.Contains(b.Users, u) })
	case "add-permissions", "remove-permissions":
		if err := changePrivileges(&role.Admin, role.Privileges, b.Permissions, action == "add-permissions"); err != nil {
			return err
		}
	default:
		return fmt.Errorf("action %q is unknown: create, delete, change-name, add-users, remove-users, "+
			"add-permissions or remove-permissions", action)
	}
	return do(cluster.SetRole{Name: b.Name, Role: role})
}
