package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"concord/internal/durable"
)

// segmentError is a segment that cannot be read on. The error is a *CorruptError when what was read is wrong.
type segmentError struct {
	id  uint64
	err error
}

func (e *segmentError) Error() string { return e.err.Error() }
func (e *segmentError) Unwrap() error { return e.err }

// disk is what a queue does that tests make fail.
type disk struct {
	writeAt   func(f *os.File, b []byte, at int64) (int, error)
	sync      func(f *os.File) error
	removeAll func(dir string) error
}

var realDisk = disk{(*os.File).WriteAt, (*os.File).Sync, os.RemoveAll}

// segment is one file of a queue.
type segment struct {
	id   uint64
	size int64
}

// segments is the folder of a queue: its files, of which the last one takes appends, and the head, which is the first
// entry not delivered yet. queue.mu guards it.
//
// The head is stored without fsync: after a crash of the machine some entries may be delivered again, in their order,
// which leads to the same result.
type segments struct {
	dir  string
	disk disk

	list     []segment // ascending
	head     int64     // offset of the first entry due in the first one
	tail     *os.File  // the last one, nil until the first append
	newest   uint64    // ID of the newest that there ever was
	unsynced error     // why one was closed whose entries may not be on disk
	bytes    int64     // on disk, delivered ones included
	appended uint64    // bytes, since the queue was opened
}

func (s *segments) path(id uint64) string { return filepath.Join(s.dir, fmt.Sprintf("%08d.hh", id)) }

func (s *segments) headPath() string { return filepath.Join(s.dir, "head") }

// load lists what is in the folder, and cuts a torn tail. cut is how many bytes that were. What cannot be read or cut
// now is left as it is, and met again when it is its turn: appends begin a new segment.
func (s *segments) load() (cut int64, err error) {
	if s.list, err = listSegments(s.dir); err != nil || len(s.list) == 0 {
		return 0, err
	}
	for _, one := range s.list {
		if err := checkVersion(s.path(one.id)); err != nil {
			return 0, err
		}
	}
	last := &s.list[len(s.list)-1]
	s.newest = last.id
	whole, err := wholeRecords(s.path(last.id), last.size)
	if err == nil && whole < last.size && truncate(s.path(last.id), whole) == nil {
		cut = last.size - whole
		last.size = whole
	}
	for _, one := range s.list {
		s.bytes += one.size
	}
	s.head = s.loadHead()
	return cut, nil
}

// loadHead falls back to the first segment's beginning.
func (s *segments) loadHead() int64 {
	b, err := os.ReadFile(s.headPath())
	if err != nil {
		return headerSize
	}
	p, err := decodePlace(b)
	if err != nil || p.segment != s.list[0].id || p.at < headerSize || p.at > s.list[0].size {
		return headerSize
	}
	return p.at
}

// saveHead stores the head. It is not an error when it cannot be stored: some entries are then sent again after a
// restart, which leads to the same result, and delivering frees space on a full disk.
func (s *segments) saveHead() {
	if len(s.list) == 0 {
		os.Remove(s.headPath())
		return
	}
	_ = os.WriteFile(s.headPath(), s.first().encode(), 0o640)
}

// first is the place of the first entry due, and end the place behind the last one. There must be a segment.
func (s *segments) first() place { return place{s.list[0].id, s.head} }

func (s *segments) end() place {
	last := s.list[len(s.list)-1]
	return place{last.id, last.size}
}

// due returns where the entries of a segment begin that are not delivered, if there may be some.
func (s *segments) due(id uint64) (at int64, ok bool) {
	switch {
	case len(s.list) == 0 || id < s.list[0].id:
		return 0, false
	case id == s.list[0].id:
		return s.head, true
	}
	return headerSize, true
}

