package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The format of a segment is drawn in docs/format/handoff.md.
const (
	magic         = "CNHH"
	formatVersion = 1
	headerSize    = 8
	recordHeader  = 4 + 4 + 8 + 1 + 4 // length, checksum, time, kind, points

	segmentSize = 10 << 20  // bytes after which the next segment begins
	maxBatch    = 32 << 20  // of batch-size
	maxRecord   = 128 << 20 // bytes of one entry; longer ones are damage

	asideDir = "damaged" // beside the folders of nodes: segments that were given up
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind tells what an entry is. The numbers are on disk.
type Kind uint8

// The kinds of entries.
const (
	Write  Kind = 1
	Delete Kind = 2
)

// Entry is one write or delete that a node has to get.
type Entry struct {
	Time   int64 // when it was queued, nanoseconds
	Kind   Kind
	Points int    // of a write
	Data   []byte // the request, as its sender encoded it
}

// size is the entry's bytes on disk.
func (e Entry) size() int64 { return int64(recordHeader + len(e.Data)) }

// measure returns what entries take on disk, in bytes, and how many points they hold.
func measure(entries []Entry) (size int64, points int) {
	for _, e := range entries {
		size += e.size()
		points += e.Points
	}
	return size, points
}

// CorruptError says where a queue is damaged.
type CorruptError struct {
	Path   string
	Offset int64
	Reason string
}

// segmentError is a segment that cannot be read on. The error is a *CorruptError when what was read is wrong.
type segmentError struct {
	id  uint64
	err error
}

func (e *segmentError) Error() string { return e.err.Error() }
func (e *segmentError) Unwrap() error { return e.err }

func (e *CorruptError) Error() string {
	return fmt.Sprintf("hinted handoff queue %s is damaged at byte %d: %s", e.Path, e.Offset, e.Reason)
}

// queue is the durable, ordered queue of one (node, shard): a folder of
// segments, each a series of records. An append is one write; appends that wait
// for the disk share one fsync. What a crash tore
// off the end is cut away when the queue is opened; nothing before it is touched.
//
// The head, the first entry not delivered yet, is stored without fsync: after a
// crash of the machine some entries may be delivered again, in their order, which
// leads to the same result.
//
// A delete takes its points out of the writes before it. It is not acknowledged before its place is stored too, apart
// from its segment: so damage that may have taken deletes along is known from damage that cannot, such as a
// torn tail, and the writes before it are given up instead of sent.
type queue struct {
	dir   string
	shard uint64
	disk  disk
	last  place // behind the last delete, as stored when the queue was opened

	mu       sync.Mutex
	segments []segment // ascending; the last one takes appends
	tail     *os.File  // the last segment, nil until the first append
	head     int64     // offset of the first entry due in segments[0]
	newest   uint64    // ID of the newest segment that there ever was
	unsynced error     // why a segment was closed whose entries may not be on disk
	bytes    int64     // on disk, delivered ones included
	end      uint64    // bytes ever appended since it was opened
	deletes  []placed  // the deletes that wait, in their order, but for those in unread
	unread   []segment // as they were when the queue was opened, until findDeletes reads them
	setbacks int       // failures in a row to get on
	rest     time.Time // no attempt before this
	told     bool      // somebody of the setbacks

	draining sync.Mutex // held by who takes entries off the head, from peek to advance
	tries    int        // to read a segment, all of them failed; guarded by draining

	syncing sync.Mutex // held during fsync; never waited for with mu held
	synced  uint64     // of end; guarded by syncing
	marked  place      // behind the last delete, as stored; guarded by syncing
}

// disk is what a queue does that tests make fail.
type disk struct {
	writeAt   func(f *os.File, b []byte, at int64) (int, error)
	sync      func(f *os.File) error
	removeAll func(dir string) error
}

var realDisk = disk{(*os.File).WriteAt, (*os.File).Sync, os.RemoveAll}

// place is an offset in a segment; the zero value is before all of them.
type place struct {
	segment uint64
	at      int64
}

// unknown is the place of the last delete when what is stored of it is damaged: behind everything.
var unknown = place{segment: math.MaxUint64}

// behind tells whether the place is behind an offset of a segment.
func (p place) behind(segment uint64, at int64) bool {
	return p.segment > segment || p.segment == segment && p.at > at
}

// A place on disk: segment ID, offset, checksum.
const placeSize = 8 + 8 + 4

func (p place) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, p.segment)
	b = binary.BigEndian.AppendUint64(b, uint64(p.at))
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodePlace(b []byte) (place, error) {
	if len(b) != placeSize || crc32.Checksum(b[:16], castagnoli) != binary.BigEndian.Uint32(b[16:]) {
		return place{}, errors.New("damaged")
	}
	return place{binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))}, nil
}

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

