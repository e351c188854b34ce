package cluster

import (
	"errors"
	"fmt"
	"slices"

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

// CreateRole adds a role. Logs of earlier versions have neither users nor grants in it.
type CreateRole struct {
	Name   string   `json:"name"`
	Users  []string `json:"users,omitempty"`
	Grants Grants   `json:"grants,omitempty"`
}

func (o CreateRole) apply(s *State) (any, error) {
	if err := s.checkRoleName(o.Name); err != nil {
		return nil, err
	}
	s.Roles = append(slices.Clone(s.Roles), Role{Name: o.Name})
	return ChangeRole{Name: o.Name, AddUsers: o.Users, Add: o.Grants}.apply(s)
}

// checkRoleName returns why a role cannot get a name.
func (s *State) checkRoleName(name string) error {
	if name == "" {
		return errors.New("role name required")
	} else if s.role(name) >= 0 {
		return fmt.Errorf("role %q already exists", name)
	}
	return nil
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

// RenameRole gives a role another name.
type RenameRole struct {
	Name    string `json:"name"`
	NewName string `json:"new-name"`
}

func (o RenameRole) apply(s *State) (any, error) {
	i := s.role(o.Name)
	if i < 0 {
		return nil, ErrRoleNotFound
	}
	if o.NewName == o.Name {
		return nil, nil
	}
	if err := s.checkRoleName(o.NewName); err != nil {
		return nil, err
	}
	r := s.Roles[i]
	r.Name = o.NewName
	s.replaceRole(i, r)
	return nil, nil
}

// ChangeRole gives a role users and permissions, and takes others away. All of it is done, or nothing. Two changes at
// once both stay: a change names what it adds and removes, not what the role then has.
type ChangeRole struct {
	Name        string   `json:"name"`
	AddUsers    []string `json:"add-users,omitempty"`
	RemoveUsers []string `json:"remove-users,omitempty"`
	Add         Grants   `json:"add,omitempty"`
	Remove      Grants   `json:"remove,omitempty"`
}

func (o ChangeRole) apply(s *State) (any, error) {
	i := s.role(o.Name)
	if i < 0 {
		return nil, ErrRoleNotFound
	}
	if err := s.checkUsers(o.AddUsers...); err != nil {
		return nil, err
	}
	if err := s.checkGrants(o.Add); err != nil {
		return nil, err
	}
	r := s.Roles[i].with(s.Roles[i].Grants().Add(o.Add).Remove(o.Remove))
	r.Users = slices.DeleteFunc(slices.Concat(r.Users, o.AddUsers), func(u string) bool {
		return slices.Contains(o.RemoveUsers, u)
	})
	s.replaceRole(i, r)
	return nil, nil
}

// SetRole replaces all that a role has. Logs of earlier versions have it.
type SetRole struct {
	Name string `json:"name"`
	Role Role   `json:"role"` // Role.Name may be a new one
}

func (o SetRole) apply(s *State) (any, error) {
	i := s.role(o.Name)
	if i < 0 {
		return nil, ErrRoleNotFound
	}
	if o.Role.Name != o.Name {
		if err := s.checkRoleName(o.Role.Name); err != nil {
			return nil, err
		}
	}
	if err := s.checkUsers(o.Role.Users...); err != nil {
		return nil, err
	}
	if err := s.checkGrants(o.Role.Grants()); err != nil {
		return nil, err
	}
	s.replaceRole(i, o.Role)
	return nil, nil
}

// replaceRole puts a role, which may have another name, in the place of the one at i.
func (s *State) replaceRole(i int, r Role) {
	r.Users = slices.Compact(slices.Sorted(slices.Values(r.Users)))
	s.renameGrants(s.Roles[i].Name, r.Name)
	s.Roles = slices.Clone(s.Roles)
	s.Roles[i] = r
	slices.SortFunc(s.Roles, func(a, b Role) int { return compare(a.Name, b.Name) })
}

// leaveRoles takes a dropped user out of all roles.
func (s *State) leaveRoles(user string) {
	s.Roles = slices.Clone(s.Roles)
	for i := range s.Roles {
		r := &s.Roles[i]
		r.Users = slices.DeleteFunc(slices.Clone(r.Users), func(u string) bool { return u == user })
	}
}