// append writes records behind the last one. They are in the file that it returns, and need not be on disk.
func (s *segments) append(records []byte) (*os.File, error) {
	if s.tail == nil || s.list[len(s.list)-1].size >= segmentSize {
		if err := s.add(); err != nil {
			return nil, err
		}
	}
	last := &s.list[len(s.list)-1]
	if _, err := s.disk.writeAt(s.tail, records, last.size); err != nil {
		// What was written of it is cut off, or written over by the next append.
		s.tail.Truncate(last.size)
		return nil, err
	}
	last.size += int64(len(records))
	s.bytes += int64(len(records))
	s.appended += uint64(len(records))
	return s.tail, nil
}

// add makes the segment that takes the next appends.
func (s *segments) add() error {
	if s.tail != nil {
		if err := s.closeTail(); err != nil {
			return err
		}
	} else if err := os.MkdirAll(s.dir, 0o750); err != nil {
		return err
	}
	id := s.newest + 1
	f, err := os.OpenFile(s.path(id), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	h := binary.BigEndian.AppendUint16([]byte(magic), formatVersion)
	h = append(h, 0, 0)
	if _, err = f.Write(h); err == nil {
		// The folders are new with the first segment.
		node := filepath.Dir(s.dir)
		err = errors.Join(durable.SyncDir(s.dir), durable.SyncDir(node), durable.SyncDir(filepath.Dir(node)))
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(s.path(id)))
	}
	if len(s.list) == 0 {
		s.head = headerSize
	}
	s.list = append(s.list, segment{id, headerSize})
	s.newest = id
	s.bytes += headerSize
	s.tail = f
	return nil
}

// closeTail syncs the last segment and closes it: appends that still wait for their fsync find it done, or failed.
func (s *segments) closeTail() error {
	if s.tail == nil {
		return nil
	}
	err := errors.Join(s.disk.sync(s.tail), s.tail.Close())
	s.tail = nil
	if err != nil {
		s.unsynced = err
	}
	return err
}

// delivered reports whether there is nothing, or the first segment is delivered and can be removed.
func (s *segments) delivered() bool { return len(s.list) == 0 || s.head >= s.list[0].size }

// dropDelivered removes segments whose entries are all delivered, and stores the head.
func (s *segments) dropDelivered() error {
	for len(s.list) > 0 && s.delivered() {
		if err := s.shift(os.Remove); err != nil {
			return err
		}
	}
	s.saveHead()
	return nil
}

// setAside gives up all segments up to last, and moves their files out of the queue. It returns how many bytes were
// not delivered, and where the files are now.
func (s *segments) setAside(last uint64) (lost int64, files []string, err error) {
	for err == nil && len(s.list) > 0 && s.list[0].id <= last {
		due := s.list[0].size - s.head
		if err = s.shift(func(path string) error {
			to, err := s.asidePath(path)
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
	s.saveHead()
	if len(files) > 0 {
		err = errors.Join(err, durable.SyncDir(filepath.Dir(files[0])), durable.SyncDir(s.dir))
	}
	return lost, files, err
}

// asidePath returns a new name beside the queues of all nodes: with its last entry a queue's own folder goes.
func (s *segments) asidePath(path string) (string, error) {
	node, shard := filepath.Base(filepath.Dir(s.dir)), filepath.Base(s.dir)
	dir := filepath.Join(filepath.Dir(filepath.Dir(s.dir)), asideDir)
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

// shift takes the first segment off the list, and its file away.
func (s *segments) shift(away func(path string) error) error {
	first := s.list[0]
	if len(s.list) == 1 && s.tail != nil {
		s.tail.Close()
		s.tail = nil
	}
	if err := away(s.path(first.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.bytes -= first.size
	s.list = s.list[1:]
	s.head = headerSize
	return nil
}

// remove deletes the folder. On an error all still is what it was, to be removed again.
func (s *segments) remove() error {
	if s.tail != nil {
		s.tail.Close()
		s.tail = nil
	}
	// Later writes go past the queue: what is in it must not be there again after a power failure.
	if err := s.disk.removeAll(s.dir); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(s.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.list, s.bytes, s.head = nil, 0, headerSize
	return nil
}

func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}
