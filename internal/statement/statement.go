// Package statement checks InfluxQL text from outside before the engine's parser reads it.
//
// The parser, and everything that walks a statement later, calls itself for each level of nesting and for each
// operator of a chain, and much of it copies what is below at every level. A stack that overflows ends the process, so
// a statement that is too deep must not be parsed at all.
package statement

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/influxdata/influxql"
)

// Limits are what a text may be.
type Limits struct {
	Bytes     int // of the text, with its parameters as often as they are used
	Depth     int // parentheses, calls and subqueries inside each other
	Operators int // in one statement: a = 1 AND b = 2 has three
}

var (
	// Client are the limits of what clients send.
	Client = Limits{Bytes: 1 << 20, Depth: 100, Operators: 10_000}
	// Peer are the limits of what other nodes send: what a client sent, written anew.
	Peer = Limits{Bytes: 16 << 20, Depth: 1000, Operators: 100_000}
)

// Query checks a query: statements with semicolons between them.
func (l Limits) Query(text string, params map[string]any) error {
	return l.check(text, params, func(p *influxql.Parser) (influxql.Statements, influxql.Expr, error) {
		q, err := p.ParseQuery()
		if err != nil {
			return nil, nil, err
		}
		return q.Statements, nil, nil
	})
}

// Expr checks an expression: the condition of a delete, or what another node asks for.
func (l Limits) Expr(text string) error {
	return l.check(text, nil, func(p *influxql.Parser) (influxql.Statements, influxql.Expr, error) {
		e, err := p.ParseExpr()
		return nil, e, err
	})
}

// check parses a text only where it could exceed a limit. What the parser finds wrong is no error here: it will say so
// itself.
func (l Limits) check(
	text string, params map[string]any, parse func(*influxql.Parser) (influxql.Statements, influxql.Expr, error),
) error {
	if n := size(text, params); n > l.Bytes {
		return fmt.Errorf("the query has %d bytes with its parameters, more than the %d that it may have", n, l.Bytes)
	}
	if strings.Count(text, "(") <= l.Depth && len(text) <= 2*l.Operators {
		return nil
	}
	r := newBounded(text, l.Depth)
	p := influxql.NewParser(r)
	if params != nil {
		p.SetParams(params)
	}
	statements, expr, err := parse(p)
	if r.tooDeep {
		return l.tooDeep()
	}
	if err != nil {
		return nil
	}
	if expr != nil {
		return l.measure(expr)
	}
	for _, s := range statements {
		if err := l.measure(s); err != nil {
			return err
		}
	}
	return nil
}

// size is that of a text in which each parameter is replaced by the longest value.
func size(text string, params map[string]any) int {
	longest := 0
	for _, v := range params {
		longest = max(longest, len(fmt.Sprint(v)))
	}
	return len(text) + strings.Count(text, "$")*longest
}

// What the statements of a text take in memory, in bytes.
const (
	costOfByte   = 256       // a letter may be a field, a sign an operator
	costOfRepeat = 200 << 10 // a{1000} in a regular expression
)

// Cost is the memory that a text may take once it is parsed, in bytes.
func Cost(text string) int64 {
	return costOfByte*int64(len(text)) + costOfRepeat*int64(strings.Count(text, "{"))
}

func (l Limits) tooDeep() error {
	return fmt.Errorf("the query nests parentheses, calls or subqueries deeper than %d levels", l.Depth)
}

// bounded hands a text to a parser in small pieces, and ends it when the parser's stack is too deep. Only the parser
// itself knows which parentheses count: whether a slash divides or begins a regular expression depends on the grammar.
type bounded struct {
	rest    string
	frames  []uintptr // as many as the stack may have
	tooDeep bool
}

const (
	piece          = 512 // bytes between two looks at the stack
	framesPerLevel = 8   // twice what the parser needs for one level
)

func newBounded(text string, depth int) *bounded {
	var above [256]uintptr
	return &bounded{rest: text, frames: make([]uintptr, runtime.Callers(0, above[:])+framesPerLevel*(depth+2))}
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.rest == "" {
		return 0, io.EOF
	}
	if runtime.Callers(0, b.frames) == len(b.frames) {
		b.tooDeep = true
		return 0, io.EOF
	}
	n := copy(p, b.rest[:min(piece, len(b.rest))])
	b.rest = b.rest[n:]
	return n, nil
}

// measure checks what was parsed.
func (l Limits) measure(n influxql.Node) error {
	m := &measure{limits: l}
	influxql.Walk(visitor{measure: m}, n)
	switch {
	case m.tooDeep:
		return l.tooDeep()
	case m.operators > l.Operators:
		return fmt.Errorf("the query has more than %d operators in one statement", l.Operators)
	}
	return nil
}

type measure struct {
	limits    Limits
	operators int
	tooDeep   bool
}

type visitor struct {
	*measure
	depth int
}

// Visit ends the walk when a limit is exceeded: the walk calls itself, too.
func (v visitor) Visit(n influxql.Node) influxql.Visitor {
	switch n.(type) {
	case *influxql.ParenExpr, *influxql.Call, *influxql.SubQuery:
		if v.depth++; v.depth > v.limits.Depth {
			v.tooDeep = true
		}
	case *influxql.BinaryExpr:
		v.operators++
	}
	if v.tooDeep || v.operators > v.limits.Operators {
		return nil
	}
	return v
}
