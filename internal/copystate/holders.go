package copystate

import "concord/internal/rpc"

// holders is what a node has heard of other nodes: the newest table of each, which says what it keeps for others, and
// its mark. Tables are stored within a second, and marks with the next mark of this node: dirty and dirtyMarks say
// which are not.
type holders struct {
	tables map[uint64]table   // by holder; this node's own is there as well, as it was stored
	voided map[uint64]version // by holder that stays away: a table of which this node counts nothing
	marks  map[uint64]uint64  // the greatest known

	dirty      map[uint64]bool
	dirtyMarks map[uint64]bool
}

// set takes over a table.
func (h *holders) set(holder uint64, t table) {
	h.tables[holder] = t
	h.dirty[holder] = true
}

// remove forgets the table of a holder.
func (h *holders) remove(holder uint64) {
	delete(h.tables, holder)
	delete(h.voided, holder)
	h.dirty[holder] = true
}

// counts reports whether this node counts what a table says.
func (h *holders) counts(holder uint64, t table) bool { return h.voided[holder] != t.version }

// heardMark takes over the mark of another node's folder. It does not without the table of the same start: the two are
// told back to the node together.
func (h *holders) heardMark(m *rpc.DiskMark) {
	known := h.tables[m.Node]
	if known.folder == m.Folder && known.start == m.Start && m.Mark > h.marks[m.Node] {
		h.marks[m.Node] = m.Mark
		h.dirtyMarks[m.Node] = true
	}
}

// takeDirtyMarks adds to a change the marks that are not stored.
func (h *holders) takeDirtyMarks(c *change) {
	for id := range h.dirtyMarks {
		if mark, ok := h.marks[id]; ok {
			c.marks[id] = &mark
		}
	}
	clear(h.dirtyMarks)
}

// takeDirty adds to a change the tables that are not stored.
func (h *holders) takeDirty(c *change) {
	for id := range h.dirty {
		c.tables[id], c.marks[id] = nil, nil
		if t, ok := h.tables[id]; ok {
			c.tables[id] = &t
		}
		// With the table: a mark of the folder that a node had before would tell it that this one was rolled back.
		if mark, ok := h.marks[id]; ok {
			c.marks[id] = &mark
		}
	}
	clear(h.dirty)
}

// forget forgets all, and adds to a change what has to be removed from disk.
func (h *holders) forget(c *change) {
	for id := range h.tables {
		c.tables[id] = nil
	}
	for id := range h.marks {
		c.marks[id] = nil
	}
	clear(h.tables)
	clear(h.voided)
	clear(h.marks)
}
