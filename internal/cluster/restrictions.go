package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/influxdata/influxdb/services/meta"

	"concord/internal/restrict"
)

// maxRules is how many restrictions there may be, and how many grants. All of one user are sent with its questions.
const maxRules = 10_000

var (
	errRestrictionNotFound = errors.New("restriction not found")
	errGrantNotFound       = errors.New("grant not found")
)

// Restricted returns the rules for a user, nil for one who may do all that its privileges say: an administrator, and
// everybody while there are no restrictions. A nil user is one that need not log in.
func (s *State) Restricted(user meta.User) *restrict.User {
	if len(s.Restrictions) == 0 {
		return nil
	}
	u, ok := user.(*User)
	if info, bare := user.(*meta.UserInfo); bare && info != nil {
		u, ok = &User{UserInfo: *info}, true
	}
	if !ok || u == nil {
		return nil
	}
	if user.AuthorizeUnrestricted() {
		return nil
	}
	out := &restrict.User{}
	for _, r := range s.Restrictions {
		out.Restrictions = append(out.Restrictions, r.Rule)
	}
	for _, g := range s.FineGrants {
		if s.grants(g, u) {
			out.Grants = append(out.Grants, g.Rule)
		}
	}
	return out
}

func (s *State) grants(g restrict.Grant, user *User) bool {
	if !user.LDAP && slices.Contains(g.Users, restrict.Name{Name: user.Name}) {
		return true
	}
	return slices.ContainsFunc(g.Roles, func(n restrict.Name) bool {
		r, ok := s.Role(n.Name)
		if user.LDAP {
			return ok && slices.Contains(user.Roles, n.Name)
		}
		return ok && slices.Contains(r.Users, user.Name)
	})
}

// MaySee reports whether a user may read a database, and all of it.
func (s *State) MaySee(user meta.User, database string) bool {
	if !MayRead(user, database) {
		return false
	}
	return s.Restricted(user).Reads(database) == nil
}

// CreateRestriction adds a restriction. One that exists is returned as it is.
type CreateRestriction struct {
	Restriction restrict.Restriction `json:"restriction"`
}

func (o CreateRestriction) apply(s *State) (any, error) {
	for _, r := range s.Restrictions {
		if r.Rule.Equal(o.Restriction.Rule) {
			return r, nil
		}
	}
	if len(s.Restrictions) >= maxRules {
		return nil, fmt.Errorf("there are %d restrictions, and cannot be more: use prefixes", maxRules)
	}
	o.Restriction.ID = s.newRuleID()
	s.Restrictions = append(slices.Clone(s.Restrictions), o.Restriction)
	return o.Restriction, nil
}

// DropRestriction removes a restriction.
type DropRestriction struct {
	ID string `json:"id"`
}

func (o DropRestriction) apply(s *State) (any, error) {
	i := slices.IndexFunc(s.Restrictions, func(r restrict.Restriction) bool { return r.ID == o.ID })
	if i < 0 {
		return nil, errRestrictionNotFound
	}
	s.Restrictions = slices.Delete(slices.Clone(s.Restrictions), i, i+1)
	return nil, nil
}

// CreateGrant adds a grant. One that exists is returned as it is.
type CreateGrant struct {
	Grant restrict.Grant `json:"grant"`
}

func (o CreateGrant) apply(s *State) (any, error) {
	for _, u := range o.Grant.Users {
		if s.Data.User(u.Name) == nil {
			return nil, fmt.Errorf("%w: %q", meta.ErrUserNotFound, u.Name)
		}
	}
	for _, r := range o.Grant.Roles {
		if s.role(r.Name) < 0 {
			return nil, fmt.Errorf("%w: %q", ErrRoleNotFound, r.Name)
		}
	}
	for _, g := range s.FineGrants {
		if g.Rule.Equal(o.Grant.Rule) && slices.Equal(g.Users, o.Grant.Users) && slices.Equal(g.Roles, o.Grant.Roles) {
			return g, nil
		}
	}
	if len(s.FineGrants) >= maxRules {
		return nil, fmt.Errorf("there are %d grants, and cannot be more: use prefixes or roles", maxRules)
	}
	o.Grant.ID = s.newRuleID()
	s.FineGrants = append(slices.Clone(s.FineGrants), o.Grant)
	return o.Grant, nil
}

// DropGrant removes a grant.
type DropGrant struct {
	ID string `json:"id"`
}

func (o DropGrant) apply(s *State) (any, error) {
	i := slices.IndexFunc(s.FineGrants, func(g restrict.Grant) bool { return g.ID == o.ID })
	if i < 0 {
		return nil, errGrantNotFound
	}
	s.FineGrants = slices.Delete(slices.Clone(s.FineGrants), i, i+1)
	return nil, nil
}

// newRuleID returns an ID that no rule had before.
func (s *State) newRuleID() string {
	s.MaxRuleID++
	return strconv.FormatUint(s.MaxRuleID, 10)
}

// leaveGrants takes a dropped user, or a dropped role, out of all grants: a later one of the same name is another one.
// A grant for nobody goes.
func (s *State) leaveGrants(user, role string) {
	var kept []restrict.Grant
	for _, g := range s.FineGrants {
		g.Users = without(g.Users, user)
		if g.Roles = without(g.Roles, role); len(g.Users)+len(g.Roles) > 0 {
			kept = append(kept, g)
		}
	}
	s.FineGrants = kept
}

func without(names []restrict.Name, name string) []restrict.Name {
	return slices.DeleteFunc(slices.Clone(names), func(n restrict.Name) bool { return n.Name == name && name != "" })
}

// renameGrants keeps the grants of a role that gets another name.
func (s *State) renameGrants(from, to string) {
	if from == to {
		return
	}
	s.FineGrants = slices.Clone(s.FineGrants)
	for i := range s.FineGrants {
		g := &s.FineGrants[i]
		if at := slices.Index(g.Roles, restrict.Name{Name: from}); at >= 0 {
			g.Roles = slices.Clone(g.Roles)
			g.Roles[at].Name = to
			slices.SortFunc(g.Roles, func(a, b restrict.Name) int { return compare(a.Name, b.Name) })
		}
	}
}