type segment struct {
	id   uint64
	size int64
}

func (q *queue) path(id uint64) string { return filepath.Join(q.dir, fmt.Sprintf("%08d.hh", id)) }

func (q *queue) lastPath() string { return filepath.Join(q.dir, "deletes") }

func (q *queue) headPath() string { return filepath.Join(q.dir, "head") }

// placed is an entry with its place.
type placed struct {
	segment uint64
	at      int64
	entry   Entry
}

// openQueue opens or prepares the queue of a shard in a node's folder, and cuts a torn tail. cut is how many bytes that were.
// What cannot be read or cut now is left as it is, and met again when it is its turn: appends begin a new segment.
func openQueue(nodeDir string, shard uint64, d disk) (q *queue, cut int64, err error) {
	q = &queue{dir: filepath.Join(nodeDir, strconv.FormatUint(shard, 10)), shard: shard, disk: d}
	if q.segments, err = listSegments(q.dir); err != nil || len(q.segments) == 0 {
		return q, 0, err
	}
	if q.shard != WholeDatabase {
		q.last = loadLast(q.lastPath())
		if q.last != unknown {
			q.marked = q.last
		}
	}
	for _, s := range q.segments {
		if err := checkVersion(q.path(s.id)); err != nil {
			return nil, 0, err
		}
	}
	last := &q.segments[len(q.segments)-1]
	q.newest = last.id
	whole, err := wholeRecords(q.path(last.id), last.size)
	if err == nil && whole < last.size && !q.last.behind(last.id, whole) && truncate(q.path(last.id), whole) == nil {
		cut = last.size - whole
		last.size = whole
	}
	for _, s := range q.segments {
		q.bytes += s.size
	}
	q.unread = append(q.unread, q.segments...)
	q.head = q.loadHead()
	_ = q.dropDelivered() // tried again when it is sent
	return q, cut, nil
}

// listSegments lists the segments in a queue's folder, ascending.
func listSegments(dir string) (out []segment, err error) {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, n := range names {
		id, err := strconv.ParseUint(strings.TrimSuffix(n.Name(), ".hh"), 10, 64)
		if err != nil || !strings.HasSuffix(n.Name(), ".hh") {
			continue
		}
		info, err := n.Info()
		if err != nil {
			return nil, err
		}
		out = append(out, segment{id, info.Size()})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].id < out[j].id })
	return out, nil
}

// wholeRecords returns the length of the part of a segment that is whole.
func wholeRecords(path string, size int64) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var bad *CorruptError
	if err := readHeader(f, path); errors.As(err, &bad) {
		return 0, nil // torn while it was made; after a power failure it may be zeros
	} else if err != nil {
		return 0, err
	}
	at := int64(headerSize)
	for at < size {
		_, n, err := readRecord(f, path, at, size)
		if errors.As(err, &bad) {
			break
		} else if err != nil {
			return 0, err
		}
		at += n
	}
	return at, nil
}

