package meta

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
)

// Permissions as InfluxDB Enterprise names them. The metadata knows
// administrators, and reading and writing of one database.
const (
	readData  = "ReadData"
	writeData = "WriteData"
)

// adminPermissions are what an administrator has under the database "".
var adminPermissions = []string{
	"ViewAdmin", "ViewChronograf", "CreateDatabase", "CreateUserAndRole", "AddRemoveNode", "DropDatabase", "DropData", readData, writeData,
	"Rebalance", "ManageShard", "ManageContinuousQuery", "ManageQuery", "ManageSubscription", "Monitor", "CopyShard", "KapacitorAPI", "KapacitorConfigAPI",
}

// adminPermission makes an administrator.
const adminPermission = "CreateUserAndRole"

// userBody is a user in the answer of GET /user and in POST /user. There is no hash in it.
type userBody struct {
	Name        string              `json:"name"`
	Password    string              `json:"password,omitempty"`
	Permissions map[string][]string `json:"permissions,omitempty"` // by database
}

func (s *Server) userRoutes(mux *http.ServeMux) {
	mux.Handle("GET /user", s.guard(admin, http.HandlerFunc(s.serveUsers)))
	mux.Handle("POST /user", s.guard(admin, s.toLeader(http.HandlerFunc(s.serveChangeUser))))
	mux.Handle("GET /role", s.guard(admin, http.HandlerFunc(s.serveRoles)))
	mux.Handle("POST /role", s.guard(admin, s.toLeader(http.HandlerFunc(s.serveChangeRole))))
}

func (s *Server) serveUsers(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	users := []userBody{}
	for _, u := range s.State().Data.Users {
		if name == "" || u.Name == name {
			users = append(users, userBody{Name: u.Name, Permissions: permissions(u.Admin, u.Privileges)})
		}
	}
	if name != "" && len(users) == 0 {
		replyCode(w, http.StatusNotFound, errorBody{emeta.ErrUserNotFound.Error()})
		return
	}
	sort.Slice(users, func(i, j int) bool { return users[i].Name < users[j].Name })
	reply(w, map[string][]userBody{"users": users}, nil)
}

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

func (s *Server) serveChangeUser(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Action string   `json:"action"`
		User   userBody `json:"user"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		reply(w, nil, fmt.Errorf("body: must be JSON with action and user: %w", err))
		return
	}
	reply(w, struct{}{}, s.changeUser(body.Action, body.User))
}

func (s *Server) changeUser(action string, u userBody) error {
	if u.Name == "" {
		return emeta.ErrUsernameRequired
	}
	do := func(op cluster.Op) error { _, err := s.Execute(op); return err }
	switch action {
	case "create", "change-password":
		if u.Password == "" {
			return errors.New("user: needs a password")
		}
		hash, err := bcrypt.GenerateFromPassword([]byte(u.Password), bcrypt.DefaultCost)
		if err != nil {
			return err
		}
		if action == "create" {
			return do(cluster.CreateUser{Name: u.Name, Hash: string(hash)})
		}
		return do(cluster.UpdateUser{Name: u.Name, Hash: string(hash)})
	case "delete":
		return do(cluster.DropUser{Name: u.Name})
	case "add-permissions", "remove-permissions":
		return s.changePermissions(u, action == "add-permissions", do)
	}
	return fmt.Errorf("action %q is unknown: create, delete, change-password, add-permissions or remove-permissions", action)
}

func (s *Server) changePermissions(u userBody, add bool, do func(cluster.Op) error) error {
	info, _ := s.State().Data.User(u.Name).(*emeta.UserInfo)
	if info == nil {
		return emeta.ErrUserNotFound
	}
	admin, privileges := info.Admin, maps.Clone(info.Privileges)
	if privileges == nil {
		privileges = map[string]influxql.Privilege{}
	}
	if err := changePrivileges(&admin, privileges, u.Permissions, add); err != nil {
		return err
	}
	if admin != info.Admin {
		if err := do(cluster.SetAdminPrivilege{User: u.Name, Admin: admin}); err != nil {
			return err
		}
	}
	for db := range u.Permissions {
		if db == "" {
			continue
		}
		if err := do(cluster.SetPrivilege{User: u.Name, Database: db, Privilege: privileges[db]}); err != nil {
			return err
		}
	}
	return nil
}

// changePrivileges adds named permissions to privileges, or takes them away.
func changePrivileges(admin *bool, privileges map[string]influxql.Privilege, names map[string][]string, add bool) error {
	for db, names := range names {
		if db == "" {
			if !slices.Contains(names, adminPermission) {
				return fmt.Errorf("permissions without a database are those of an administrator: they need %s", adminPermission)
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

// roleBody is a role in the answer of GET /role and in POST /role.
type roleBody struct {
	Name        string              `json:"name"`
	NewName     string              `json:"newName,omitempty"`
	Users       []string            `json:"users,omitempty"`
	Permissions map[string][]string `json:"permissions,omitempty"` // by database
}

func (s *Server) serveRoles(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name")
	roles := []roleBody{}
	for _, role := range s.State().Roles {
		if name == "" || role.Name == name {
			roles = append(roles, roleBody{Name: role.Name, Users: role.Users, Permissions: permissions(role.Admin, role.Privileges)})
		}
	}
	if name != "" && len(roles) == 0 {
		replyCode(w, http.StatusNotFound, errorBody{cluster.ErrRoleNotFound.Error()})
		return
	}
	reply(w, map[string][]roleBody{"roles": roles}, nil)
}

func (s *Server) serveChangeRole(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Action string   `json:"action"`
		Role   roleBody `json:"role"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		reply(w, nil, fmt.Errorf("body: must be JSON with action and role: %w", err))
		return
	}
	reply(w, struct{}{}, s.changeRole(body.Action, body.Role))
}

func (s *Server) changeRole(action string, b roleBody) error {
	do := func(op cluster.Op) error { _, err := s.Execute(op); return err }
	switch action {
	case "create":
		return do(cluster.CreateRole{Name: b.Name})
	case "delete":
		return do(cluster.DropRole{Name: b.Name})
	}
	role, ok := s.State().Role(b.Name)
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
		return fmt.Errorf("action %q is unknown: create, delete, change-name, add-users, remove-users, add-permissions or remove-permissions", action)
	}
	return do(cluster.SetRole{Name: b.Name, Role: role})
}
