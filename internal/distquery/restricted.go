package distquery

import (
	"context"
	"fmt"
	"regexp"

	"github.com/influxdata/influxdb/coordinator"
	"github.com/influxdata/influxql"

	"concord/internal/restrict"
)

// intoWriter writes what SELECT INTO stores, as far as the user may, and until the statement ends. When one of its
// inputs fails, the statement ends first. The rows that follow lack what the input had.
type intoWriter struct {
	to interface {
		WritePointsInto(*coordinator.IntoWriteRequest) error
	}
	statement context.Context
	user      *restrict.User // nil for one without restrictions
}

func (w intoWriter) WritePointsInto(r *coordinator.IntoWriteRequest) error {
	if err := interrupted(w.statement); err != nil {
		return err
	}
	if w.user != nil {
		if err := w.user.MayWrite(r.Database, r.Points); err != nil {
			return err
		}
	}
	return w.to.WritePointsInto(r)
}

// mayCreate refuses a continuous query of a user with restrictions in one of its databases: it runs as the system, and
// would copy what the user may not see to where the user may.
func mayCreate(user *restrict.User, stmt influxql.Statement) (err error) {
	create, ok := stmt.(*influxql.CreateContinuousQueryStatement)
	if !ok {
		return nil
	}
	influxql.WalkFunc(create, func(n influxql.Node) {
		mm, ok := n.(*influxql.Measurement)
		if !ok {
			return
		}
		db := mm.Database
		if db == "" {
			db = create.Database
		}
		if user.Reads(db) != nil || user.Writes(db) != nil {
			err = fmt.Errorf("a continuous query runs without restrictions, and you have some in database %q: "+
				"ask an administrator to create it", db)
		}
	})
	return err
}

// Delete is a part of a delete.
type Delete struct {
	Sources []influxql.Source
	Cond    influxql.Expr
}

// AllowedDeletes are the parts of a delete that leave alone what the user may not write: to the condition comes what
// the filter says of each measurement. A measurement that comes while it is asked is not deleted from.
func (s *Schema) AllowedDeletes(
	ctx context.Context, allowed *restrict.Filter, db string, sources []influxql.Source, cond influxql.Expr,
) ([]Delete, error) {
	if allowed == nil {
		return []Delete{{sources, cond}}, nil
	}
	named, err := s.sourcesOf(ctx, db, sources)
	if err != nil {
		return nil, err
	}
	var list []Delete
	of := make(map[string]int) // by condition
	for _, mm := range named {
		only, any := allowed.Condition(mm.Name)
		if !any {
			continue
		}
		text := ""
		if only != nil {
			text = only.String()
		}
		i, ok := of[text]
		if !ok {
			i = len(list)
			of[text] = i
			one := Delete{Cond: cond}
			if only != nil {
				one.Cond = and(cond, only)
			}
			list = append(list, one)
		}
		list[i].Sources = append(list[i].Sources, mm)
	}
	return list, nil
}

// sourcesOf names the measurements that a delete is about.
func (s *Schema) sourcesOf(
	ctx context.Context, db string, sources []influxql.Source,
) (named []*influxql.Measurement, err error) {
	if len(sources) == 0 {
		sources = []influxql.Source{&influxql.Measurement{Regex: &influxql.RegexLiteral{Val: everyName}}}
	}
	// All copies must be whole: what is not known is not deleted.
	report, err := newReport(ctx, true, s.meta)
	if err != nil {
		return nil, err
	}
	strict := s.For(ctx, report, s.share, nil)
	var all [][]byte
	for _, src := range sources {
		mm, ok := src.(*influxql.Measurement)
		if !ok {
			return nil, fmt.Errorf("unsupported source %v in a delete", src)
		}
		if mm.Regex == nil {
			named = append(named, mm)
			continue
		}
		if all == nil {
			if all, err = strict.MeasurementNames(ctx, nil, db, "", nil); err != nil {
				return nil, err
			}
		}
		for _, name := range all {
			if mm.Regex.Val.Match(name) {
				one := mm.Clone()
				one.Name, one.Regex = string(name), nil
				named = append(named, one)
			}
		}
	}
	return named, nil
}

var everyName = regexp.MustCompile(`.*`)
