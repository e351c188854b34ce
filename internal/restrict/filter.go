package restrict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
)

// User is the rules for one user. A nil User may read and write everything.
type User struct {
	Restrictions []Rule
	Grants       []Rule // that the user has by itself or by its roles

	mu      sync.Mutex
	filters map[filterKey]*Filter // that were made
}

type filterKey struct{ permission, database string }

// Reads is the filter of what the user may read of a database; nil when that is everything.
func (u *User) Reads(database string) *Filter { return u.filter(Read, database) }

// Writes is the filter of what the user may write to a database; nil when that is everything.
func (u *User) Writes(database string) *Filter { return u.filter(Write, database) }

func (u *User) filter(permission, database string) *Filter {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	key := filterKey{permission, database}
	f, made := u.filters[key]
	if !made {
		f = newFilter(rulesOf(u.Restrictions, permission, database), rulesOf(u.Grants, permission, database))
		if u.filters == nil {
			u.filters = make(map[filterKey]*Filter)
		}
		u.filters[key] = f
	}
	return f
}

func rulesOf(all []Rule, permission, database string) (some []Rule) {
	for i := range all {
		if all[i].of(permission, database) {
			some = append(some, all[i])
		}
	}
	return some
}

// AuthorizeSeriesRead is of query.FineAuthorizer.
func (u *User) AuthorizeSeriesRead(database string, name []byte, tags models.Tags) bool {
	return u.Reads(database).Allows(name, tags)
}

// OptimizeSeriesRead is of query.FineAuthorizer.
func (u *User) OptimizeSeriesRead(
	_ string, _ []byte, expr influxql.Expr,
) (influxql.Expr, query.FineAuthorizer, error) {
	return expr, u, nil
}

// AuthorizeSeriesWrite is of query.FineAuthorizer.
func (u *User) AuthorizeSeriesWrite(database string, name []byte, tags models.Tags) bool {
	return u.Writes(database).Allows(name, tags)
}

// IsOpen is of query.FineAuthorizer.
func (u *User) IsOpen() bool { return u == nil }

// IsVoid is of query.FineAuthorizer.
func (u *User) IsVoid() bool { return false }

// Filter says which series of one database a user may read, or write. It never changes. A nil Filter allows all.
type Filter struct {
	restrictions, grants []Rule
	restricted, granted  rules
}

// newFilter returns nil when nothing is restricted.
func newFilter(restrictions, grants []Rule) *Filter {
	if len(restrictions) == 0 {
		return nil
	}
	return &Filter{
		restrictions: restrictions, grants: grants,
		restricted: index(restrictions), granted: index(grants),
	}
}

// Allows reports whether the user may read, or write, a series.
func (f *Filter) Allows(name []byte, tags models.Tags) bool {
	return f == nil || !f.restricted.match(name, tags) || f.granted.match(name, tags)
}

// AuthorizeSeriesRead is of query.FineAuthorizer.
func (f *Filter) AuthorizeSeriesRead(_ string, name []byte, tags models.Tags) bool {
	return f.Allows(name, tags)
}

// OptimizeSeriesRead is of query.FineAuthorizer.
func (f *Filter) OptimizeSeriesRead(
	_ string, _ []byte, expr influxql.Expr,
) (influxql.Expr, query.FineAuthorizer, error) {
	return expr, f, nil
}

// AuthorizeSeriesWrite is of query.FineAuthorizer.
func (f *Filter) AuthorizeSeriesWrite(_ string, name []byte, tags models.Tags) bool {
	return f.Allows(name, tags)
}

// IsOpen is of query.FineAuthorizer.
func (f *Filter) IsOpen() bool { return f == nil }

// IsVoid is of query.FineAuthorizer.
func (f *Filter) IsVoid() bool { return false }

// Authorizer is the filter as the engine takes it, nil for a nil filter: with that the engine looks at no series.
func (f *Filter) Authorizer() query.FineAuthorizer {
	if f == nil {
		return nil
	}
	return f
}

// rules finds the rules that match a series without a look at each: there may be one for each value of a tag.
type rules struct {
	byTag map[string]map[string][]*Rule // with an exact value of a tag: by its key, and by the value
	rest  []*Rule
}

func index(list []Rule) (out rules) {
	for i := range list {
		r := &list[i]
		exact := -1
		for j, t := range r.Tags {
			if t.Match == Exact {
				exact = j
				break
			}
		}
		if exact < 0 {
			out.rest = append(out.rest, r)
			continue
		}
		if out.byTag == nil {
			out.byTag = make(map[string]map[string][]*Rule)
		}
		t := r.Tags[exact]
		if out.byTag[t.Key] == nil {
			out.byTag[t.Key] = make(map[string][]*Rule)
		}
		out.byTag[t.Key][t.Value] = append(out.byTag[t.Key][t.Value], r)
	}
	return out
}

