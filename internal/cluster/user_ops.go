package cluster

import (
	"github.com/influxdata/influxdb"
	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
)

// CreateUser adds a user. Hash is that of the password, as package meta/password makes it.
type CreateUser struct {
	Name  string `json:"name"`
	Hash  string `json:"hash"`
	Admin bool   `json:"admin"`
}

func (o CreateUser) apply(s *State) (any, error) {
	return nil, s.Data.CreateUser(o.Name, o.Hash, o.Admin)
}

// UpdateUser gives a user the hash of another password.
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
	s.setRest(o.Name, nil)
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

// SetAdminPrivilege makes a user an administrator, or takes away all that it may do in the whole cluster.
type SetAdminPrivilege struct {
	User  string `json:"user"`
	Admin bool   `json:"admin"`
}

func (o SetAdminPrivilege) apply(s *State) (any, error) {
	if err := s.Data.SetAdminPrivilege(o.User, o.Admin); err != nil {
		return nil, err
	}
	s.setRest(o.User, s.Grants[o.User].without(""))
	return nil, nil
}

// ChangeGrants gives a user permissions, and takes others away. All of it is done, or nothing.
type ChangeGrants struct {
	User   string `json:"user"`
	Add    Grants `json:"add,omitempty"`
	Remove Grants `json:"remove,omitempty"`
}

func (o ChangeGrants) apply(s *State) (any, error) {
	if s.Data.User(o.User) == nil {
		return nil, meta.ErrUserNotFound
	}
	if err := o.Add.check(); err != nil {
		return nil, err
	} else if db := o.Add.missing(s); db != "" {
		return nil, influxdb.ErrDatabaseNotFound(db)
	}
	before := s.UserGrants(o.User)
	admin, privileges, rest := before.Add(o.Add).Remove(o.Remove).split()
	if err := s.Data.SetAdminPrivilege(o.User, admin); err != nil {
		return nil, err
	}
	for db := range before.Add(o.Add) {
		if db == "" {
			continue
		}
		if err := s.Data.SetPrivilege(o.User, db, privileges[db]); err != nil {
			return nil, err
		}
	}
	s.setRest(o.User, rest)
	return nil, nil
}
