package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"concord/internal/durable"
)

// segmentError is a segment that cannot be read on. The error is a *CorruptError when what was read is wrong.
type segmentError struct {
	id  uint64
	err error
}

func (e *segmentError) Error() string { return e.err.Error() }
func (e *segmentError) Unwrap() error { return e.err }

// queue is the durable, ordered queue of one (node, shard): a folder of
// segments, each a series of records. An append is one write; appends that wait
// for the disk share one fsync. What a crash tore
// off the end is cut away when the queue is opened; nothing before it is touched.
//
// The head, the first entry not delivered yet, is stored without fsync: after a
// crash of the machine some entries may be delivered again, in their order, which
// leads to the same result.
type queue struct {
	dir   string
	shard uint64
	disk  disk

	mu       sync.Mutex
	segments []segment // ascending; the last one takes appends
	tail     *os.File  // the last segment, nil until the first append
	head     int64     // offset of the first entry due in segments[0]
	newest   uint64    // ID of the newest segment that there ever was
	unsynced error     // why a segment was closed whose entries may not be on disk
	bytes    int64     // on disk, delivered ones included
	appended uint64    // bytes, since it was opened
	deletes  []placed  // that wait among writes, in their order, but for those in unread
	unread   []segment // in which they may be, as the queue was opened, until findDeletes reads them
	setbacks int       // failures in a row to get on
	rest     time.Time // no attempt before this
	reported bool      // the setbacks were logged
	owed     place     // behind the last entry that counts as acknowledged

	draining sync.Mutex // held by who takes entries off the head, from peek to advance
	tries    int        // to read a segment, all of them failed; guarded by draining

	syncing sync.Mutex // held during fsync; never waited for with mu held
	synced  uint64     // of appended; guarded by syncing
}

// disk is what a queue does that tests make fail.
type disk struct {
	writeAt   func(f *os.File, b []byte, at int64) (int, error)
	sync      func(f *os.File) error
	removeAll func(dir string) error
}

var realDisk = disk{(*os.File).WriteAt, (*os.File).Sync, os.RemoveAll}

type segment struct {
	id   uint64
	size int64
}

func (q *queue) path(id uint64) string { return filepath.Join(q.dir, fmt.Sprintf("%08d.hh", id)) }

func (q *queue) headPath() string { return filepath.Join(q.dir, "head") }

// openQueue opens or prepares the queue of a shard in a node's folder, and cuts a torn tail. cut is how many bytes that were.
// What cannot be read or cut now is left as it is, and met again when it is its turn: appends begin a new segment.
func openQueue(nodeDir string, shard uint64, d disk) (q *queue, cut int64, err error) {
	q = &queue{dir: filepath.Join(nodeDir, strconv.FormatUint(shard, 10)), shard: shard, disk: d}
	if q.segments, err = listSegments(q.dir); err != nil {
		return nil, 0, err
	}
	if len(q.segments) == 0 {
		return q, 0, nil
	}
	for _, s := range q.segments {
		if err := checkVersion(q.path(s.id)); err != nil {
			return nil, 0, err
		}
	}
	last := &q.segments[len(q.segments)-1]
	q.newest = max(q.newest, last.id)
	whole, err := wholeRecords(q.path(last.id), last.size)
	if err == nil && whole < last.size && truncate(q.path(last.id), whole) == nil {
		cut = last.size - whole
		last.size = whole
	}
	for _, s := range q.segments {
		q.bytes += s.size
	}
	if q.hasDeletes() {
		q.unread = append(q.unread, q.segments...)
	}
	q.head = q.loadHead()
	q.owed = place{last.id, last.size} // whether they were acknowledged is not on disk
	_ = q.dropDelivered()              // tried again when it is sent
	return q, cut, nil
}

// owe makes all entries count as acknowledged.
func (q *queue) owe() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.segments) > 0 {
		last := q.segments[len(q.segments)-1]
		q.owed = place{last.id, last.size}
	}
}

// owes tells whether an entry waits that counts as acknowledged.
func (q *queue) owes() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.segments) > 0 && q.owed.behind(q.segments[0].id, q.head)
}

// pending tells whether entries wait.
func (q *queue) pending() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.segments) > 0
}

