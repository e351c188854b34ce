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

	errTooManyRestrictions = fmt.Errorf("there are %d restrictions, and cannot be more: use prefixes", maxRules)
	errTooManyGrants       = fmt.Errorf("there are %d grants, and cannot be more: use prefixes or roles", maxRules)
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
	return addRule(s, &s.Restrictions, o.Restriction, errTooManyRestrictions)
}

// DropRestriction removes a restriction.
type DropRestriction struct {
	ID string `json:"id"`
}

func (o DropRestriction) apply(s *State) (any, error) {
	return nil, dropRule(&s.Restrictions, o.ID, errRestrictionNotFound)
}

// CreateGrant adds a grant. One that exists is returned as it is.
type CreateGrant struct {
	Grant restrict.Grant `json:"grant"`
}

func (o CreateGrant) apply(s *State) (any, error) {
	for _, u := range o.Grant.Users {
		if err := s.checkUsers(u.Name); err != nil {
			return nil, err
		}
	}
	for _, r := range o.Grant.Roles {
		if s.role(r.Name) < 0 {
			return nil, fmt.Errorf("%w: %q", ErrRoleNotFound, r.Name)
		}
	}
	return addRule(s, &s.FineGrants, o.Grant, errTooManyGrants)
}

// DropGrant removes a grant.
type DropGrant struct {
	ID string `json:"id"`
}

func (o DropGrant) apply(s *State) (any, error) {
	return nil, dropRule(&s.FineGrants, o.ID, errGrantNotFound)
}

// rule is a restriction or a grant.
type rule[R any] interface {
	RuleID() string
	WithID(id string) R
	Equal(R) bool
}

// addRule adds a rule to a list of the state, unless an equal one is there, and returns the one that is in the list.
func addRule[R rule[R]](s *State, list *[]R, r R, tooMany error) (any, error) {
	if i := slices.IndexFunc(*list, r.Equal); i >= 0 {
		return (*list)[i], nil
	}
	if len(*list) >= maxRules {
		return nil, tooMany
	}
	r = r.WithID(s.newRuleID())
	*list = append(slices.Clone(*list), r)
	return r, nil
}

func dropRule[R rule[R]](list *[]R, id string, notFound error) error {
	i := slices.IndexFunc(*list, func(r R) bool { return r.RuleID() == id })
	if i < 0 {
		return notFound
	}
	*list = slices.Delete(slices.Clone(*list), i, i+1)
	return nil
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
