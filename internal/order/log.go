package order

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"concord/internal/durable"
)

// The files of a generation; docs/format/order.md describes them.
const (
	logExt, sortedExt     = "log", "sorted"
	logMagic, sortedMagic = "CORL", "CORS"
	fileFormat            = 1
	maxFormat             = 255 // that a later version of this program may have
	headerSize            = 8
	recordHeader          = 4 + 4 + 8 + 8 + 8 // checksum, keys, version, first and last time
	maxRecordKeys         = 1 << 26
	pairSize              = 16
	blockPairs            = 256 // between two keys of the index of a sorted file
	footerSize            = 8 + 8 + 4
)

// generation is what was written within some seconds: the writes in memory, and a log of them on disk. Later it is a
// file sorted by key.
//
// A write that comes in the order of versions is only appended. Few others come in a healthy cluster, and they are
// compared with the few that have greater versions. A table of all keys is made when a late write needs it.
type generation struct {
	id     uint64
	path   string
	began  time.Time
	newest Version
	size   int64 // of the file
	file   *os.File
	n      int // keys in writes
	writes []noted
	table  *table // of the first tabled writes; nil when it is sorted
	tabled int
	sorted bool
	first  []Key // of each block, when it is sorted
	pairs  int64

	syncing sync.Mutex
	synced  int64
}

// noted is what is known of one write.
type noted struct {
	version     Version
	first, last int64 // times of its points, nanoseconds
	keys        []Key
}

// overlaps reports whether two writes may have points in common.
func (n noted) overlaps(o noted) bool { return n.first <= o.last && o.first <= n.last }

// damagedError is for a file that cannot be read. Nothing in it is newer than newest.
type damagedError struct {
	newest Version
	why    string
}

func (e *damagedError) Error() string { return e.why }

// damaged says that a file which was written to until its time is not what it should be.
func damaged(f *os.File, why string) error {
	at := time.Now()
	if info, err := f.Stat(); err == nil {
		at = info.ModTime()
	}
	return &damagedError{AtTime(at.Add(time.Hour)), why}
}

func header(magic string) []byte { return append([]byte(magic), 0, fileFormat, 0, 0) }

func newGeneration(id uint64, dir string) (*generation, error) {
	path := filepath.Join(dir, fmt.Sprintf("%08d.%s", id, logExt))
	g := &generation{id: id, path: path, began: time.Now(), table: newTable(1 << 4)}
	var err error
	if g.file, err = os.OpenFile(g.path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640); err != nil {
		return nil, err
	}
	if _, err = g.file.Write(header(logMagic)); err == nil {
		err = durable.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, g.remove())
	}
	g.size = headerSize
	return g, nil
}

func (g *generation) keys() int {
	if g.sorted {
		return int(g.pairs)
	}
	return g.n
}

// add notes a write, and returns the end of its record.
func (g *generation) add(w noted) (end int64, err error) {
	b := make([]byte, recordHeader, recordHeader+8*len(w.keys))
	binary.BigEndian.PutUint32(b[4:], uint32(len(w.keys)))
	binary.BigEndian.PutUint64(b[8:], uint64(w.version))
	binary.BigEndian.PutUint64(b[16:], uint64(w.first))
	binary.BigEndian.PutUint64(b[24:], uint64(w.last))
	for _, k := range w.keys {
		b = binary.BigEndian.AppendUint64(b, uint64(k))
	}
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	if _, err := g.file.WriteAt(b, g.size); err != nil {
		return 0, fmt.Errorf("write to the journal of writes: %w", err)
	}
	g.size += int64(len(b))
	g.keep(w)
	return g.size, nil
}

func (g *generation) keep(w noted) {
	g.writes = append(g.writes, w)
	g.n += len(w.keys)
	g.newest = max(g.newest, w.version)
}

// fill brings the table up to date.
func (g *generation) fill() {
	for ; g.tabled < len(g.writes); g.tabled++ {
		for _, k := range g.writes[g.tabled].keys {
			g.table.put(k, g.writes[g.tabled].version)
		}
	}
}

// version is the greatest that a key has in it, 0 for none. What cannot be read counts as not there.
func (g *generation) version(key Key) Version {
	if !g.sorted {
		g.fill()
		return g.table.get(key)
	}
	return g.sortedFile().version(key)
}

// sortedFile is where the pairs of a generation are that is sorted. It outlasts changes of the generation: what is read
// after the file is closed counts as not there.
type sortedFile struct {
	file   *os.File
	first  []Key
	pairs  int64
	newest Version
}

func (g *generation) sortedFile() sortedFile { return sortedFile{g.file, g.first, g.pairs, g.newest} }

