package handoff

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
)

// unknown is the place of the last delete when what is stored of it is damaged: behind everything.
var unknown = place{segment: math.MaxUint64}

// loadLast reads the place behind the last delete.
func loadLast(path string) place {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}
	}
	p, bad := decodePlace(b)
	if err != nil || bad != nil {
		return unknown
	}
	return p
}

func (q *queue) lastPath() string { return filepath.Join(q.dir, "deletes") }

// placed is an entry with its place.
type placed struct {
	segment uint64
	at      int64
	entry   Entry
}

// findDeletes reads what was in the queue when it was opened, for its deletes. The error is a *segmentError.
func (q *queue) findDeletes() error {
	q.mu.Lock()
	unread := q.unread
	q.mu.Unlock()
	if unread == nil {
		return nil
	}
	var found []placed
	var before segment // the one before, 0 for none
	for _, s := range unread {
		at, due := q.due(s.id)
		if !due {
			continue
		}
		if before.id != 0 && s.id != before.id+1 && q.last.segment > before.id {
			return lostDeletes(before.id, &CorruptError{q.path(before.id + 1), 0, "the segment is missing"})
		}
		deletes, at, err := q.deletesOf(s, at)
		if err == nil && q.last.segment == s.id && q.last.at > s.size {
			err = &CorruptError{q.path(s.id), s.size, "the segment is shorter than it was"}
		}
		// Without deletes behind it, it is met when it is its turn.
		if err != nil && q.last.behind(s.id, at) {
			return lostDeletes(s.id, err)
		}
		found = append(found, deletes...)
		before = s
	}
	if before.id != 0 && q.last != unknown && q.last.segment > before.id {
		return lostDeletes(before.id, &CorruptError{q.path(before.id + 1), 0, "the segment is missing"})
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.deletes = append(found, q.deletes...)
	q.unread = nil
	return nil
}

// lostDeletes says that deletes may be lost behind writes that are in the segment or before it.
func lostDeletes(segment uint64, err error) error {
	return &segmentError{segment, fmt.Errorf("%w; deletes may have been behind it", err)}
}

// deletesOf reads the deletes of a segment from offset at on. With an error they are those before it, and end is its offset.
func (q *queue) deletesOf(s segment, at int64) (found []placed, end int64, err error) {
	f, err := os.Open(q.path(s.id))
	if err != nil {
		return nil, at, err
	}
	defer f.Close()
	if err := readHeader(f, f.Name()); err != nil {
		return nil, at, err
	}
	for at < s.size {
		e, n, err := readRecord(f, f.Name(), at, s.size)
		if err != nil {
			return found, at, err
		}
		if e.Kind == Delete {
			found = append(found, placed{s.id, at, e})
		}
		at += n
	}
	return found, at, nil
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

// mark stores the place behind the last delete, in one piece.
func (q *queue) mark(p place) error {
	f, err := os.CreateTemp(q.dir, "deletes.*")
	if err == nil {
		_, err = f.Write(p.encode())
		err = errors.Join(err, f.Sync(), f.Close())
	}
	q.mu.Lock()
	delivered := len(q.segments) == 0 || q.segments[0].id > p.segment
	if err == nil && !delivered { // else the folder may be that of a new queue by now
		err = os.Rename(f.Name(), q.lastPath())
	}
	q.mu.Unlock()
	if f != nil && (err != nil || delivered) {
		os.Remove(f.Name())
	}
	if err == nil && !delivered {
		err = syncDir(q.dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, due := q.due(p.segment); !due {
			return nil // delivered
		}
	}
	return err
}
