package restrict

import (
	"context"
	"errors"

	"github.com/influxdata/influxdb/query"
)

type contextKey struct{}

// With returns a context that carries a filter of reads. A nil filter is none.
func With(ctx context.Context, f *Filter) context.Context {
	if f == nil {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, f)
}

// Of is the filter that a context carries, nil for none.
func Of(ctx context.Context) *Filter {
	f, _ := ctx.Value(contextKey{}).(*Filter)
	return f
}

// errAuthorizer is for an authorizer that is not of this package: it cannot be sent to other nodes.
var errAuthorizer = errors.New("authorization by series with another authorizer is not supported across data nodes")

// From returns the rules that the engine was given as the authorizer of a statement; nil when there are none.
func From(a query.FineAuthorizer) (*User, error) {
	if u, ok := a.(*User); ok {
		return u, nil
	}
	if query.AuthorizerIsOpen(a) {
		return nil, nil
	}
	return nil, errAuthorizer
}

var (
	_ query.FineAuthorizer = (*User)(nil)
	_ query.FineAuthorizer = (*Filter)(nil)
)
