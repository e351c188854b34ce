package handoff

import (
	"os"
	"path/filepath"
)

// Before writes had versions, a delete went into the queue of each shard, behind the writes there: it takes its points
// out of the writes before it. Such queues are still read. They have a file "deletes".

func (q *queue) hasDeletes() bool {
	_, err := os.Stat(filepath.Join(q.dir, "deletes"))
	return err == nil
}

// placed is an entry with its place.
type placed struct {
	segment uint64
	at      int64
	entry   Entry
}

// next is peek once the deletes are known that wait behind the entries. The error is a *segmentError.
func (q *queue) next(max int64) ([]Entry, error) {
	if err := q.findDeletes(); err != nil {
		return nil, err
	}
	return q.peek(max)
}

// findDeletes reads what was in the queue when it was opened, for its deletes. The error is a *segmentError: without
// the deletes in that segment, the writes before it must not be sent.
func (q *queue) findDeletes() error {
	q.mu.Lock()
	unread := q.unread
	q.mu.Unlock()
	var found []placed
	for _, s := range unread {
		at, due := q.due(s.id)
		if !due {
			continue
		}
		deletes, err := q.deletesOf(s, at)
		if err != nil {
			return &segmentError{s.id, err}
		}
		found = append(found, deletes...)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deletes = append(q.deletes, found...)
	q.unread = nil
	return nil
}

// deletesOf reads the deletes of a segment from offset at on.
func (q *queue) deletesOf(s segment, at int64) (found []placed, err error) {
	f, err := os.Open(q.path(s.id))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := readHeader(f, f.Name()); err != nil {
		return nil, err
	}
	for at < s.size {
		e, n, err := readRecord(f, f.Name(), at, s.size)
		if err != nil {
			return nil, err
		}
		if e.Kind == Delete {
			found = append(found, placed{s.id, at, e})
		}
		at += n
	}
	return found, nil
}

// deletesBehind returns the deletes that wait behind entries at the head.
func (q *queue) deletesBehind(entries []Entry) []Entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.segments) == 0 {
		return nil
	}
	size, _ := measure(entries)
	at := q.head + size
	var out []Entry
	for _, d := range q.deletes {
		if d.segment > q.segments[0].id || d.segment == q.segments[0].id && d.at >= at {
			out = append(out, d.entry)
		}
	}
	return out
}
