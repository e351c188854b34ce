package cluster

import (
	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/ldap/ldapconfig"
)

// LDAP is the LDAP configuration of a cluster. It is never changed, only replaced.
type LDAP struct {
	Config *ldapconfig.Config `json:"config,omitempty"` // nil when none was set
	// Version grows when the configuration is set, and when nodes are to forget what LDAP servers told them.
	Version uint64 `json:"version"`
}

// LDAPConfig returns the LDAP configuration, nil when none was set.
func (s *State) LDAPConfig() *ldapconfig.Config {
	if s.LDAP == nil {
		return nil
	}
	return s.LDAP.Config
}

// LDAPOn reports whether LDAP decides who may log in.
func (s *State) LDAPOn() bool {
	c := s.LDAPConfig()
	return c != nil && c.Enabled
}

// UserOfRoles returns a user that an LDAP server knows, with the grants of roles. Roles that the cluster does not have
// give nothing.
func (s *State) UserOfRoles(name string, admin bool, roles []string) *User {
	u := &User{
		UserInfo: meta.UserInfo{Name: name, Admin: admin}, Grants: grantsOf(admin, nil, nil), LDAP: true, Roles: roles,
	}
	for _, name := range roles {
		if r, ok := s.Role(name); ok {
			u.Grants = u.Grants.Add(r.Grants())
		}
	}
	return u
}

// SetLDAP sets the LDAP configuration. It has been checked.
type SetLDAP struct {
	Config *ldapconfig.Config `json:"config"`
}

func (o SetLDAP) apply(s *State) (any, error) {
	s.LDAP = &LDAP{Config: o.Config, Version: s.ldapVersion() + 1}
	return nil, nil
}

// PurgeLDAP makes all nodes forget what LDAP servers told them.
type PurgeLDAP struct{}

func (o PurgeLDAP) apply(s *State) (any, error) {
	s.LDAP = &LDAP{Config: s.LDAPConfig(), Version: s.ldapVersion() + 1}
	return nil, nil
}

func (s *State) ldapVersion() uint64 {
	if s.LDAP == nil {
		return 0
	}
	return s.LDAP.Version
}
