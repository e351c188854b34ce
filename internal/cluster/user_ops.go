package cluster

import (
	"fmt"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
)

// CreateUser adds a user. Hash is that of the password, as package meta/passwordhash makes it.
type CreateUser struct {
	Name   string `json:"name"`
	Hash   string `json:"hash"`
	Admin  bool   `json:"admin"`
	Grants Grants `json:"grants,omitempty"` // besides those of an administrator; none in logs of earlier versions
}

func (o CreateUser) apply(s *State) (any, error) {
	if err := s.Data.CreateUser(o.Name, o.Hash, o.Admin); err != nil || len(o.Grants) == 0 {
		return nil, err
	}
	return ChangeGrants{User: o.Name, Add: o.Grants}.apply(s)
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

// checkUsers returns an error for the first user that does not exist.
func (s *State) checkUsers(names ...string) error {
	for _, name := range names {
		if s.Data.User(name) == nil {
			return fmt.Errorf("%w: %q", meta.ErrUserNotFound, name)
		}
	}
	return nil
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
	if err := s.checkGrants(o.Add); err != nil {
		return nil, err
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