func (x *rules) match(name []byte, tags models.Tags) bool {
	for _, r := range x.rest {
		if r.matches(name, tags) {
			return true
		}
	}
	if x.byTag == nil {
		return false
	}
	for i := range tags {
		values := x.byTag[string(tags[i].Key)]
		if values == nil {
			continue
		}
		for _, r := range values[string(tags[i].Value)] {
			if r.matches(name, tags) {
				return true
			}
		}
	}
	return false
}

// Condition is what the user may read, or write, of a measurement, as a condition on tags. It is nil when that is
// everything or nothing; any says which.
func (f *Filter) Condition(name string) (cond influxql.Expr, any bool) {
	if f == nil {
		return nil, true
	}
	var allowed influxql.Expr // without grants
	restricted, closed := false, false
	for i := range f.restrictions {
		r := &f.restrictions[i]
		if !r.matchesName([]byte(name)) {
			continue
		}
		restricted = true
		if len(r.Tags) == 0 {
			closed = true
			break
		}
		var not influxql.Expr
		for _, t := range r.Tags {
			not = join(influxql.OR, not, t.condition(false))
		}
		allowed = join(influxql.AND, allowed, not)
	}
	if !restricted {
		return nil, true
	}
	if closed {
		allowed = nil
	}
	for i := range f.grants {
		g := &f.grants[i]
		if !g.matchesName([]byte(name)) {
			continue
		}
		if len(g.Tags) == 0 {
			return nil, true
		}
		var has influxql.Expr
		for _, t := range g.Tags {
			has = join(influxql.AND, has, t.condition(true))
		}
		allowed = join(influxql.OR, allowed, has)
	}
	return allowed, allowed != nil
}

// join is an expression in parentheses, so that its text is read back as it is.
func join(op influxql.Token, a, b influxql.Expr) influxql.Expr {
	if a == nil {
		return b
	}
	return &influxql.ParenExpr{Expr: &influxql.BinaryExpr{Op: op, LHS: a, RHS: b}}
}

// condition is that a series has such a tag, or that it has not.
func (t *TagMatch) condition(has bool) influxql.Expr {
	e := &influxql.BinaryExpr{Op: influxql.NEQ, LHS: &influxql.VarRef{Val: t.Key, Type: influxql.Tag}}
	switch {
	case t.Match == Prefix && t.Value == "": // has the tag
		e.RHS = &influxql.StringLiteral{}
		has = !has
	case t.Match == Prefix:
		e.Op, e.RHS = influxql.NEQREGEX, &influxql.RegexLiteral{Val: regexp.MustCompile("^" +
			regexp.QuoteMeta(t.Value))}
	default:
		e.RHS = &influxql.StringLiteral{Val: t.Value}
	}
	switch {
	case has && e.Op == influxql.NEQ:
		e.Op = influxql.EQ
	case has:
		e.Op = influxql.EQREGEX
	}
	return e
}

// maxEncoded bounds the rules of one user for one database, in bytes: they travel in the header of each question.
const maxEncoded = 4 << 20

// wireFilter is a filter as nodes send it to each other, in JSON.
type wireFilter struct {
	Restrictions []Rule `json:"restrictions"`
	Grants       []Rule `json:"grants,omitempty"`
}

// Encode writes a filter for other nodes.
func (f *Filter) Encode() ([]byte, error) {
	b, err := json.Marshal(wireFilter{f.restrictions, f.grants})
	if err == nil && len(b) > maxEncoded {
		err = fmt.Errorf("the restrictions and grants for this user take %d bytes, and may take %d: use prefixes",
			len(b), maxEncoded)
	}
	return b, err
}

// Decode is the inverse of Encode. A filter that restricts nothing is an error: whoever sends one would not.
func Decode(b []byte) (*Filter, error) {
	if len(b) > maxEncoded {
		return nil, errors.New("restrictions: too large")
	}
	var w wireFilter
	if err := parse(bytes.NewReader(b), &w); err != nil {
		return nil, fmt.Errorf("restrictions: %w", err)
	}
	for _, list := range [][]Rule{w.Restrictions, w.Grants} {
		for i := range list {
			if err := list[i].check(); err != nil {
				return nil, fmt.Errorf("restrictions: %w", err)
			}
		}
	}
	f := newFilter(w.Restrictions, w.Grants)
	if f == nil {
		return nil, errors.New("restrictions: there are none")
	}
	return f, nil
}

// Forbidden is the error of a write with a point of a series that the user may not write.
type Forbidden struct {
	Database string
	Series   string // as the user wrote it
}

// Error names the series, which the user gave.
func (e *Forbidden) Error() string {
	return fmt.Sprintf("not authorized to write to series %q in database %q: no point was written", e.Series,
		e.Database)
}

// AuthorizationFailed makes the HTTP API answer with 403.
func (e *Forbidden) AuthorizationFailed() bool { return true }

// MayWrite returns an error when the user may not write one of the points.
func (u *User) MayWrite(database string, points []models.Point) error {
	f := u.Writes(database)
	if f == nil {
		return nil
	}
	for _, p := range points {
		if !f.Allows(p.Name(), p.Tags()) {
			return &Forbidden{database, string(p.Key())}
		}
	}
	return nil
}
