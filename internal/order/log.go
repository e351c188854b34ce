package order

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"concord/internal/durable"
)

// The files of the journal. docs/format/order.md describes them.
const (
	logExt, sortedExt     = "log", "sorted"
	logMagic, sortedMagic = "CORL", "CORS"
	fileFormat            = 1
	maxFormat             = 255 // that a later version of this program may have
	headerSize            = 8
	recordHeader          = 4 + 4 + 8 + 8 + 8 // checksum, keys, version, first and last time
	maxRecordKeys         = 1 << 26
)

// damagedError is for a file that is not what was written to it. Nothing in it is newer than newest.
type damagedError struct {
	newest Version
	why    string
}

func (e *damagedError) Error() string { return e.why }

// damaged returns the error for a damaged file. The time of the file is when it was written to for the last time.
func damaged(f *os.File, why string) error {
	at := time.Now()
	if info, err := f.Stat(); err == nil {
		at = info.ModTime()
	}
	return &damagedError{AtTime(at.Add(time.Hour)), why}
}

func pathOf(dir string, id uint64, ext string) string {
	return filepath.Join(dir, fmt.Sprintf("%08d.%s", id, ext))
}

func header(magic string) []byte { return append([]byte(magic), 0, fileFormat, 0, 0) }

func readHeader(f *os.File, magic string) error {
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(f, b); ends(err) {
		return damaged(f, "the file is too short")
	} else if err != nil {
		return err
	}
	if string(b[:4]) != magic {
		return damaged(f, "it is not a file of the journal of writes")
	}
	format, reserved := binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
	switch {
	case format == fileFormat && reserved == 0:
		return nil
	case format == 0 || format > maxFormat || reserved != 0:
		return damaged(f, "its header is damaged")
	}
	return fmt.Errorf("format %d is of another version of this program: move the file away to start without it", format)
}

// ends reports whether an error of a reader says that the file ends, and not that the disk failed.
func ends(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

// newGeneration begins a log in a folder.
func newGeneration(id uint64, dir string) (*generation, error) {
	path := pathOf(dir, id, logExt)
	g := &generation{id: id, path: path, began: time.Now(), table: newTable(1 << 4), size: headerSize}
	var err error
	if g.file, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640); err != nil {
		return nil, err
	}
	if _, err = g.file.Write(header(logMagic)); err == nil {
		err = durable.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, g.remove())
	}
	return g, nil
}

func (g *generation) close() error { return g.file.Close() }

func (g *generation) remove() error { return errors.Join(g.file.Close(), os.Remove(g.path)) }

// add notes a write that begins, and returns the end of its record.
func (g *generation) add(n noted) (end int64, err error) {
	if err := g.append(n); err != nil {
		return 0, err
	}
	g.underWay++
	g.keys += len(n.keys)
	g.newest = max(g.newest, n.version)
	return g.size, nil
}

// withdrawn is a write that failed, of which the log does not say so yet.
type withdrawn struct {
	record int64 // where its record ends
	has    noted // what the engine has of it for certain
}

// withdraw says in the log that the write whose record ends at record failed. The engine has no keys of it for certain
// but those in has. When that cannot be written, it is tried again later. Until then the write would count as a whole
// after a restart, like one that a crash interrupts.
func (g *generation) withdraw(record int64, has noted) {
	g.withdrawn = append(g.withdrawn, withdrawn{record, has})
	g.logWithdrawn() // an error comes again from SetFloor
}

func (g *generation) logWithdrawn() error {
	for len(g.withdrawn) > 0 {
		w := g.withdrawn[0]
		if err := g.append(noted{version: w.has.version, first: w.record}); err != nil {
			return err
		}
		if len(w.has.keys) > 0 {
			err := g.append(w.has)
			if err == nil {
				err = g.append(ended(w.has.version, g.size))
			}
			if err != nil {
				return err // the write is withdrawn twice then, which does no harm
			}
		}
		g.withdrawn = g.withdrawn[1:]
	}
	return nil
}

// ended is the mark that the engine has the write whose record ends at record. A process that is killed leaves it on
// disk. So it is known after that which writes the engine has. An earlier build takes it for a write that failed, and
// finds no record that ends at -1.
func ended(v Version, record int64) noted { return noted{version: v, first: -1, last: record} }

// finish marks the end of a log to which nothing is added any more but what becomes of writes, by a record without
// keys. So a last record that is cut short counts as damage. Without the mark, a crash may have torn it.
func (g *generation) finish() (err error) {
	g.full = true
	if !g.finished {
		err = g.append(noted{})
	}
	return err
}

// maxBuffer is how large a buffer for records is that is used again.
const maxBuffer = 1 << 20

