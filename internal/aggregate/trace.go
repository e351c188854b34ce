package aggregate

import (
	"fmt"

	"github.com/influxdata/influxdb/pkg/tracing"
	"github.com/influxdata/influxdb/pkg/tracing/fields"

	"concord/internal/entropy/scan"
)

// trace begins the part of EXPLAIN ANALYZE that is about the scan. It has the place and the labels of the engine's.
func (s *Scan) trace() {
	parent := tracing.SpanFromContext(s.ctx)
	if parent == nil {
		return
	}
	labels := []string{"shard_id", fmt.Sprint(s.shard.ID()), "measurement", s.name, "path", "arrays"}
	if s.opt.Condition != nil {
		labels = append(labels, "cond", s.opt.Condition.String())
	}
	s.span = parent.StartSpan("create_iterator")
	s.span.SetLabels(labels...)
}

// traced ends it.
func (s *Scan) traced() {
	if s.span == nil {
		return
	}
	var points int64
	for _, c := range s.columns {
		points += c.points.Load()
	}
	list := []fields.Field{fields.Int64("series", int64(s.series)), fields.Int64("points", points)}
	for typ, name := range [scan.Types]string{"float", "integer", "boolean", "string", "unsigned"} {
		list = append(list, fields.Int64(name+"_blocks_decoded", s.blocks[typ].Load()))
	}
	s.span.SetFields(fields.New(list...))
	s.span.Finish()
	s.span = nil
}