// onDisk is the bytes of all segments.
func (q *queue) onDisk() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// setback makes the queue rest, and returns for how long.
func (q *queue) setback(least, most time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	pause := least
	for range q.setbacks {
		pause = min(2*pause, most)
	}
	q.setbacks++
	q.rest = time.Now().Add(pause)
	return pause
}

// firstReport reports whether no setback was logged since the queue got on.
func (q *queue) firstReport() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := !q.reported
	q.reported = true
	return first
}

// recovered ends the rest: the queue got on.
func (q *queue) recovered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.setbacks, q.rest, q.reported = 0, time.Time{}, false
}

// retry ends the rest, unless the queue rests for a fault of its own files.
func (q *queue) retry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.reported {
		q.setbacks, q.rest = 0, time.Time{}
	}
}

// resting is how long the queue rests yet.
func (q *queue) resting() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Until(q.rest)
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
	before := q.bytes
	a.file, err = q.appendLocked(records)
	a.end, a.grown = q.appended, q.bytes-before
	return a, err
}

// due returns where the entries of a segment begin that are not delivered, if there may be some.
func (q *queue) due(id uint64) (at int64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.segments) == 0 || id < q.segments[0].id:
		return 0, false
	case id == q.segments[0].id:
		return q.head, true
	}
	return headerSize, true
}

func (q *queue) appendLocked(b []byte) (*os.File, error) {
	if q.tail == nil || q.segments[len(q.segments)-1].size >= segmentSize {
		if err := q.addSegment(); err != nil {
			return nil, err
		}
	}
	last := &q.segments[len(q.segments)-1]
	if _, err := q.disk.writeAt(q.tail, b, last.size); err != nil {
		// What was written of it is cut off, or written over by the next append.
		q.tail.Truncate(last.size)
		return nil, err
	}
	last.size += int64(len(b))
	q.bytes += int64(len(b))
	q.appended += uint64(len(b))
	return q.tail, nil
}

// addSegment makes the segment that takes the next appends.
func (q *queue) addSegment() error {
	if q.tail != nil {
		if err := q.closeTail(); err != nil {
			return err
		}
	} else if err := os.MkdirAll(q.dir, 0o750); err != nil {
		return err
	}
	id := q.newest + 1
	f, err := os.OpenFile(q.path(id), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	h := binary.BigEndian.AppendUint16([]byte(magic), formatVersion)
	h = append(h, 0, 0)
	if _, err = f.Write(h); err == nil {
		// The folders are new with the first segment.
		node := filepath.Dir(q.dir)
		err = errors.Join(durable.SyncDir(q.dir), durable.SyncDir(node), durable.SyncDir(filepath.Dir(node)))
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(q.path(id)))
	}
	if len(q.segments) == 0 {
		q.head = headerSize
	}
	q.segments = append(q.segments, segment{id, headerSize})
	q.newest = id
	q.bytes += headerSize
	q.tail = f
	return nil
}

// sync returns when an append and all before it are on disk.
func (q *queue) sync(a appended) error {
	q.syncing.Lock()
	defer q.syncing.Unlock()
	if q.synced < a.end {
		now := a.end
		q.mu.Lock()
		if q.tail == a.file {
			now = q.appended // segments before the tail are on disk
		}
		q.mu.Unlock()
		err := q.disk.sync(a.file)
		if errors.Is(err, os.ErrClosed) { // by closeTail, or it is delivered
			q.mu.Lock()
			err = q.unsynced
			q.mu.Unlock()
		}
		if err != nil {
			return err
		}
		q.synced = now
	}
	return nil
}

// peek returns the entries at the head, at least one if there is one, then as
// many as fit into max bytes. The error is a *segmentError.
func (q *queue) peek(max int64) ([]Entry, error) {
	q.mu.Lock()
	if len(q.segments) == 0 {
		q.mu.Unlock()
		return nil, nil
	}
	seg, at := q.segments[0], q.head
	q.mu.Unlock()
	path := q.path(seg.id)
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

// advance takes delivered entries off the head, as peek returned them.
func (q *queue) advance(entries []Entry) error {
	q.mu.Lock()
	size, _ := measure(entries)
	q.head += size
	q.mu.Unlock()
	return q.dropDelivered()
}

// delivered reports whether the queue is empty, or its first segment is delivered and can be removed.
func (q *queue) delivered() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.segments) == 0 || q.head >= q.segments[0].size
}

