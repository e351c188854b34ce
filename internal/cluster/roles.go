package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
)

// Role gives its users privileges besides their own.
type Role struct {
	Name       string                        `json:"name"`
	Users      []string                      `json:"users,omitempty"` // sorted
	Admin      bool                          `json:"admin,omitempty"`
	Privileges map[string]influxql.Privilege `json:"privileges,omitempty"` // by database
}

// User returns a user with the privileges of its roles, as a copy; nil when there is none.
func (s *State) User(name string) *meta.UserInfo {
	info, _ := s.Data.User(name).(*meta.UserInfo)
	if info == nil {
		return nil
	}
	u := *info
	u.Privileges = maps.Clone(info.Privileges)
	for _, r := range s.Roles {
		if !slices.Contains(r.Users, name) {
			continue
		}
		r.giveTo(&u)
	}
	return &u
}

// MayRead reports whether a user may read a database. Without authentication there is no user, and everybody may.
func MayRead(user meta.User, database string) bool {
	if user == nil {
		return true
	}
	info, ok := user.(*meta.UserInfo)
	return ok && info.AuthorizeDatabase(influxql.ReadPrivilege, database)
}

func union(a, b influxql.Privilege) influxql.Privilege {
	switch {
	case a == b || b == influxql.NoPrivileges:
		return a
	case a == influxql.NoPrivileges:
		return b
	}
	return influxql.AllPrivileges
}

// Role returns a role by its name.
func (s *State) Role(name string) (Role, bool) {
	if i := s.role(name); i >= 0 {
		return s.Roles[i], true
	}
	return Role{}, false
}

func (s *State) role(name string) int {
	return slices.IndexFunc(s.Roles, func(r Role) bool { return r.Name == name })
}

// ErrRoleNotFound is for a name that no role has.
var ErrRoleNotFound = errors.New("role not found")

// CreateRole adds a role without users and privileges.
type CreateRole struct {
	Name string `json:"name"`
}

func (o CreateRole) apply(s *State) (any, error) {
	if o.Name == "" {
		return nil, errors.New("role name required")
	} else if s.role(o.Name) >= 0 {
		return nil, fmt.Errorf("role %q already exists", o.Name)
	}
	s.Roles = append(slices.Clone(s.Roles), Role{Name: o.Name})
	slices.SortFunc(s.Roles, func(a, b Role) int { return compare(a.Name, b.Name) })
	return nil, nil
}

func compare(a, b string) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

// DropRole removes a role.
type DropRole struct {
	Name string `json:"name"`
}

func (o DropRole) apply(s *State) (any, error) {
	i := s.role(o.Name)
	if i < 0 {
		return nil, ErrRoleNotFound
	}
	s.Roles = slices.Delete(slices.Clone(s.Roles), i, i+1)
	return nil, nil
}

// SetRole replaces what a role has.
type SetRole struct {
	Name string `json:"name"`
	Role Role   `json:"role"` // Role.Name may be a new one
}

func (o SetRole) apply(s *State) (any, error) {
	i := s.role(o.Name)
	if i < 0 {
		return nil, ErrRoleNotFound
	}
	if o.Role.Name == "" {
		return nil, errors.New("role name required")
	} else if o.Role.Name != o.Name && s.role(o.Role.Name) >= 0 {
		return nil, fmt.Errorf("role %q already exists", o.Role.Name)
	}
	for _, u := range o.Role.Users {
		if s.Data.User(u) == nil {
			return nil, meta.ErrUserNotFound
		}
	}
	for db := range o.Role.Privileges {
		if s.Data.Database(db) == nil {
			return nil, meta.ErrDatabaseNotExists
		}
	}
	o.Role.Users = slices.Compact(slices.Sorted(slices.Values(o.Role.Users)))
	s.Roles = slices.Clone(s.Roles)
	s.Roles[i] = o.Role
	slices.SortFunc(s.Roles, func(a, b Role) int { return compare(a.Name, b.Name) })
	return nil, nil
}

// leaveRoles takes a dropped user out of all roles.
func (s *State) leaveRoles(user string) {
	s.Roles = slices.Clone(s.Roles)
	for i := range s.Roles {
		r := &s.Roles[i]
		r.Users = slices.DeleteFunc(slices.Clone(r.Users), func(u string) bool { return u == user })
	}
}
