package handoff

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// queue is the durable, ordered queue of one (node, shard): a folder of segments, each a series of records. An append
// is one write; appends that wait for the disk share one fsync. What a crash tore off the end is cut away when the
// queue is opened; nothing before it is touched.
type queue struct {
	mu      sync.Mutex
	files   segments
	deletes oldDeletes // that wait among writes
	owed    place      // behind the last entry that counts as acknowledged

	aged   place // the head when age was asked last; guarded by mu, like agedAt
	agedAt int64 // when the entry there was queued

	draining sync.Mutex // held by who takes entries off the head, from peek to advance
	tries    int        // to read a segment, all of them failed; guarded by draining

	syncing sync.Mutex // held during fsync; never waited for with mu held
	synced  uint64     // of segments.appended; guarded by syncing

	rest rest
}

// openQueue opens or prepares the queue of a shard in a node's folder, and cuts a torn tail. cut is how many bytes that
// were.
func openQueue(nodeDir string, shard uint64, d disk) (q *queue, cut int64, err error) {
	dir := filepath.Join(nodeDir, strconv.FormatUint(shard, 10))
	q = &queue{files: segments{dir: dir, disk: d}}
	if cut, err = q.files.load(); err != nil {
		return nil, 0, err
	}
	if len(q.files.list) == 0 {
		return q, 0, nil
	}
	if hasDeletes(dir) {
		q.deletes.unread = append(q.deletes.unread, q.files.list...)
	}
	q.owed = q.files.end() // whether they were acknowledged is not on disk
	_ = q.dropDelivered()  // tried again when it is sent
	return q, cut, nil
}

// owe makes all entries count as acknowledged.
func (q *queue) owe() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.files.list) > 0 {
		q.owed = q.files.end()
	}
}

// owes tells whether an entry waits that counts as acknowledged.
func (q *queue) owes() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.files.list) > 0 && q.owed.behind(q.files.first())
}

// pending tells whether entries wait.
func (q *queue) pending() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.files.list) > 0
}

// onDisk is the bytes of all segments.
func (q *queue) onDisk() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.files.bytes
}

// appended is an append that is not on disk yet.
type appended struct {
	file  *os.File
	end   uint64 // of all that was ever appended
	grown int64  // bytes by which the queue became larger, valid with an error too
}

// write appends entries in one write; they are on disk when sync returns.
func (q *queue) write(entries ...Entry) (a appended, err error) {
	var records []byte
	for _, e := range entries {
		if len(e.Data) > maxRecord {
			return a, fmt.Errorf("an entry of %d bytes is too large for hinted handoff", len(e.Data))
		}
		records = appendRecord(records, e)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.files.bytes
	a.file, err = q.files.append(records)
	a.end, a.grown = q.files.appended, q.files.bytes-before
	return a, err
}

// sync returns when an append and all before it are on disk.
func (q *queue) sync(a appended) error {
	q.syncing.Lock()
	defer q.syncing.Unlock()
	if q.synced >= a.end {
		return nil
	}
	now := a.end
	q.mu.Lock()
	if q.files.tail == a.file {
		now = q.files.appended // segments before the tail are on disk
	}
	q.mu.Unlock()
	err := q.files.disk.sync(a.file)
	if errors.Is(err, os.ErrClosed) { // by closeTail, or it is delivered
		q.mu.Lock()
		err = q.files.unsynced
		q.mu.Unlock()
	}
	if err != nil {
		return err
	}
	q.synced = now
	return nil
}

// peek returns the entries at the head, at least one if there is one, then as many as fit into max bytes. The error is
// a *segmentError.
func (q *queue) peek(max int64) ([]Entry, error) {
	q.mu.Lock()
	if len(q.files.list) == 0 {
		q.mu.Unlock()
		return nil, nil
	}
	seg, at := q.files.list[0], q.files.head
	q.mu.Unlock()
	path := q.files.path(seg.id)
	f, err := os.Open(path)
	if err != nil {
		return nil, &segmentError{seg.id, err}
	}
	defer f.Close()
	if err := readHeader(f, path); err != nil {
		return nil, &segmentError{seg.id, err}
	}
	var out []Entry
	for total := int64(0); at < seg.size; {
		e, n, err := readRecord(f, path, at, seg.size)
		if err != nil {
			if len(out) > 0 {
				return out, nil // it is met again when these are gone
			}
			return nil, &segmentError{seg.id, err}
		}
		if len(out) > 0 && total+n > max {
			break
		}
		out = append(out, e)
		total += n
		at += n
	}
	return out, nil
}

// oldest is when the entry at the head was queued, in nanoseconds; 0 when there is none, or it cannot be read. It reads
// from disk only when the head has moved since it was asked last.
func (q *queue) oldest() int64 {
	q.mu.Lock()
	if q.files.delivered() {
		q.mu.Unlock()
		return 0
	}
	seg, head := q.files.list[0], q.files.first()
	if q.aged == head {
		defer q.mu.Unlock()
		return q.agedAt
	}
	q.mu.Unlock()
	at := timeOf(q.files.path(seg.id), head.at, seg.size)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.aged, q.agedAt = head, at
	return at
}

// timeOf is when the entry at an offset of a segment was queued, 0 when it cannot be read.
func timeOf(path string, at, size int64) int64 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	e, _, err := readRecord(f, path, at, size)
	if err != nil {
		return 0
	}
	return e.Time
}

// advance takes delivered entries off the head, as peek returned them.
func (q *queue) advance(entries []Entry) error {
	q.mu.Lock()
	size, _ := measure(entries)
	q.files.head += size
	q.mu.Unlock()
	return q.dropDelivered()
}

// delivered reports whether the queue is empty, or its first segment is delivered and can be removed.
func (q *queue) delivered() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.files.delivered()
}

// dropDelivered removes segments whose entries are all delivered, and stores the head.
func (q *queue) dropDelivered() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.files.dropDelivered(); err != nil {
		return err
	}
	q.deletes.forgetBefore(&q.files)
	return nil
}

// setAside gives up all segments up to last, and moves their files out of the queue. It returns how many bytes were
// not delivered, and where the files are now.
func (q *queue) setAside(last uint64) (lost int64, files []string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.deletes.forgetBefore(&q.files)
	return q.files.setAside(last)
}

// close ends appends; entries stay on disk.
func (q *queue) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.files.closeTail()
}

// remove deletes the queue with all its entries. On an error it still is what it was, to be removed again.
func (q *queue) remove() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.files.remove(); err != nil {
		return err
	}
	q.deletes = oldDeletes{}
	return nil
}
