package cluster

import (
	"errors"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
)

// Role gives its users grants besides their own.
type Role struct {
	Name       string                        `json:"name"`
	Users      []string                      `json:"users,omitempty"` // sorted
	Admin      bool                          `json:"admin,omitempty"`
	Privileges map[string]influxql.Privilege `json:"privileges,omitempty"` // by database
	// Permissions are those that Admin and Privileges do not say. Earlier versions had no others.
	Permissions Grants `json:"permissions,omitempty"`
}

// Grants are all that the role gives.
func (r Role) Grants() Grants { return grantsOf(r.Admin, r.Privileges, r.Permissions) }

// with is the role with other grants.
func (r Role) with(g Grants) Role {
	r.Admin, r.Privileges, r.Permissions = g.split()
	return r
}

// Grant returns the role with more grants.
func (r Role) Grant(g Grants) Role { return r.with(r.Grants().Add(g)) }

// Revoke returns the role with less grants.
func (r Role) Revoke(g Grants) Role { return r.with(r.Grants().Remove(g)) }

func (r Role) has(user string) bool { return slices.Contains(r.Users, user) }

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
	s.leaveGrants("", o.Name)
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
	if err := o.Role.Grants().check(); err != nil {
		return nil, err
	} else if o.Role.Grants().missing(s) != "" {
		return nil, meta.ErrDatabaseNotExists
	}
	o.Role.Users = slices.Compact(slices.Sorted(slices.Values(o.Role.Users)))
	s.Roles = slices.Clone(s.Roles)
	s.Roles[i] = o.Role
	s.renameGrants(o.Name, o.Role.Name)
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