func (g sortedFile) version(key Key) Version {
	block := sort.Search(len(g.first), func(i int) bool { return g.first[i] > key }) - 1
	if block < 0 {
		return 0
	}
	from := int64(block) * blockPairs
	b := make([]byte, pairSize*min(blockPairs, g.pairs-from))
	if _, err := g.file.ReadAt(b, headerSize+from*pairSize); err != nil {
		return 0
	}
	n := len(b) / pairSize
	at := func(i int) Key { return Key(binary.BigEndian.Uint64(b[i*pairSize:])) }
	if i := sort.Search(n, func(i int) bool { return at(i) >= key }); i < n && at(i) == key {
		return Version(binary.BigEndian.Uint64(b[i*pairSize+8:]))
	}
	return 0
}

// sync returns when the file is on disk up to end; 0 is all of it.
func (g *generation) sync(end int64) error {
	g.syncing.Lock()
	defer g.syncing.Unlock()
	if end != 0 && g.synced >= end {
		return nil
	}
	size := g.size // a later record may not be counted, and is synced again
	err := g.file.Sync()
	if errors.Is(err, os.ErrClosed) {
		return nil // it was sorted, or forgotten: either is on disk
	}
	if err != nil {
		return fmt.Errorf("write to the journal of writes: %w", err)
	}
	g.synced = max(g.synced, size, end)
	return nil
}

// sort replaces the table and the log by a file sorted by key.
func (g *generation) sort() error {
	g.fill()
	pairs := g.table.sorted()
	path := filepath.Join(filepath.Dir(g.path), fmt.Sprintf("%08d.%s", g.id, sortedExt))
	err := durable.Replace(path, path+".tmp", 0o640, func(f *os.File) error { return writeSorted(f, pairs, g.newest) })
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	old, oldPath := g.file, g.path
	g.file, g.path, g.table, g.writes, g.sorted = f, path, nil, nil, true
	g.pairs, g.size = int64(len(pairs)), headerSize+int64(len(pairs))*pairSize+footerSize
	for i := 0; i < len(pairs); i += blockPairs {
		g.first = append(g.first, pairs[i].key)
	}
	return errors.Join(old.Close(), os.Remove(oldPath))
}

// writeSorted writes what the file of a sorted generation has.
func writeSorted(f *os.File, pairs []pair, newest Version) error {
	sum := crc32.New(castagnoli)
	w := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<16)
	w.Write(header(sortedMagic))
	var b []byte
	for _, p := range pairs {
		b = binary.BigEndian.AppendUint64(b[:0], uint64(p.key))
		w.Write(binary.BigEndian.AppendUint64(b, uint64(p.version)))
	}
	b = binary.BigEndian.AppendUint64(b[:0], uint64(len(pairs)))
	w.Write(binary.BigEndian.AppendUint64(b, uint64(newest)))
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := f.Write(binary.BigEndian.AppendUint32(nil, sum.Sum32()))
	return err
}

func (g *generation) close() error { return g.file.Close() }

func (g *generation) remove() error { return errors.Join(g.file.Close(), os.Remove(g.path)) }

