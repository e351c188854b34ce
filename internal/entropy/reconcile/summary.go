package reconcile

import (
	"context"
	"errors"

	"concord/internal/entropy/reconcile/riblt"
)

// Bounds of a summary, for what a peer may ask and for what a node keeps.
const (
	MaxSymbols  = 1 << 18 // of a summary; a larger difference is cheaper as a list
	MaxHashes   = 1 << 16 // of one question for names
	MaxElements = 1 << 28 // of a summary
)

// ErrTooLarge is returned for a shard with more than MaxElements windows.
var ErrTooLarge = errors.New("the shard has too many windows for a summary")

// Summary is the set of an owner's windows at one moment, one element for each
// that has points. It may be asked by one caller at a time.
type Summary interface {
	// Elements is how many windows have points.
	Elements() int
	// Symbols returns the coded symbols [from, to) of the set, to at most MaxSymbols.
	Symbols(ctx context.Context, from, to int) ([]riblt.Symbol, error)
	// Names calls fn with the series-fields that have one of the hashes, of
	// which there are at most MaxHashes. fn must not keep its arguments.
	Names(ctx context.Context, hashes []uint64, fn func(series []byte, field string) error) error
	Close() error
}
