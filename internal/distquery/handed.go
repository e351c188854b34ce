package distquery

import (
	"sync"

	"github.com/influxdata/influxdb/query"
)

// handedOut are the iterators that a statement got. The engine forgets some of them when it cannot compile the rest: an
// unclosed iterator keeps the files of its shard open until the garbage is collected, and dropping the shard waits for
// them.
type handedOut struct {
	mu   sync.Mutex
	list []query.Iterator
}

// add notes an iterator. A nil handedOut notes nothing.
func (h *handedOut) add(itr query.Iterator) {
	if h == nil || itr == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, itr)
}

// close closes all of them, some for the second time.
func (h *handedOut) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	query.Iterators(h.list).Close()
}
