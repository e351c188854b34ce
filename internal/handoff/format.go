package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"sort"
	"strconv"
	"strings"
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

	asideDir  = "damaged"     // beside the folders of nodes: segments that were given up
	formerDir = "former-node" // likewise: the queues of this node when it had another ID, which follows
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

func (e *CorruptError) Error() string {
	return fmt.Sprintf("hinted handoff queue %s is damaged at byte %d: %s", e.Path, e.Offset, e.Reason)
}

// place is an offset in a segment; the zero value is before all of them.
type place struct {
	segment uint64
	at      int64
}

// behind tells whether the place is behind another one.
func (p place) behind(other place) bool {
	return p.segment > other.segment || p.segment == other.segment && p.at > other.at
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
