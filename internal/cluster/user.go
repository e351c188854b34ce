package cluster

import (
	"maps"

	"github.com/influxdata/influxdb/services/meta"
	"github.com/influxdata/influxql"
)

// User is a user with all that it may do.
type User struct {
	meta.UserInfo        // as the engine knows it, without its roles
	Grants        Grants // its own, and those of its roles

	// LDAP is true for a user that an LDAP server knows. It has Roles, and nothing of a user of the cluster of that
	// name.
	LDAP  bool
	Roles []string
}

var _ meta.User = (*User)(nil)

// Info is the user as the engine knows it, nil for none.
func (u *User) Info() *meta.UserInfo {
	if u == nil {
		return nil
	}
	return &u.UserInfo
}

// AuthorizeUnrestricted reports whether the user may do everything.
func (u *User) AuthorizeUnrestricted() bool { return u.Grants.Has(ClusterPermissions, "") }

// AuthorizeDatabase reports whether the user may read or write a database.
func (u *User) AuthorizeDatabase(p influxql.Privilege, database string) bool {
	return u.Grants.Has(ofPrivilege(p), database)
}

// May reports whether a user has a permission for a database, or for the cluster if that is "". Without authentication
// there is no user, and everybody may.
func May(user meta.User, p Permissions, database string) bool {
	switch u := user.(type) {
	case nil:
		return true
	case *User:
		return u.Grants.Has(p, database)
	case *meta.UserInfo:
		return grantsOf(u.Admin, u.Privileges, nil).Has(p, database)
	}
	return false
}

// MayRead reports whether a user may read a database. Without authentication there is no user, and everybody may.
func MayRead(user meta.User, database string) bool { return May(user, ReadData, database) }

// AllUsers returns the users without those of LDAP. They are not to be changed.
func (s *State) AllUsers() []meta.UserInfo {
	if s == nil || s.Data == nil {
		return nil
	}
	return s.Data.Users
}

// User returns a user with all grants, as a copy; nil when there is none.
func (s *State) User(name string) *User {
	info, _ := s.Data.User(name).(*meta.UserInfo)
	if info == nil {
		return nil
	}
	u := User{UserInfo: *info, Grants: s.UserGrants(name)}
	u.Privileges = maps.Clone(info.Privileges)
	for _, r := range s.Roles {
		if r.has(name) {
			u.Grants = u.Grants.Add(r.Grants())
		}
	}
	return &u
}

// UserGrants are a user's own grants, without those of its roles.
func (s *State) UserGrants(name string) Grants {
	info, _ := s.Data.User(name).(*meta.UserInfo)
	if info == nil {
		return nil
	}
	return grantsOf(info.Admin, info.Privileges, s.Grants[name])
}

// AdminExists reports whether there is somebody who may do more than read and write single databases. Until then nodes
// with authentication let everybody in, so that the first administrator can be made.
func (s *State) AdminExists() bool {
	for i := range s.Data.Users {
		if s.Data.Users[i].Admin {
			return true
		}
	}
	for _, g := range s.Grants {
		if g[""] != 0 {
			return true
		}
	}
	for _, r := range s.Roles {
		if len(r.Users) > 0 && r.Grants()[""] != 0 {
			return true
		}
	}
	return false
}

// setRest sets what a user has besides what the engine knows.
func (s *State) setRest(user string, rest Grants) {
	s.Grants = maps.Clone(s.Grants)
	if len(rest) == 0 {
		delete(s.Grants, user)
		return
	}
	if s.Grants == nil {
		s.Grants = make(map[string]Grants)
	}
	s.Grants[user] = rest
}

// forgetDatabase takes away all that was granted for a database that is dropped: another one of that name is not the
// same.
func (s *State) forgetDatabase(name string) {
	for user, g := range s.Grants {
		if _, ok := g[name]; ok {
			s.setRest(user, g.without(name))
		}
	}
	for i, r := range s.Roles {
		if _, ok := r.Grants()[name]; ok {
			s.Roles = append([]Role(nil), s.Roles...)
			s.Roles[i] = r.with(r.Grants().without(name))
		}
	}
}