// checkVersion refuses a segment of another version: it is no damage, and must not be given up. One that cannot
// be read is met again when it is its turn.
func checkVersion(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var h [headerSize]byte
	if _, err := f.ReadAt(h[:], 0); err != nil || string(h[:4]) != magic {
		return nil
	}
	if err := checkHeader(h[:]); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func checkHeader(h []byte) error {
	if string(h[:4]) != magic {
		return errors.New("not a hinted handoff segment")
	}
	if v := binary.BigEndian.Uint16(h[4:]); v != formatVersion {
		return fmt.Errorf("hinted handoff format %d is unknown to this version", v)
	}
	return nil
}

// readHeader reads and checks a segment's header.
func readHeader(f io.ReaderAt, path string) error {
	var h [headerSize]byte
	if _, err := f.ReadAt(h[:], 0); errors.Is(err, io.EOF) {
		return &CorruptError{path, 0, "the header is cut short"}
	} else if err != nil {
		return err
	}
	if err := checkHeader(h[:]); err != nil {
		return &CorruptError{path, 0, err.Error()}
	}
	return nil
}

// readRecord reads the record at offset at of a segment of the given size.
func readRecord(f io.ReaderAt, path string, at, size int64) (Entry, int64, error) {
	bad := func(reason string) (Entry, int64, error) {
		return Entry{}, 0, &CorruptError{path, at, reason}
	}
	if size-at < recordHeader {
		return bad("a record is cut short")
	}
	read := func(b []byte, at int64) error {
		_, err := f.ReadAt(b, at)
		if errors.Is(err, io.EOF) {
			return &CorruptError{path, at, "the segment is shorter than it was"}
		}
		return err
	}
	var h [recordHeader]byte
	if err := read(h[:], at); err != nil {
		return Entry{}, 0, err
	}
	n := int64(binary.BigEndian.Uint32(h[0:]))
	if n > maxRecord || n > size-at-recordHeader {
		return bad("a record is longer than the segment")
	}
	e := Entry{
		Time: int64(binary.BigEndian.Uint64(h[8:])), Kind: Kind(h[16]),
		Points: int(binary.BigEndian.Uint32(h[17:])), Data: make([]byte, n),
	}
	if err := read(e.Data, at+recordHeader); err != nil {
		return Entry{}, 0, err
	}
	if sum := crc32.Update(crc32.Checksum(h[8:], castagnoli), castagnoli, e.Data); sum != binary.BigEndian.Uint32(h[4:]) {
		return bad("checksum mismatch")
	}
	if e.Kind != Write && e.Kind != Delete {
		return bad(fmt.Sprintf("unknown kind %d", e.Kind))
	}
	return e, recordHeader + n, nil
}

func appendRecord(b []byte, e Entry) []byte {
	at := len(b)
	b = append(b, make([]byte, recordHeader)...)
	h := b[at:]
	binary.BigEndian.PutUint32(h[0:], uint32(len(e.Data)))
	binary.BigEndian.PutUint64(h[8:], uint64(e.Time))
	h[16] = byte(e.Kind)
	binary.BigEndian.PutUint32(h[17:], uint32(e.Points))
	binary.BigEndian.PutUint32(h[4:], crc32.Update(crc32.Checksum(h[8:recordHeader], castagnoli), castagnoli, e.Data))
	return append(b, e.Data...)
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

// tell tells whether a setback is news: the first since the queue got on.
func (q *queue) tell() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	news := !q.told
	q.told = true
	return news
}

// recovered ends the rest: the queue got on.
func (q *queue) recovered() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.setbacks, q.rest, q.told = 0, time.Time{}, false
}

// resting is how long the queue rests yet.
func (q *queue) resting() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Until(q.rest)
}

// appended is an append that is not on disk yet.
type appended struct {
	file    *os.File
	end     uint64 // of all that was ever appended
	grown   int64  // bytes by which the queue became larger, valid with an error too
	deletes place  // behind it, when there are deletes in it that concern the writes before them
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
	if a.file, err = q.appendLocked(records); err == nil {
		last := q.segments[len(q.segments)-1]
		at := last.size - int64(len(records))
		for _, e := range entries {
			if e.Kind == Delete {
				q.deletes = append(q.deletes, placed{last.id, at, e})
				if q.shard != WholeDatabase {
					a.deletes = place{last.id, last.size}
				}
			}
			at += e.size()
		}
	}
	a.end, a.grown = q.end, q.bytes-before
	return a, err
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
	q.end += uint64(len(b))
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
		err = errors.Join(syncDir(q.dir), syncDir(filepath.Dir(q.dir)), syncDir(filepath.Dir(filepath.Dir(q.dir))))
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
			now = q.end // segments before the tail are on disk
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
	if !a.deletes.behind(q.marked.segment, q.marked.at) {
		return nil
	}
	// After the entries: of a delete that a crash tears off nothing is known.
	if err := q.mark(a.deletes); err != nil {
		return fmt.Errorf("store the place of a delete: %w", err)
	}
	q.marked = a.deletes
	return nil
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

// next is peek once the deletes are known that wait behind the entries.
func (q *queue) next(max int64) ([]Entry, error) {
	if err := q.findDeletes(); err != nil {
		return nil, err
	}
	return q.peek(max)
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

// delivered tells whether there is nothing to send at the head, but something to remove.
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
		err = errors.Join(err, syncDir(filepath.Dir(files[0])), syncDir(q.dir))
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

// moved follows the head: it stores it, and forgets the deletes before it. That the head is not stored is no error:
// entries are sent twice after a restart, which leads to the same result, and on a full disk they make room.
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
	if err := syncDir(filepath.Dir(q.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
