package copies

import (
	"math/bits"

	"concord/internal/entropy/reconcile"
)

// maxWindows bounds the windows that are remembered from one comparison to the next.
const maxWindows = 1 << 16

// Windows are the windows in which a comparison found differences, and how they differ. Of a shard that is being
// written to, a window counts when it differs twice in the same way: a write on its way is not entropy.
type Windows struct {
	seen map[uint64]struct{} // hashes
	more bool                // there are more than it remembers
}

// NewWindows returns an empty set.
func NewWindows() *Windows { return &Windows{seen: make(map[uint64]struct{})} }

// Add adds the windows of a difference.
func (w *Windows) Add(d reconcile.Difference) {
	field := reconcile.HashOf(0, d.Series, d.Field)
	i := 0
	for set := d.Windows; set != 0; set &= set - 1 {
		if w.more = len(w.seen) >= maxWindows; w.more {
			return
		}
		window := uint64(bits.TrailingZeros64(set))
		w.seen[reconcile.Mark([]uint64{field, window, d.Marks[i]})] = struct{}{}
		i++
	}
}

// Again reports whether a window differs as it did in the comparison before. It is true when there was none.
func (w *Windows) Again(before *Windows) bool {
	if before == nil || w.more && before.more {
		return true
	}
	for hash := range w.seen {
		if _, ok := before.seen[hash]; ok {
			return true
		}
	}
	return false
}
