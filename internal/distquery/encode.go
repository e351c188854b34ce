package distquery

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/influxdata/influxdb/query"
	"github.com/influxdata/influxql"
	"google.golang.org/protobuf/encoding/protowire"

	"concord/internal/statement"
)

// encodeOptions encodes a measurement and options: the engine's encoding of
// options carries measurements as their sources. Equal options have equal encodings.
func encodeOptions(mm *influxql.Measurement, opt query.IteratorOptions) ([]byte, error) {
	groupBy := slices.Sorted(maps.Keys(opt.GroupBy)) // which the engine encodes in any order
	opt.GroupBy = nil
	opt.Sources = []influxql.Source{mm}
	opt.Condition = explicit(opt.Condition)
	b, err := opt.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("encode the query for other nodes: %w", err)
	}
	for _, dim := range groupBy {
		b = protowire.AppendString(protowire.AppendTag(b, groupByField, protowire.BytesType), dim)
	}
	return b, nil
}

// decodeOptions is the inverse of encodeOptions.
func decodeOptions(b []byte) (*influxql.Measurement, query.IteratorOptions, error) {
	var opt query.IteratorOptions
	if err := checkOptions(b); err != nil {
		return nil, opt, fmt.Errorf("malformed query: %w", err)
	}
	if err := opt.UnmarshalBinary(b); err != nil {
		return nil, opt, fmt.Errorf("malformed query: %w", err)
	}
	if len(opt.Sources) != 1 {
		return nil, opt, errors.New("malformed query: not one measurement")
	}
	mm, ok := opt.Sources[0].(*influxql.Measurement)
	if !ok {
		return nil, opt, errors.New("malformed query: not a measurement")
	}
	return mm, opt, nil
}

// Fields of the engine's message IteratorOptions.
const (
	exprField      = 1 // InfluxQL
	conditionField = 8 // InfluxQL
	groupByField   = 19
)

// checkOptions checks the InfluxQL in encoded options before the engine parses it.
func checkOptions(b []byte) error {
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(field, typ, b); n < 0 {
			return protowire.ParseError(n)
		}
		if typ == protowire.BytesType && (field == exprField || field == conditionField) {
			text, _ := protowire.ConsumeBytes(b)
			if err := statement.Peer.Expr(string(text)); err != nil {
				return err
			}
		}
		b = b[n:]
	}
	return nil
}

// explicit returns e with the parentheses that its text needs to be read back
// as the same tree: the engine prints a tree that it built itself, such as
// (a OR b) AND c, without them.
func explicit(e influxql.Expr) influxql.Expr {
	switch e := e.(type) {
	case *influxql.ParenExpr:
		return &influxql.ParenExpr{Expr: explicit(e.Expr)}
	case *influxql.BinaryExpr:
		side := func(x influxql.Expr, lowest int) influxql.Expr {
			x = explicit(x)
			if b, ok := x.(*influxql.BinaryExpr); ok && b.Op.Precedence() < lowest {
				return &influxql.ParenExpr{Expr: b}
			}
			return x
		}
		p := e.Op.Precedence()
		return &influxql.BinaryExpr{Op: e.Op, LHS: side(e.LHS, p), RHS: side(e.RHS, p+1)}
	case *influxql.Call:
		c := &influxql.Call{Name: e.Name}
		for _, a := range e.Args {
			c.Args = append(c.Args, explicit(a))
		}
		return c
	}
	return e
}

func encodeCondition(e influxql.Expr) []byte {
	if e == nil {
		return nil
	}
	return []byte(explicit(e).String())
}

func decodeCondition(text []byte) (influxql.Expr, error) {
	if len(text) == 0 {
		return nil, nil
	}
	e, err := parseExpr(text)
	if err != nil {
		return nil, fmt.Errorf("malformed condition: %w", err)
	}
	return e, nil
}

// parseExpr parses an expression of another node. One that nests too deep would overflow the parser's stack, which ends
// the process.
func parseExpr(text []byte) (influxql.Expr, error) {
	if err := statement.Peer.Expr(string(text)); err != nil {
		return nil, err
	}
	return influxql.ParseExpr(string(text))
}
