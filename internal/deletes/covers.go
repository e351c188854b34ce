package deletes

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/influxdata/influxdb/models"
	"github.com/influxdata/influxql"

	"concord/internal/rpc"
)

// covering knows which points a delete removes.
type covering struct {
	names    map[string]bool
	regexps  []*regexp.Regexp
	all      bool          // of every measurement
	tags     influxql.Expr // nil for every series
	min, max int64         // nanoseconds, inclusive
	version  uint64        // of the delete; 0 for none
}

// newCovering parses a delete, for the points of one retention policy.
func newCovering(r *rpc.Delete, policy string) (*covering, error) {
	c := &covering{names: map[string]bool{}, min: influxql.MinTime, max: influxql.MaxTime, version: r.Version}
	if r.Kind == rpc.Delete_DROP_MEASUREMENT {
		c.names[r.Name] = true
		return c, nil
	}
	sources, cond, err := parseDelete(r.Statement)
	if err != nil {
		return nil, err
	}
	c.all = len(sources) == 0
	for _, s := range sources {
		m, ok := s.(*influxql.Measurement)
		if !ok {
			return nil, fmt.Errorf("unsupported source %v in a delete", s)
		}
		switch {
		case m.RetentionPolicy != "" && m.RetentionPolicy != policy:
		case m.Regex != nil:
			c.regexps = append(c.regexps, m.Regex.Val)
		default:
			c.names[m.Name] = true
		}
	}
	tags, in, err := influxql.ConditionExpr(cond, nil)
	if err != nil {
		return nil, err
	}
	c.tags, c.min, c.max = tags, in.MinTimeNano(), in.MaxTimeNano()
	return c, nil
}

// none reports whether the delete removes nothing: it is of another retention policy.
func (c *covering) none() bool { return !c.all && len(c.names) == 0 && len(c.regexps) == 0 }

// covers reports whether the delete removes a point. A tag that a series lacks counts as empty, as in the engine.
func (c *covering) covers(p models.Point) bool {
	if t := p.UnixNano(); t < c.min || t > c.max {
		return false
	}
	name := string(p.Name())
	return c.coversName(name) && c.coversTags(name, p.Tags())
}

// coversTags reports whether the delete may remove points of a series, if it may remove some of its measurement.
func (c *covering) coversTags(name string, tags models.Tags) bool {
	if c.tags == nil {
		return true
	}
	eval := influxql.ValuerEval{Valuer: tagValuer{tags, name}}
	return eval.EvalBool(c.tags)
}

// coversName reports whether the delete may remove points of a measurement.
func (c *covering) coversName(name string) bool {
	return c.all || c.names[name] ||
		slices.ContainsFunc(c.regexps, func(re *regexp.Regexp) bool { return re.MatchString(name) })
}

type tagValuer struct {
	tags models.Tags
	name string
}

func (v tagValuer) Value(key string) (any, bool) {
	if key == "_name" {
		return v.name, true
	}
	return v.tags.GetString(key), true
}

// coverings are deletes that wait behind writes in a queue.
type coverings []*covering

// removed returns a function that reports whether the deletes remove a point of a write, or nil when they remove none.
// A write is newer than a delete with a smaller version.
func (c coverings) removed(version uint64) func(models.Point) bool {
	older := slices.DeleteFunc(slices.Clone(c), func(d *covering) bool {
		return version != 0 && d.version != 0 && d.version < version
	})
	if len(older) == 0 {
		return nil
	}
	return func(p models.Point) bool {
		return slices.ContainsFunc(older, func(d *covering) bool { return d.covers(p) })
	}
}
