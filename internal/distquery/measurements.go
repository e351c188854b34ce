package distquery

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/influxdata/influxdb/pkg/bytesutil"
	"github.com/influxdata/influxql"

	"concord/internal/rpc"
)

// namesPlan finds the measurements that a condition of SHOW MEASUREMENTS
// selects. Such a condition is about all series of a measurement: one series
// may have the host, another the region, and host != 'a' selects measurements
// that have the tag and no series with this value. So a node cannot answer
// for its shards alone.
//
// A comparison that one series fulfills holds when it holds on any node, and
// so do several of them joined by OR. These are the questions that nodes are
// asked. The rest is set operations on the joined answers.
type namesPlan struct {
	questions []influxql.Expr
	byText    map[string]int // of questions
	simple    bool           // what the one question selects is the answer
}

// names is a sorted set of measurements, as a function of the answers to all questions.
type names struct {
	of func(answers [][][]byte) [][]byte
	// any is the question that of returns the answer to, nil when it is not that simple.
	any influxql.Expr
}

// newNamesPlan plans a condition. The errors are those of the engine.
func newNamesPlan(cond influxql.Expr) (*namesPlan, func(answers [][][]byte) [][]byte, error) {
	p := &namesPlan{byText: make(map[string]int)}
	if cond == nil {
		p.simple = true
		return p, p.ask(nil).of, nil
	}
	n, err := p.plan(cond)
	if err != nil {
		return nil, nil, err
	}
	p.simple = n.any != nil
	return p, p.done(n).of, nil
}

// ask adds a question, unless it is there. No condition asks for all measurements.
func (p *namesPlan) ask(question influxql.Expr) names {
	text := string(encodeCondition(question))
	i, ok := p.byText[text]
	if !ok {
		i = len(p.questions)
		p.byText[text] = i
		p.questions = append(p.questions, question)
	}
	return names{of: func(answers [][][]byte) [][]byte { return answers[i] }}
}

// done asks what was not asked yet, as it could have become a part of a larger question.
func (p *namesPlan) done(n names) names {
	if n.any != nil {
		return p.ask(n.any)
	}
	return n
}

// request is what a node is asked: all questions at once, as what happens between two of them could show in the answer.
func (p *namesPlan) request(node peer, ids []uint64) *rpc.SchemaRequest {
	req := &rpc.SchemaRequest{ShardIds: ids, Incomplete: node.incomplete}
	for i, q := range p.questions {
		if text := encodeCondition(q); i == 0 {
			req.Condition = text
		} else {
			req.More = append(req.More, text)
		}
	}
	return req
}

// askFormer asks a node of a former build, which answers each question with a list of its own.
func (p *namesPlan) askFormer(ctx context.Context, node peer, ids []uint64) (all []entry, not passed, err error) {
	req := p.request(node, ids)
	r, err := node.MeasurementNames(ctx, req)
	if err != nil {
		return nil, not, err
	}
	if len(r.More) != len(req.More) {
		return nil, not, fmt.Errorf("it answers %d of %d conditions: install the same version on all data nodes",
			len(r.More)+1, len(p.questions))
	}
	answers := [][][]byte{r.Names}
	for _, more := range r.More {
		answers = append(answers, more.GetNames())
	}
	return slices.Collect(joinAnswers(answers)), passed{r.Missing, r.Unfit}, nil
}

// byQuestion is the inverse of joinAnswers.
func (p *namesPlan) byQuestion(part []entry) [][][]byte {
	answers := make([][][]byte, len(p.questions))
	for _, e := range part {
		selected := e.selected
		if len(p.questions) == 1 {
			selected = []uint32{0}
		}
		for _, i := range selected {
			// A measurement that several nodes know may have been selected by each.
			if n := len(answers[i]); n == 0 || string(answers[i][n-1]) != e.measurement {
				answers[i] = append(answers[i], []byte(e.measurement))
			}
		}
	}
	return answers
}

func (p *namesPlan) plan(e influxql.Expr) (names, error) {
	switch e := e.(type) {
	case *influxql.ParenExpr:
		return p.plan(e.Expr)
	case *influxql.BinaryExpr:
		switch e.Op {
		case influxql.EQ, influxql.NEQ, influxql.EQREGEX, influxql.NEQREGEX:
			return p.compare(e)
		case influxql.OR, influxql.AND:
			return p.join(e)
		}
		return names{}, fmt.Errorf("invalid tag comparison operator")
	}
	return names{}, fmt.Errorf("invalid measurement expression %#v", e)
}

func (p *namesPlan) join(e *influxql.BinaryExpr) (names, error) {
	l, err := p.plan(e.LHS)
	if err != nil {
		return names{}, err
	}
	r, err := p.plan(e.RHS)
	if err != nil {
		return names{}, err
	}
	if e.Op == influxql.OR && l.any != nil && r.any != nil {
		return names{any: &influxql.BinaryExpr{Op: influxql.OR, LHS: l.any, RHS: r.any}}, nil
	}
	l, r = p.done(l), p.done(r)
	op := bytesutil.Intersect
	if e.Op == influxql.OR {
		op = bytesutil.Union
	}
	return names{of: func(answers [][][]byte) [][]byte { return op(l.of(answers), r.of(answers)) }}, nil
}

func (p *namesPlan) compare(e *influxql.BinaryExpr) (names, error) {
	tag, ok := e.LHS.(*influxql.VarRef)
	if !ok {
		return names{}, fmt.Errorf("left side of '%s' must be a tag key", e.Op.String())
	}
	negative, empty := e.Op == influxql.NEQ || e.Op == influxql.NEQREGEX, false
	if influxql.IsRegexOp(e.Op) {
		if _, ok := e.RHS.(*influxql.RegexLiteral); !ok {
			return names{}, fmt.Errorf("right side of '%s' must be a regular expression", e.Op.String())
		}
	} else if s, ok := e.RHS.(*influxql.StringLiteral); !ok {
		return names{}, fmt.Errorf("right side of '%s' must be a tag value string", e.Op.String())
	} else {
		empty = s.Val == ""
	}
	switch {
	case tag.Val == "_name":
		return names{any: e}, nil
	case influxql.IsSystemName(tag.Val):
		return names{of: func([][][]byte) [][]byte { return nil }}, nil
	case !negative || empty: // no tag has an empty value: those that have the tag
		return names{any: e}, nil
	}
	op := influxql.EQ
	if e.Op == influxql.NEQREGEX {
		op = influxql.EQREGEX
	}
	have := p.ask(&influxql.BinaryExpr{Op: influxql.NEQ, LHS: tag, RHS: &influxql.StringLiteral{}})
	match := p.ask(&influxql.BinaryExpr{Op: op, LHS: tag, RHS: e.RHS})
	return names{of: func(answers [][][]byte) [][]byte {
		matching := match.of(answers)
		return slices.DeleteFunc(slices.Clone(have.of(answers)), func(name []byte) bool {
			_, ok := slices.BinarySearchFunc(matching, name, bytes.Compare)
			return ok
		})
	}}, nil
}
