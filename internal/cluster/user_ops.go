package cluster

import (
	"github.com/influxdata/influxql"
)

// CreateUser adds a user. Hash is the bcrypt hash of the password.
type CreateUser struct {
	Name  string `json:"name"`
	Hash  string `json:"hash"`
	Admin bool   `json:"admin"`
}

func (o CreateUser) apply(s *State) (any, error) {
	return nil, s.Data.CreateUser(o.Name, o.Hash, o.Admin)
}

// UpdateUser gives a user another bcrypt hash.
type UpdateUser struct {
	Name string `json:"name"`
	Hash string `json:"hash"`
}

func (o UpdateUser) apply(s *State) (any, error) { return nil, s.Data.UpdateUser(o.Name, o.Hash) }

// DropUser removes a user.
type DropUser struct {
	Name string `json:"name"`
}

func (o DropUser) apply(s *State) (any, error) {
	s.leaveRoles(o.Name)
	s.leaveGrants(o.Name, "")
	return nil, s.Data.DropUser(o.Name)
}

// SetPrivilege sets what a user may do with a database.
type SetPrivilege struct {
	User      string             `json:"user"`
	Database  string             `json:"database"`
	Privilege influxql.Privilege `json:"privilege"`
}

func (o SetPrivilege) apply(s *State) (any, error) {
	return nil, s.Data.SetPrivilege(o.User, o.Database, o.Privilege)
}

// SetAdminPrivilege makes a user an administrator, or no longer one.
type SetAdminPrivilege struct {
	User  string `json:"user"`
	Admin bool   `json:"admin"`
}

func (o SetAdminPrivilege) apply(s *State) (any, error) {
	return nil, s.Data.SetAdminPrivilege(o.User, o.Admin)
}
