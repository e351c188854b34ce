package entropytest

import (
	"context"

	"concord/internal/copystate"
)

// NoDeletes is the order of deletes on a node that never hears of one.
type NoDeletes struct{}

// DeletesSeen is always the same.
func (NoDeletes) DeletesSeen(uint64) uint64 { return 0 }

// AwaitDeletes waits for none.
func (NoDeletes) AwaitDeletes(context.Context, uint64) bool { return true }

// HoldDeletes has none to hold back.
func (NoDeletes) HoldDeletes(_, _ uint64) (release func(), ok bool) { return func() {}, true }

// NoCopies is what is known of copies that lack nothing.
type NoCopies struct{}

func (NoCopies) Begin(uint64) error          { return nil }
func (NoCopies) Copied(uint64) error         { return nil }
func (NoCopies) Whole(_, _ uint64) error     { return nil }
func (NoCopies) Lacks(uint64) copystate.Lack { return copystate.Lack{} }
func (NoCopies) Waiting(uint64) []uint64     { return nil }
func (NoCopies) Discarded(uint64) error      { return nil }
func (NoCopies) GotUnversioned(uint64) error { return nil }
func (NoCopies) Ready() bool                 { return true }
