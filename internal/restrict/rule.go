// Package restrict is fine-grained authorization: which series a user may read and write. Restrictions take series
// away from all users but administrators, and grants give them back to some (rule.go). User has the rules for one
// user, and Filter those of them for one database: it says of each series whether the user may see it, and gives the
// engine the same as a condition (filter.go). A filter travels to other nodes with each question, and then in the
// context of the call (context.go). The package knows no network and no state. Package cluster keeps the rules.
package restrict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/influxdata/influxdb/models"
)

// Permissions that a rule is about.
const (
	Read  = "read"
	Write = "write"
)

// How a name is matched.
const (
	Exact  = "exact"
	Prefix = "prefix"
)

// Match matches a name.
type Match struct {
	Match string `json:"match"` // Exact or Prefix
	Value string `json:"value"`
}

// TagMatch matches series that have a tag with such a value.
type TagMatch struct {
	Match string `json:"match"` // of the value: Exact or Prefix
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Rule matches series. Where it has no measurement it matches those of all measurements, and all of its tags must
// match.
type Rule struct {
	Database    *Match     `json:"database"`
	Measurement *Match     `json:"measurement,omitempty"`
	Tags        []TagMatch `json:"tags,omitempty"`
	Permissions []string   `json:"permissions"` // sorted
}

// Restriction is a rule for all users but administrators.
type Restriction struct {
	ID string `json:"id,omitempty"`
	Rule
}

// RuleID is the ID that the cluster gave the restriction.
func (r Restriction) RuleID() string { return r.ID }

// WithID is the restriction with another ID.
func (r Restriction) WithID(id string) Restriction { r.ID = id; return r }

// Equal reports whether two restrictions are the same but for their IDs.
func (r Restriction) Equal(o Restriction) bool { return r.Rule.Equal(o.Rule) }

// Name is the name of a user or of a role.
type Name struct {
	Name string `json:"name"`
}

// Grant gives its users, and those of its roles, what restrictions take away.
type Grant struct {
	ID string `json:"id,omitempty"`
	Rule
	Users []Name `json:"users,omitempty"` // sorted
	Roles []Name `json:"roles,omitempty"` // sorted
}

// RuleID is the ID that the cluster gave the grant.
func (g Grant) RuleID() string { return g.ID }

// WithID is the grant with another ID.
func (g Grant) WithID(id string) Grant { g.ID = id; return g }

// Equal reports whether two grants are the same but for their IDs.
func (g Grant) Equal(o Grant) bool {
	return g.Rule.Equal(o.Rule) && slices.Equal(g.Users, o.Users) && slices.Equal(g.Roles, o.Roles)
}

// What one rule may have. No series has longer names, or more tags.
const (
	maxName = 64 << 10
	maxTags = 100
)

// ParseRestriction reads the JSON of a restriction that is to be made.
func ParseRestriction(r io.Reader) (Restriction, error) {
	var v Restriction
	if err := parse(r, &v); err != nil {
		return Restriction{}, err
	}
	if v.ID != "" {
		return Restriction{}, errID
	}
	return v, v.check()
}

// ParseGrant reads the JSON of a grant that is to be made.
func ParseGrant(r io.Reader) (Grant, error) {
	var v Grant
	if err := parse(r, &v); err != nil {
		return Grant{}, err
	}
	if v.ID != "" {
		return Grant{}, errID
	}
	if err := v.check(); err != nil {
		return Grant{}, err
	}
	if len(v.Users)+len(v.Roles) == 0 {
		return Grant{}, errors.New("a grant needs users or roles")
	}
	for what, names := range map[string]*[]Name{"users": &v.Users, "roles": &v.Roles} {
		for _, n := range *names {
			if n.Name == "" {
				return Grant{}, fmt.Errorf("%s: a name is empty", what)
			}
		}
		*names = sortedNames(*names)
	}
	return v, nil
}

var errID = errors.New("id: the cluster gives it")

func sortedNames(names []Name) []Name {
	names = slices.Clone(names)
	slices.SortFunc(names, func(a, b Name) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(names)
}

// parse reads one JSON object. A field that is unknown is an error: it would be a rule that matches more than it says.
func parse(r io.Reader, v any) error {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("body: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("body: something follows the JSON object")
	}
	return nil
}

// check checks a rule, and sorts its permissions and tags.
func (r *Rule) check() error {
	if r.Database == nil {
		return errors.New(`database: needs {"match": "exact" or "prefix", "value": NAME}`)
	}
	if err := r.Database.check(); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if r.Measurement != nil {
		if err := r.Measurement.check(); err != nil {
			return fmt.Errorf("measurement: %w", err)
		}
	}
	if len(r.Tags) > maxTags {
		return fmt.Errorf("tags: %d are more than %d", len(r.Tags), maxTags)
	}
	for _, t := range r.Tags {
		if t.Key == "" || len(t.Key) > maxName {
			return errors.New("tags: each needs a key")
		}
		if err := (Match{t.Match, t.Value}).check(); err != nil {
			return fmt.Errorf("tags: %q: %w", t.Key, err)
		}
	}
	if len(r.Permissions) == 0 {
		return fmt.Errorf("permissions: needs %q or %q, or both", Read, Write)
	}
	for _, p := range r.Permissions {
		if p != Read && p != Write {
			return fmt.Errorf("permissions: %q is unknown: %s or %s", p, Read, Write)
		}
	}
	r.Permissions = slices.Compact(slices.Sorted(slices.Values(r.Permissions)))
	slices.SortFunc(r.Tags, func(a, b TagMatch) int {
		return strings.Compare(a.Key+"\x00"+a.Match+"\x00"+a.Value, b.Key+"\x00"+b.Match+"\x00"+b.Value)
	})
	r.Tags = slices.Compact(r.Tags)
	return nil
}

func (m Match) check() error {
	switch {
	case m.Match != Exact && m.Match != Prefix:
		return fmt.Errorf("match %q is unknown: %s or %s", m.Match, Exact, Prefix)
	case m.Value == "" && m.Match == Exact:
		return errors.New("needs a value")
	case len(m.Value) > maxName:
		return fmt.Errorf("the value is longer than %d bytes", maxName)
	}
	return nil
}

// Equal reports whether two rules match the same, as far as their text says.
func (r Rule) Equal(o Rule) bool {
	return equal(r.Database, o.Database) && equal(r.Measurement, o.Measurement) && slices.Equal(r.Tags, o.Tags) &&
		slices.Equal(r.Permissions, o.Permissions)
}

func equal(a, b *Match) bool { return a == b || a != nil && b != nil && *a == *b }

// of reports whether a rule is about a permission in a database.
func (r *Rule) of(permission, database string) bool {
	return slices.Contains(r.Permissions, permission) && r.Database != nil && r.Database.matches(database)
}

func (m *Match) matches(name string) bool {
	if m.Match == Prefix {
		return strings.HasPrefix(name, m.Value)
	}
	return name == m.Value
}

// matchesName reports whether a rule matches series of a measurement.
func (r *Rule) matchesName(name []byte) bool {
	switch {
	case r.Measurement == nil:
		return true
	case r.Measurement.Match == Prefix:
		return len(name) >= len(r.Measurement.Value) && string(name[:len(r.Measurement.Value)]) == r.Measurement.Value
	}
	return string(name) == r.Measurement.Value
}

// matches reports whether a rule matches a series.
func (r *Rule) matches(name []byte, tags models.Tags) bool {
	if !r.matchesName(name) {
		return false
	}
	for i := range r.Tags {
		if !r.Tags[i].matches(tags) {
			return false
		}
	}
	return true
}

func (t *TagMatch) matches(tags models.Tags) bool {
	v := tags.Get([]byte(t.Key))
	if t.Match == Prefix {
		return len(v) > 0 && bytes.HasPrefix(v, []byte(t.Value))
	}
	return string(v) == t.Value
}
