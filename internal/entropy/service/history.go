package service

import (
	"slices"
	"sync"

	"concord/internal/entropy"
)

// keptRepairs is how many ended repairs a node remembers.
const keptRepairs = 200

// history is the repairs that ended, the newest last.
type history struct {
	mu   sync.Mutex
	list []entropy.RepairRecord
}

func (h *history) add(r entropy.RepairRecord) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.list = append(h.list, r); len(h.list) > keptRepairs {
		h.list = slices.Delete(h.list, 0, len(h.list)-keptRepairs)
	}
}

func (h *history) newestFirst() []entropy.RepairRecord {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.list)
	slices.Reverse(out)
	return out
}