// dropDelivered removes segments whose entries are all delivered, and stores the head.
func (q *queue) dropDelivered() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.segments) > 0 && q.head >= q.segments[0].size {
		if err := q.shift(os.Remove); err != nil {
			return err
		}
	}
	q.moved()
	return nil
}

// setAside gives up all segments up to last, and moves their files out of the queue. It returns
// how many bytes were not delivered, and where the files are now.
func (q *queue) setAside(last uint64) (lost int64, files []string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for err == nil && len(q.segments) > 0 && q.segments[0].id <= last {
		due := q.segments[0].size - q.head
		if err = q.shift(func(path string) error {
			to, err := q.asidePath(path)
			if err == nil {
				err = os.Rename(path, to)
			}
			if err == nil {
				files = append(files, to)
			}
			return err
		}); err == nil {
			lost += due
		}
	}
	q.moved()
	if len(files) > 0 {
		err = errors.Join(err, durable.SyncDir(filepath.Dir(files[0])), durable.SyncDir(q.dir))
	}
	return lost, files, err
}

// asidePath returns a new name beside the queues of all nodes: with its last entry a queue's own folder goes.
func (q *queue) asidePath(path string) (string, error) {
	node, shard := filepath.Base(filepath.Dir(q.dir)), filepath.Base(q.dir)
	dir := filepath.Join(filepath.Dir(filepath.Dir(q.dir)), asideDir)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		to := filepath.Join(dir, fmt.Sprintf("node%s-shard%s-%d-%s", node, shard, n, filepath.Base(path)))
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, nil
		} else if err != nil {
			return "", err
		}
	}
}

// shift takes the first segment off the queue, and its file away.
func (q *queue) shift(away func(path string) error) error {
	s := q.segments[0]
	if len(q.segments) == 1 && q.tail != nil {
		q.tail.Close()
		q.tail = nil
	}
	if err := away(q.path(s.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	q.bytes -= s.size
	q.segments = q.segments[1:]
	q.head = headerSize
	return nil
}

// moved stores the head, and forgets the deletes before it. It is not an error when the head cannot be stored: some
// entries are then sent again after a restart, which leads to the same result, and delivering frees space on a full
// disk.
func (q *queue) moved() {
	passed := 0
	for passed < len(q.deletes) && (len(q.segments) == 0 || q.deletes[passed].segment < q.segments[0].id ||
		q.deletes[passed].segment == q.segments[0].id && q.deletes[passed].at < q.head) {
		passed++
	}
	q.deletes = q.deletes[passed:]
	if len(q.segments) == 0 {
		os.Remove(q.headPath())
		return
	}
	_ = os.WriteFile(q.headPath(), place{q.segments[0].id, q.head}.encode(), 0o640)
}

// loadHead falls back to the first segment's beginning.
func (q *queue) loadHead() int64 {
	b, err := os.ReadFile(q.headPath())
	if err != nil {
		return headerSize
	}
	p, err := decodePlace(b)
	if err != nil || p.segment != q.segments[0].id || p.at < headerSize || p.at > q.segments[0].size {
		return headerSize
	}
	return p.at
}

// close ends appends; entries stay on disk.
func (q *queue) close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tail == nil {
		return nil
	}
	return q.closeTail()
}

// closeTail syncs the last segment and closes it: appends that still wait for their fsync find it done, or failed.
func (q *queue) closeTail() error {
	err := errors.Join(q.disk.sync(q.tail), q.tail.Close())
	q.tail = nil
	if err != nil {
		q.unsynced = err
	}
	return err
}

// remove deletes the queue with all its entries. On an error it still is what it was, to be removed again.
func (q *queue) remove() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tail != nil {
		q.tail.Close()
		q.tail = nil
	}
	// Later writes go past the queue: what is in it must not be there again after a power failure.
	if err := q.disk.removeAll(q.dir); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(q.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	q.segments, q.bytes, q.head, q.deletes, q.unread = nil, 0, headerSize, nil, nil
	return nil
}

func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}
