package main

import (
	"fmt"
	"strings"
)

// query asks for one field of a statistic. The zero value of its other fields asks for the sum over all nodes.
type query struct {
	legend    string // may name the tags of by as {{tag}}
	statistic string
	field     string
	per       string   // another field by which it is divided
	rate      bool     // it is a counter: ask for its growth in a second
	tags      []string // that tell the statistic's series of a node apart
	by        []string // tags for each of whose values there is a line
	greatest  bool     // the greatest value, and not the sum
}

// series are the tags that tell all series apart.
func (q query) series() []string { return append([]string{"nodeID"}, q.tags...) }

func (q query) total() string {
	if q.greatest {
		return "max"
	}
	return "sum"
}

// promQL is the query for Prometheus. Where several nodes run in one process, each shows the metrics of all: the
// greatest of equal values is taken.
func (q query) promQL() string {
	one := func(field string) string {
		metric := fmt.Sprintf("influxdb_%s_%s", q.statistic, field)
		if q.statistic != "meta" { // the variable has data nodes
			metric += `{nodeID=~"$node"}`
		}
		if q.rate {
			metric = "rate(" + metric + "[$__rate_interval])"
		}
		out := fmt.Sprintf("max by (%s) (%s)", strings.Join(q.series(), ", "), metric)
		switch {
		case len(q.by) == 0:
			out = q.total() + "(" + out + ")"
		case len(q.by) < len(q.series()):
			out = fmt.Sprintf("%s by (%s) (%s)", q.total(), strings.Join(q.by, ", "), out)
		}
		return out
	}
	if q.per == "" {
		return one(q.field)
	}
	return one(q.field) + " / " + one(q.per)
}

// influxQL is the query for the database _internal.
func (q query) influxQL() string {
	value := func(field string) string {
		if q.rate {
			return fmt.Sprintf(`non_negative_derivative(last("%s"), 1s)`, field)
		}
		return fmt.Sprintf(`last("%s")`, field)
	}
	group := func(tags []string) string {
		out := ` GROUP BY time($__interval)`
		for _, t := range tags {
			out += fmt.Sprintf(`, "%s"`, t)
		}
		return out
	}
	from := fmt.Sprintf(`FROM "%s" WHERE "nodeID" =~ /^$node$/ AND $timeFilter`, q.statistic)
	inner := fmt.Sprintf(`SELECT %s AS "a"`, value(q.field))
	outer := fmt.Sprintf(`SELECT %s("a")`, q.total())
	if q.per != "" {
		inner += fmt.Sprintf(`, %s AS "b"`, value(q.per))
		outer += fmt.Sprintf(` / %s("b")`, q.total())
	}
	return fmt.Sprintf(`%s AS "value" FROM (%s %s%s) WHERE $timeFilter%s fill(none)`,
		outer, inner, from, group(q.series()), group(q.by))
}

// alias is the legend as the data source for InfluxQL has it.
func (q query) alias() string {
	return strings.NewReplacer("{{", "$tag_", "}}", "").Replace(q.legend)
}