func readHeader(f *os.File, magic string) error {
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(f, b); err != nil {
		return damaged(f, "the file is too short")
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

// moveTo writes what was read of a damaged log, which is elsewhere by now, to a file of its own.
func (g *generation) moveTo(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	if err != nil {
		return errors.Join(err, g.file.Close())
	}
	if _, err = io.Copy(f, io.NewSectionReader(g.file, 0, g.size)); err == nil {
		err = errors.Join(f.Sync(), durable.SyncDir(filepath.Dir(path)))
	}
	if err = errors.Join(err, g.file.Close()); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	g.file = f
	return nil
}

// finish marks the end of a log to which nothing is added any more, by a record without keys. So a record that is cut
// short is known for damage there, and not for one that a crash tore.
func (g *generation) finish() error {
	if g.sorted {
		return nil
	}
	b := make([]byte, recordHeader)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	if _, err := g.file.WriteAt(b, g.size); err != nil {
		return fmt.Errorf("write to the journal of writes: %w", err)
	}
	g.size += int64(len(b))
	return nil
}

// finished reports whether a log of some size ends with the mark of finish.
func finished(f *os.File, size int64) bool {
	if size < headerSize+recordHeader {
		return false
	}
	end := make([]byte, recordHeader)
	if _, err := f.ReadAt(end, size-recordHeader); err != nil {
		return false
	}
	w, err := readRecord(bytes.NewReader(end), recordHeader)
	return err == nil && len(w.keys) == 0
}

// readLog reads a generation that is not sorted, and cuts a torn record off its end. When the file is damaged, the
// generation has what is before the damage, and the error is a *damagedError.
func readLog(id uint64, path string) (*generation, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	g := &generation{id: id, path: path, file: f, began: time.Now(), table: newTable(1 << 4), size: headerSize}
	info, err := f.Stat()
	if err == nil && info.Size() < headerSize {
		// It was begun by a process that ended, and has nothing.
		if _, err = f.WriteAt(header(logMagic), 0); err == nil {
			_, err = f.Seek(0, io.SeekStart)
		}
	}
	if err == nil {
		err = readHeader(f, logMagic)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r := bufio.NewReaderSize(f, 1<<16)
	for {
		w, err := readRecord(r, max(0, info.Size()-g.size))
		if err == io.EOF {
			return g, nil
		} else if errors.Is(err, errTorn) && !finished(f, info.Size()) {
			if err := f.Truncate(g.size); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return g, nil
		} else if err != nil {
			return g, damaged(f, fmt.Sprintf("the record at byte %d is damaged", g.size))
		}
		g.keep(w)
		g.size += recordHeader + 8*int64(len(w.keys))
	}
}

var (
	errTorn     = errors.New("the record is torn")
	errChecksum = errors.New("the record has another checksum")
)

// readRecord reads the keys of one write, of a file that has left more bytes.
func readRecord(r io.Reader, left int64) (w noted, err error) {
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(r, head); err == io.EOF {
		return w, io.EOF
	} else if err != nil {
		return w, errTorn
	}
	n := int64(binary.BigEndian.Uint32(head[4:]))
	if n > maxRecordKeys || recordHeader+8*n > left {
		return w, errTorn
	}
	b := make([]byte, 8*n)
	if _, err := io.ReadFull(r, b); err != nil {
		return w, errTorn
	}
	sum := crc32.Update(crc32.Checksum(head[4:], castagnoli), castagnoli, b)
	if sum != binary.BigEndian.Uint32(head) {
		return w, errChecksum
	}
	w = noted{
		version: Version(binary.BigEndian.Uint64(head[8:])), keys: make([]Key, n),
		first: int64(binary.BigEndian.Uint64(head[16:])), last: int64(binary.BigEndian.Uint64(head[24:])),
	}
	for i := range w.keys {
		w.keys[i] = Key(binary.BigEndian.Uint64(b[8*i:]))
	}
	return w, nil
}

// openSorted opens a sorted file, and verifies all of it.
func openSorted(id uint64, path string) (*generation, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	g := &generation{id: id, path: path, file: f, began: time.Now(), sorted: true}
	if err := g.verify(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return g, nil
}

func (g *generation) verify() error {
	info, err := g.file.Stat()
	if err != nil {
		return err
	}
	g.size = info.Size()
	g.pairs = (g.size - headerSize - footerSize) / pairSize
	if g.size < headerSize+footerSize || headerSize+g.pairs*pairSize+footerSize != g.size {
		return damaged(g.file, "the file has the wrong length")
	}
	if err := readHeader(g.file, sortedMagic); err != nil {
		return err
	}
	sum := crc32.New(castagnoli)
	sum.Write(header(sortedMagic))
	r := bufio.NewReaderSize(g.file, 1<<16)
	pair := make([]byte, pairSize)
	for i := range g.pairs + 1 { // the last one is of the footer
		if _, err := io.ReadFull(r, pair); err != nil {
			return err
		}
		sum.Write(pair)
		switch {
		case i == g.pairs:
			g.newest = Version(binary.BigEndian.Uint64(pair[8:]))
		case i%blockPairs == 0:
			g.first = append(g.first, Key(binary.BigEndian.Uint64(pair)))
		}
	}
	if _, err := io.ReadFull(r, pair[:4]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(pair) != sum.Sum32() {
		return damaged(g.file, "the checksum is wrong")
	}
	return nil
}

// table maps keys to their greatest versions. It is an open table: at 16 bytes a slot it is a third of a map's size.
type table struct {
	slots []pair
	n     int
}

type pair struct {
	key     Key
	version Version
}

func newTable(slots int) *table { return &table{slots: make([]pair, slots)} }

// slot returns where a key is, or belongs.
func (t *table) slot(key Key) *pair {
	mask := uint64(len(t.slots) - 1)
	for i := uint64(key) & mask; ; i = (i + 1) & mask {
		if s := &t.slots[i]; s.key == key || s.key == 0 {
			return s
		}
	}
}

func (t *table) get(key Key) Version { return t.slot(key).version }

func (t *table) put(key Key, v Version) {
	s := t.slot(key)
	if s.key == 0 {
		if t.n++; 2*t.n > len(t.slots) {
			old := t.slots
			t.slots = make([]pair, 2*len(old))
			for _, p := range old {
				if p.key != 0 {
					*t.slot(p.key) = p
				}
			}
			s = t.slot(key)
		}
		s.key = key
	}
	s.version = max(s.version, v)
}

func (t *table) sorted() []pair {
	out := make([]pair, 0, t.n)
	for _, p := range t.slots {
		if p.key != 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	return out
}