func (g *generation) append(n noted) error {
	b := slices.Grow(g.buf[:0], recordHeader+8*len(n.keys))[:recordHeader]
	if g.buf = b; cap(b) > maxBuffer {
		g.buf = nil
	}
	binary.BigEndian.PutUint32(b[4:], uint32(len(n.keys)))
	binary.BigEndian.PutUint64(b[8:], uint64(n.version))
	binary.BigEndian.PutUint64(b[16:], uint64(n.first))
	binary.BigEndian.PutUint64(b[24:], uint64(n.last))
	for _, k := range n.keys {
		b = binary.BigEndian.AppendUint64(b, uint64(k))
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	if _, err := g.file.WriteAt(b, g.size); err != nil {
		return fmt.Errorf("write to the journal of writes: %w", err)
	}
	g.size += int64(len(b))
	g.finished = n.ends()
	return nil
}

// readLog reads a generation, cuts a torn record off the end of its log, and marks the end. When the log is damaged,
// the generation has what is before the damage, and the error is a *damagedError.
func readLog(id uint64, path string) (g *generation, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	g = &generation{
		id: id, path: path, file: f, began: time.Now(), table: newTable(1 << 4), size: headerSize, loaded: true,
	}
	var broken *damagedError
	if err = g.readAll(); err == nil || errors.As(err, &broken) && g.newest > 0 {
		return g, err
	}
	return nil, errors.Join(err, f.Close())
}

func (g *generation) readAll() error {
	info, err := g.file.Stat()
	if err == nil && info.Size() < headerSize { // a process began it, and ended before it wrote anything
		_, err = g.file.WriteAt(header(logMagic), 0)
	}
	if err == nil {
		err = readHeader(g.file, logMagic)
	}
	if err != nil {
		return err
	}
	err = g.readRecords(bufio.NewReaderSize(g.file, 1<<16), info.Size())
	if errors.Is(err, errTorn) {
		marked, failed := endsWithMark(g.file, info.Size())
		switch {
		case failed != nil:
			return failed
		case !marked:
			err = g.file.Truncate(g.size)
		}
	}
	if errors.Is(err, errTorn) || errors.Is(err, errChecksum) {
		return damaged(g.file, fmt.Sprintf("the record at byte %d is damaged", g.size))
	} else if err != nil {
		return err
	}
	return g.finish()
}

// readRecords reads the records of a log of some size. What it has read before an error counts.
func (g *generation) readRecords(r io.Reader, size int64) error {
	type record struct {
		noted
		ended bool
	}
	records := make(map[int64]record) // by where they end
	var failed []noted
	defer func() {
		for _, end := range slices.Sorted(maps.Keys(records)) {
			r := records[end]
			if g.keep(r.noted); !r.ended {
				g.interrupted.add(r.version, r.keys)
			}
		}
		for _, n := range failed {
			g.interrupted.add(n.version, slices.DeleteFunc(n.keys, func(k Key) bool { return g.version(k) >= n.version }))
		}
	}()
	for {
		n, err := readRecord(r, max(0, size-g.size))
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		g.size += recordHeader + 8*int64(len(n.keys))
		if g.finished = n.ends(); g.finished {
			continue
		}
		if len(n.keys) == 0 {
			if r, ok := records[n.last]; ok && n.first < 0 {
				r.ended = true
				records[n.last] = r
			} else if r, ok := records[n.first]; ok { // withdraw wrote it
				failed = append(failed, r.noted)
				delete(records, n.first)
			}
			continue
		}
		records[g.size] = record{noted: n}
		g.keys += len(n.keys)
		g.newest = max(g.newest, n.version)
	}
}

// endsWithMark reports whether a log of some size ends with the mark of finish.
func endsWithMark(f *os.File, size int64) (bool, error) {
	if size < headerSize+recordHeader {
		return false, nil
	}
	end := make([]byte, recordHeader)
	if _, err := f.ReadAt(end, size-recordHeader); err != nil {
		return false, err
	}
	n, err := readRecord(bytes.NewReader(end), recordHeader)
	return err == nil && n.ends(), nil
}

// ends reports whether a record is the mark of finish.
func (n noted) ends() bool { return n.version == 0 && len(n.keys) == 0 }

var (
	errTorn     = errors.New("the record is torn")
	errChecksum = errors.New("the record has another checksum")
)

// readRecord reads one record of a file that has left more bytes. The error is io.EOF at the end, errTorn or
// errChecksum for a record that is not whole, and any other when the disk failed.
func readRecord(r io.Reader, left int64) (n noted, err error) {
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(r, head); err == io.ErrUnexpectedEOF {
		return n, errTorn
	} else if err != nil {
		return n, err
	}
	keys := int64(binary.BigEndian.Uint32(head[4:]))
	if keys > maxRecordKeys || recordHeader+8*keys > left {
		return n, errTorn
	}
	b := make([]byte, 8*keys)
	if _, err := io.ReadFull(r, b); ends(err) {
		return n, errTorn
	} else if err != nil {
		return n, err
	}
	sum := crc32.Update(crc32.Checksum(head[4:], castagnoli), castagnoli, b)
	if sum != binary.BigEndian.Uint32(head) {
		return n, errChecksum
	}
	n = noted{
		version: Version(binary.BigEndian.Uint64(head[8:])), keys: make([]Key, keys),
		first: int64(binary.BigEndian.Uint64(head[16:])), last: int64(binary.BigEndian.Uint64(head[24:])),
	}
	for i := range n.keys {
		n.keys[i] = Key(binary.BigEndian.Uint64(b[8*i:]))
	}
	return n, nil
}

// moveTo writes what was read of a damaged log to a file of its own, and marks its end. The damaged one has another
// name by then.
func (g *generation) moveTo(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	if err != nil {
		return errors.Join(err, g.file.Close())
	}
	old := g.file
	_, err = io.Copy(f, io.NewSectionReader(old, 0, g.size))
	if g.file = f; err == nil {
		err = g.finish()
	}
	if err == nil {
		err = errors.Join(f.Sync(), durable.SyncDir(filepath.Dir(path)))
	}
	if err = errors.Join(err, old.Close()); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	return nil
}
