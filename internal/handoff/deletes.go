package handoff

import (
	"os"
	"path/filepath"
)

// oldDeletes are deletes that wait among the writes of a shard.
//
// Before writes had versions, a delete went into the queue of each shard, behind the writes there: it takes its points
// out of the writes before it. Such queues are still read. They have a file "deletes". queue.mu guards the fields.
type oldDeletes struct {
	found  []placed  // in their order, but for those in unread
	unread []segment // in which there may be some, as the queue was opened, until findDeletes reads them
}

func hasDeletes(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "deletes"))
	return err == nil
}

// placed is an entry with its place.
type placed struct {
	place
	entry Entry
}

// forgetBefore forgets the deletes before the head.
func (d *oldDeletes) forgetBefore(s *segments) {
	passed := 0
	for passed < len(d.found) && (len(s.list) == 0 || s.first().behind(d.found[passed].place)) {
		passed++
	}
	d.found = d.found[passed:]
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
	unread := q.deletes.unread
	q.mu.Unlock()
	var found []placed
	for _, s := range unread {
		q.mu.Lock()
		at, due := q.files.due(s.id)
		q.mu.Unlock()
		if !due {
			continue
		}
		deletes, err := deletesOf(q.files.path(s.id), s, at)
		if err != nil {
			return &segmentError{s.id, err}
		}
		found = append(found, deletes...)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deletes.found = append(q.deletes.found, found...)
	q.deletes.unread = nil
	return nil
}

// deletesOf reads the deletes of a segment from offset at on.
func deletesOf(path string, s segment, at int64) (found []placed, err error) {
	f, err := os.Open(path)
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
			found = append(found, placed{place{s.id, at}, e})
		}
		at += n
	}
	return found, nil
}

// deletesBehind returns the deletes that wait behind entries at the head.
func (q *queue) deletesBehind(entries []Entry) []Entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.files.list) == 0 {
		return nil
	}
	size, _ := measure(entries)
	next := q.files.first()
	next.at += size
	var out []Entry
	for _, d := range q.deletes.found {
		if !next.behind(d.place) {
			out = append(out, d.entry)
		}
	}
	return out
}
