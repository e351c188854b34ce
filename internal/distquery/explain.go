package distquery

import (
	"strings"
	"sync"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"

	"concord/internal/aggregate"
)

// paths are how the expressions of an EXPLAIN are answered: from arrays or by the engine. The engine writes the plan,
// and knows nothing of them.
type paths struct {
	mu sync.Mutex
	of map[string]string // by expression
}

// note takes down the path of an iterator.
func (p *paths) note(v Vector, mm *influxql.Measurement, opt query.IteratorOptions, keep aggregate.Keep) {
	if p == nil || opt.Expr == nil {
		return
	}
	path := "engine"
	if v.covers(mm, oneCall(opt)) || v.On && aggregate.CoversPoints(mm, opt, keep) {
		path = "arrays"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil {
		p.of = make(map[string]string)
	}
	p.of[opt.Expr.String()] = path
}

// add writes the paths into a plan.
func (p *paths) add(r *query.Result) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, series := range r.Series {
		var rows [][]any
		for _, row := range series.Values {
			rows = append(rows, row)
			if line, ok := row[0].(string); ok {
				if expr, is := strings.CutPrefix(line, "EXPRESSION: "); is && p.of[expr] != "" {
					rows = append(rows, []any{"PATH: " + p.of[expr]})
				}
			}
		}
		series.Values = rows
	}
}
